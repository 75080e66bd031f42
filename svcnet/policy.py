"""A Service's fields → the policy that this minion obeys, and what of it is refused. Pure.

Owns: which addresses a record may claim, which source ranges count, what the balance annotation means to a kernel.
"""

from ipaddress import ip_network
from typing import NamedTuple

from svcnet.endpoints import Networks
from svcnet.model.policy import PLAIN, Policy
from svcnet.model.service import Service
from svcnet.model.snapshot import LeftOut
from svcnet.terms import terms_of

HIDING = frozenset({"service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"})
"""A Service with one of these labels, whatever its value, is not kube-proxy's to serve: its names alone are ours."""
_IPV4 = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32")
_IPV6 = ("::/127", "fe80::/10", "ff00::/8")
SPECIAL = Networks(map(ip_network, (*_IPV4, *_IPV6)))
"""What no record may claim, whoever allows it, as in Kubernetes (validation of externalIPs): unspecified, loopback,
where the minion's own programs talk to themselves, link-local, where metadata is, multicast and broadcast."""


class Judged(NamedTuple):
    """The policy of one family, and what was left out of it."""

    policy: Policy
    left_out: tuple[LeftOut, ...] = ()


def policy_of(service: Service, family: int, external: Networks) -> Judged:
    """Work out one service in one family (4 or 6); `external`: what records may claim (--external-ips)."""
    if _is_plain(service):
        return Judged(PLAIN)
    left_out: list[LeftOut] = []

    def allowed(addresses: tuple[str, ...], what: str) -> tuple[str, ...]:
        mine = dict.fromkeys(a for a in addresses if (":" in a) == (family == 6))
        refused = {a: why for a in mine if (why := _refusal(a, external))}
        left_out.extend(LeftOut(f"{what} {a} of {service.key}", why) for a, why in refused.items())
        return tuple(a for a in mine if a not in refused)

    balancer = service.type == "LoadBalancer"
    ingress = tuple(i.ip for i in service.ingress if i.ip and i.ip_mode == "VIP") if balancer else ()
    terms = terms_of(service.meta.annotations)
    reachable = service.type in {"NodePort", "LoadBalancer"} or bool(service.external_ips)
    policy = Policy(
        external_ips=allowed(service.external_ips, "external IP"),
        load_balancer_ips=allowed(ingress, "load-balancer address"),
        source_ranges=_ranges(service.load_balancer_source_ranges, family) if balancer else (),
        internal_local=service.internal_traffic_policy == "Local",
        external_local=reachable and service.external_traffic_policy == "Local",
        affinity=service.session_affinity_seconds if service.session_affinity == "ClientIP" else None,
        source_hash=terms.balance == "source-hash",
        health_port=service.health_check_node_port if balancer and service.external_traffic_policy == "Local" else 0,
        terms=terms,
        elsewhere=_is_hidden(service),
    )
    return Judged(policy, tuple(left_out))


def _refusal(address: str, external: Networks) -> str:
    if external.holding(address) is None:
        return "not in --external-ips"
    network = SPECIAL.holding(address)
    return f"{network} is no service's, whatever --external-ips allows" if network else ""


def _is_plain(service: Service) -> bool:
    return (
        service.type == "ClusterIP"
        and not service.external_ips
        and service.internal_traffic_policy == "Cluster"
        and service.session_affinity == "None"
        and not service.meta.annotations
        and not _is_hidden(service)
    )


def _is_hidden(service: Service) -> bool:
    return any(key in HIDING for key, _ in service.meta.labels)


def _ranges(texts: tuple[str, ...], family: int) -> tuple[str, ...]:
    """Those of the family; a range that holds every address of it means that there is no limit."""
    mine = sorted({t.strip() for t in texts if (":" in t) == (family == 6)})
    return () if any(t.endswith("/0") for t in mine) else tuple(mine)
