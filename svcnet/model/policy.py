"""How a service wants its traffic treated, beyond where it goes: the same for all of its ports in one family."""

import msgspec

from svcnet.model.terms import USUAL, Terms


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What this minion obeys. Addresses and networks are canonical text, of one family."""

    external_ips: tuple[str, ...] = ()
    """Service.spec.externalIPs that the operator lets records claim."""
    load_balancer_ips: tuple[str, ...] = ()
    """Service.status.loadBalancer.ingress[].ip of ipMode VIP, likewise."""
    source_ranges: tuple[str, ...] = ()
    """Who may come through a load balancer's address; () is everyone."""
    internal_local: bool = False
    """internalTrafficPolicy Local: the virtual IP leads to endpoints of this minion alone."""
    external_local: bool = False
    """externalTrafficPolicy Local: clients from outside reach endpoints of this minion, with their own source."""
    affinity: int | None = None
    """sessionAffinity ClientIP: for so many seconds after its last connection a client stays; 0: for ever."""
    source_hash: bool = False
    """svcnet.dev/balance: source-hash."""
    health_port: int = 0
    """healthCheckNodePort; 0: none."""
    terms: Terms = USUAL
    """What the userspace proxy obeys beyond that."""
    elsewhere: bool = False
    """Label service.kubernetes.io/service-proxy-name or …/headless: another proxy serves it; names alone are ours."""


PLAIN = Policy()
"""Nearly every service's."""
