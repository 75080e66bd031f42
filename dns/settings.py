"""What a DNS worker is told when it starts. Pure.

Owns: the first frame on a worker's feed.
"""

from ipaddress import ip_network

import msgspec

from svcnet.dns.records import SPEC, Serving
from svcnet.dns.upstream import MOST_FAILED_PROBES, MOST_IN_FLIGHT, SEQUENTIAL, Server
from svcnet.dns.zone import VERIFIED, Shape
from svcnet.endpoints import Networks


class Settings(msgspec.Struct, frozen=True):
    """Options as text and numbers; () of `upstreams` refuses other names."""

    zones: tuple[str, ...] = ("svc",)
    cluster_domain: str = "cluster.local"
    reverse: tuple[str, ...] = ()
    """CIDRs whose reverse zones are ours."""
    servers: tuple[str, ...] = ()
    """Addresses of this server, as its NS says them."""
    node: str = ""
    """Which minion this is: its own endpoints come first."""
    ttls: tuple[tuple[str, int], ...] = ()
    """(zone, seconds), zone "" the others."""
    endpoints: bool = True
    """Whether endpoints have names, and headless services."""
    pod_names: bool = False
    """Whether endpoints are called as their pods."""
    empty_services: str = SPEC
    pods: str = VERIFIED
    onward: tuple[str, ...] = ()
    """Zones of which names that are not there go upstream; "" is every zone."""
    upstreams: tuple[Server, ...] = ()
    policy: str = SEQUENTIAL
    """In which order they are asked."""
    max_fails: int = MOST_FAILED_PROBES
    """So many probes fail before a server counts as down; 0: it never does."""
    most_in_flight: int = MOST_IN_FLIGHT
    """Questions upstream."""
    trusted: tuple[str, ...] = ()
    """Names whose answers from upstream may hold private addresses; "" is every name."""
    secret: str = ""
    """Hexadecimal, by which a daemon knows its own questions when they come back; workers share it."""
    allow: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    transfer_to: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    notify: tuple[tuple[str, int], ...] = ()
    number: int = 0
    """Of this worker; the first one notifies, once all serve what it tells of."""
    serials: int = -1
    """The descriptor of the block of svcnet.dns.serials; -1: there is but this worker."""
    log_every: int = 0
    """One query of so many is logged; 0: none."""
    owner: str = ""
    """Whose worker it is: the state directory of the daemon."""

    @property
    def shape(self) -> Shape:
        """The zones."""
        reverse = tuple(map(ip_network, self.reverse))
        serving = Serving(self.endpoints, self.empty_services, self.pod_names)
        onward = self.onward if self.upstreams else ()
        zones = self.zones, self.cluster_domain, reverse
        return Shape(*zones, self.servers, self.ttls, self.node, serving, self.pods, onward)

    @property
    def allowed(self) -> Networks:
        """Who may ask."""
        return Networks(map(ip_network, self.allow))

    @property
    def transferable(self) -> Networks:
        """Who may transfer zones."""
        return Networks(map(ip_network, self.transfer_to))
