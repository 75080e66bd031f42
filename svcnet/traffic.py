"""Connections and bytes by service and by endpoint, from what was seen of flows. Pure.

Owns: whose a flow is, the totals, and how many of them are told apart. Must not know where flows are seen (the
connection table, a proxy) nor how totals are shown.

A total never falls. A service has one of its own, which an endpoint that goes takes nothing from. What is past the
limit is counted together, as `OTHER`.
"""

from collections.abc import Iterable, Iterator
from operator import add
from typing import NamedTuple

from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import Delta, PortKey, ServedPort, Snapshot
from svcnet.tracker import NODE_PORT

MOST = 2000
"""Most service ports that are told apart, and most endpoints, unless the operator says otherwise."""


class Seen(NamedTuple):
    """What was seen of flows from one frontend to one endpoint (address, port) since the last time."""

    front: Frontend
    backend: tuple[str, int]
    connections: int = 0
    bytes_in: int = 0
    """From clients to the endpoint, headers of the network layer included."""
    bytes_out: int = 0
    proxied: tuple[tuple[int, ...], ...] = ()
    """What the userspace proxy counts beside (svcnet/proxy/counts.py: cells, then the buckets of two histograms). Not
    (): it was the proxy that carried it."""


class Total:
    """Sums since the start."""

    __slots__ = ("bytes_in", "bytes_out", "connections", "proxied")

    def __init__(self) -> None:
        self.connections = self.bytes_in = self.bytes_out = 0
        self.proxied: tuple[tuple[int, ...], ...] = ()

    def copy(self) -> "Total":
        """As it is at this moment."""
        found = Total()
        found.connections, found.bytes_in, found.bytes_out = self.connections, self.bytes_in, self.bytes_out
        found.proxied = self.proxied
        return found

    def add(self, seen: Seen) -> None:
        """Count."""
        self.connections += seen.connections
        self.bytes_in += seen.bytes_in
        self.bytes_out += seen.bytes_out
        if seen.proxied:
            mine = self.proxied or seen.proxied
            self.proxied = seen.proxied if mine is seen.proxied else tuple(map(_sum, mine, seen.proxied))


class ServiceId(NamedTuple):
    """A service port in all of its families, as labels."""

    namespace: str
    service: str
    protocol: str
    """tcp, udp or sctp; "" of OTHER."""
    port: str

    @classmethod
    def of(cls, key: PortKey) -> "ServiceId":
        """Whose series a service port is in."""
        return cls(key.namespace, key.service, key.protocol.lower(), str(key.port))


OTHER = ServiceId("", "other", "", "")
"""Who is past the limit. No service has the namespace ""."""
OTHER_ENDPOINT = "other"


class _Account:
    __slots__ = ("endpoints", "total")

    def __init__(self) -> None:
        self.total = Total()
        self.endpoints: dict[tuple[str, int], Total] = {}


class Traffic:
    """The totals. `count` and `follow` belong to one thread; both cost O(what they are given)."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._snapshot = Snapshot()
        self._accounts: dict[ServiceId, _Account] = {}
        self._endpoints = 0
        self._other, self._other_endpoints = Total(), Total()
        self._leading: dict[PortKey, set[tuple[str, int]]] = {}
        self.bytes_known = False
        """Whether bytes were ever counted: the operator decides."""
        self.is_proxied = False
        """Whether the userspace proxy counts all there is; else some services may have what it alone knows."""
        self.lost = 0
        """Messages about flows that never came."""

    def follow(self, snapshot: Snapshot, delta: Delta) -> None:
        """Serve this snapshot from now on: the series of what is gone end."""
        self._snapshot = snapshot
        for old, new in (*delta.changed, *((port, None) for port in delta.removed)):
            mine = ServiceId.of(old.key)
            account = self._accounts.get(mine)
            if account is None:
                continue
            for backend in _backends(old) - (_backends(new) if new else set()):
                self._endpoints -= account.endpoints.pop(backend, None) is not None
            if not any(old.key._replace(family=family) in snapshot.ports for family in (4, 6)):
                del self._accounts[mine]

    def count(self, flows: Iterable[Seen]) -> None:
        """Add what was seen. A flow to a frontend that nobody has is not ours."""
        for seen in flows:
            port = self._port(seen)
            if port is not None:
                self._add(port, seen)
        self._leading.clear()

    def services(self) -> Iterator[tuple[ServiceId, Total]]:
        """Every service with traffic, in the order of their first; OTHER last, if there is any."""
        for mine, account in self._accounts.items():
            yield mine, account.total
        if _has_any(self._other):
            yield OTHER, self._other

    def endpoints(self) -> Iterator[tuple[ServiceId, str, Total]]:
        """Every endpoint in use with traffic, as ADDRESS:PORT; OTHER last, if there is any."""
        for mine, account in self._accounts.items():
            for (address, port), total in account.endpoints.items():
                yield mine, f"[{address}]:{port}" if ":" in address else f"{address}:{port}", total
        if _has_any(self._other_endpoints):
            yield OTHER, OTHER_ENDPOINT, self._other_endpoints

    def _port(self, seen: Seen) -> ServedPort | None:
        family, address, protocol, port = seen.front
        here, ports = self._snapshot.by_address, self._snapshot.ports
        protocol = protocol.upper()
        key = here.get((address, protocol, port))
        if key is not None:
            return ports.get(key)
        # On any address of the minion: where such a flow leads says that we sent it there, and not another program.
        key = here.get((NODE_PORT[family], protocol, port))
        served = ports.get(key) if key is not None else None
        return served if served is not None and (seen.proxied or self._leads(served, seen.backend)) else None

    def _leads(self, port: ServedPort, backend: tuple[str, int]) -> bool:
        """Whether it is an endpoint of this service now; one with thousands is gone through once a `count`."""
        backends = self._leading.get(port.key)
        if backends is None:
            backends = self._leading[port.key] = _backends(port)
        return backend in backends

    def _add(self, port: ServedPort, seen: Seen) -> None:
        mine = ServiceId.of(port.key)
        account = self._accounts.get(mine)
        if account is None and len(self._accounts) < self._most:
            account = self._accounts[mine] = _Account()
        (account.total if account else self._other).add(seen)
        total = account.endpoints.get(seen.backend) if account else None
        if total is None and not self._leads(port, seen.backend):
            return  # it went meanwhile: its service has it
        if total is None and account and self._endpoints < self._most:
            total = account.endpoints[seen.backend] = Total()
            self._endpoints += 1
        (total or self._other_endpoints).add(seen)


def _has_any(total: Total) -> bool:
    return bool(total.connections or total.bytes_in or total.proxied)


def _sum(ours: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(add, ours, more))


def _backends(port: ServedPort) -> set[tuple[str, int]]:
    return {(e.address, e.port) for e in (*port.endpoints, *port.local)}
