"""What the Tracker works out: service ports, the endpoints that this minion uses, what changed."""

from typing import NamedTuple

import msgspec
from immutables import Map

from svcnet.model.check import Probe
from svcnet.model.level import Levels
from svcnet.model.meta import Key, Pairs
from svcnet.model.policy import PLAIN, Policy
from svcnet.model.service import Service


class PortKey(NamedTuple):
    """One port of one service in one address family (4 or 6): the unit that every component works on."""

    namespace: str
    service: str
    protocol: str
    port: int
    family: int

    def __str__(self) -> str:
        """NAMESPACE/SERVICE PROTO/PORT, with the family when it is 6."""
        return (
            f"{self.namespace}/{self.service} {self.protocol.lower()}/{self.port}{'' if self.family == 4 else ' IPv6'}"
        )


class Endpoint(NamedTuple):
    """Where a service port leads. `address` is canonical text, `weight` 0..256.

    `port` is 1..65535; 0 for a headless service without ports (Service.served_ports).
    """

    address: str
    port: int
    node: str = ""
    zone: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    weight: int = 1
    hostname: str = ""
    target: str = ""


class ServedPort(msgspec.Struct, frozen=True):
    """A service port with what this minion does for it."""

    key: PortKey
    name: str
    virtual_ip: str
    """"" for headless services and names: no rules, DNS only."""
    endpoints: tuple[Endpoint, ...]
    """Those that traffic may go to now, sorted; () means refused."""
    node_port: int = 0
    local: tuple[Endpoint, ...] = ()
    """Those of this minion, sorted, where a policy asks for them."""
    policy: Policy = PLAIN
    lingering: tuple[Endpoint, ...] = ()
    """Others that still serve, sorted: no new connection goes there, those that are open may go on."""
    probes: tuple[Probe, ...] = ()
    """Health checks that are this minion's to make, sorted."""
    levels: Levels = ()
    """Which of the endpoints are near, where annotation `locality` asks for that."""


class LeftOut(NamedTuple):
    """A record, or one address of it, that is not served, and why (`/status` left_out)."""

    what: str
    reason: str


class Held(NamedTuple):
    """A list that the brake holds: `missing` of `known` services were absent from it (architecture, decision 9)."""

    missing: int
    known: int
    rev: int


class Snapshot(msgspec.Struct, frozen=True):
    """The state at one revision. Maps are persistent: a new Snapshot shares all that did not change."""

    rev: int = 0
    services: Map[Key, Service] = Map()
    ports: Map[PortKey, ServedPort] = Map()
    by_address: Map[tuple[str, str, int], PortKey] = Map()
    """(address, protocol, port) → who answers there."""
    census: Map[Key, Pairs] = Map()
    """Namespaces that exist, with their labels, and addresses that pods have (kind Address; namespace, address), with
    (): for DNS."""
    zone: str = ""
    """This minion's topology zone."""


class Delta(msgspec.Struct, frozen=True):
    """What changed between two snapshots. A change is (before, after)."""

    rev: int
    added: tuple[ServedPort, ...] = ()
    changed: tuple[tuple[ServedPort, ServedPort], ...] = ()
    removed: tuple[ServedPort, ...] = ()
    services: tuple[tuple[Service | None, Service | None], ...] = ()
    """Service records (before, after) that differ; None is absent."""
    census: tuple[Key, ...] = ()
    """What came into the snapshot's census, left it, or has other labels."""

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.added or self.changed or self.removed or self.services or self.census)
