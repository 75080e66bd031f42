"""How the userspace proxy is to carry a service's connections, as its `svcnet.dev/…` annotations ask.

Owns: the values, with their defaults. Plain tuples, as workers read them too, which import nothing big.
"""

from typing import NamedTuple


class Eject(NamedTuple):
    """When an endpoint that fails dials gets no new connections for a while (annotation `eject`)."""

    failures: int = 3
    """So many in a row."""
    base_seconds: float = 5.0
    """For so long the first time, twice as long each next time."""
    most_seconds: float = 300.0
    share: int = 50
    """Per cent of the endpoints that may be out at a time; beyond it all are used."""


class EndpointLimit(NamedTuple):
    """How many connections an endpoint may have, and who waits beyond (annotation `max-connections-per-endpoint`)."""

    connections: int
    queue: int = 1000
    """So many clients may wait."""
    seconds: float = 5.0
    """For so long each."""
    abort_on_close: bool = False
    """Who says that he has no more to say while he waits is taken to be gone."""


class Locality(NamedTuple):
    """Nearer endpoints come first (annotation `locality`)."""

    first: str
    """`node`: this minion's, then its zone's, then all others; `zone`: without the first step."""
    share: int = 70
    """Per cent of a step that must be well for all of its traffic to stay there; of less, the rest goes further."""


class Terms(NamedTuple):
    """Of one service. 0 and "" stand for what the proxy does without the annotation."""

    balance: str = ""
    """`random`, `roundrobin`, `leastconn` or `source-hash`."""
    connect_seconds: tuple[float, ...] = ()
    """How long each dial of a connection may take."""
    idle_seconds: float = 0.0
    half_closed_seconds: float = 0.0
    drain_seconds: float | None = None
    """How long connections to an endpoint that is gone may go on; None: as long as they like."""
    most_connections: int = 0
    """Of each worker's share; beyond it clients wait in the kernel's queue."""
    send_proxy: str = ""
    """`v1` or `v2`: a PROXY header comes before the client's bytes."""
    eject: Eject | None = Eject()
    """None: never."""
    hedge_seconds: float = 0.0
    """A dial without an answer for so long gets a second one beside it."""
    slow_start_seconds: float = 0.0
    """An endpoint that is new, or back, gets its share over so long."""
    userspace: bool = False
    """`proxy: userspace`: not by the kernel, whatever the mode."""
    accept_proxy: tuple[str, ...] = ()
    """Networks of peers that begin with a PROXY header, which says whose client it is."""
    endpoint_limit: EndpointLimit | None = None
    """Of each worker's share."""
    locality: Locality | None = None
    most_rate: int = 0
    """New connections a second, of each worker's share; beyond it clients wait in the kernel's queue."""
    udp_replies: int = 0
    """A flow is over when so many replies came for each of its datagrams."""

    @property
    def share(self) -> int:
        """Of `locality`; 0: it is not asked for."""
        return self.locality.share if self.locality is not None else 0

    @property
    def needs_userspace(self) -> bool:
        """Whether no kernel path can carry this out (contract, annotations)."""
        return self.userspace or self.balance in {"roundrobin", "leastconn"} or self.locality is not None


USUAL = Terms()
"""Nearly every service's."""
