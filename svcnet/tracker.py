"""Events in, snapshots and deltas out. Pure: no clock, no I/O.

Owns: which record touches which service (indexes both ways), so that one changed record costs its own services and
nothing else; who holds an address; the brake on lists (architecture, decision 9).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

from immutables import MapMutation
from msgspec import structs

from svcnet.census import Census
from svcnet.endpoints import (
    NONE_FAILS,
    NONE_FAILS_ELSEWHERE,
    Networks,
    Site,
    Source,
    endpoints_of,
    has_hints,
    locality_of,
)
from svcnet.membership import Membership
from svcnet.model.endpoint import Endpoints, EndpointSlice
from svcnet.model.event import Delete, Event, Put, Synced, Verdict
from svcnet.model.meta import Key
from svcnet.model.node import Node
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.model.snapshot import Delta, Held, LeftOut, PortKey, ServedPort, Snapshot
from svcnet.policy import policy_of
from svcnet.topology import Place

BRAKE_LEAST = 10
"""A list that lacks fewer services than this is never held."""

Address = tuple[str, str, int]
"""(address, protocol, port); a NODE_PORT stands for the addresses of every minion."""
K = TypeVar("K")
NODE_PORT = {4: "node port", 6: "IPv6 node port"}
NOTHING = Networks(())


class Tracker:
    """The state of all records, as this minion serves it."""

    def __init__(self, deny: Networks, node: str = "", external: Networks = NOTHING) -> None:
        """`deny`: endpoints that are never served; `node`: which minion this is; `external`: what may be claimed."""
        self.snapshot = Snapshot()
        self.synced = False
        """Whether a list was complete: nothing is deleted from the kernel before."""
        self.held: Held | None = None
        self.endpoints = 0
        self._external = external
        self._zones: dict[str, str] = {}
        self._site = Site(Place(node), self._zones, deny)
        self._records: dict[Key, Record] = {}
        self._services = 0
        self._missing: set[Key] = set()
        self._sources: dict[Key, dict[Key, Source]] = {}
        self._members = Membership()
        self._census = Census()
        self._ports: dict[Key, tuple[ServedPort, ...]] = {}
        self._left_out: dict[Key, tuple[LeftOut, ...]] = {}
        self._waiting: defaultdict[Address, set[Key]] = defaultdict(set)
        self._failing: dict[Key, dict[tuple[str, int], str]] = {}
        """Endpoints of a service that fail our health checks, and why."""
        self._failing_elsewhere: dict[Key, dict[tuple[str, int, str], str]] = {}
        """(address, port, minion) of those that fail another minion's."""

    def fold(self, events: Iterable[Event]) -> Delta:
        """Take events in; return what they changed (perhaps nothing) and move `snapshot` on. O(what they touch)."""
        dirty: dict[Key, Service | None] = {}
        rev = self.snapshot.rev
        for event in events:
            match event:
                case Put(record, at):
                    rev = max(rev, at)
                    self._missing.discard(record.key)
                    self._put(record, dirty)
                case Delete(key, at):
                    rev = max(rev, at)
                    self._missing.discard(key)
                    self._drop(key, dirty)
                case Synced(at, keys):
                    rev = max(rev, at)
                    self._listed(keys, at, dirty)
                case Verdict():
                    self._judge(event, dirty)
                case _:
                    continue
        return self._advance(rev, dirty)

    def release(self) -> Delta:
        """Let a held list through."""
        dirty: dict[Key, Service | None] = {}
        for key in sorted(self._missing):
            self._drop(key, dirty)
        self._missing.clear()
        self.held = None
        return self._advance(self.snapshot.rev, dirty)

    def records(self) -> Iterator[Record]:
        """Everything known, held records included."""
        return iter(tuple(self._records.values()))  # a copy: a fold may run in another thread meanwhile

    def get(self, key: Key) -> Record | None:
        """One record."""
        return self._records.get(key)

    def left_out(self) -> tuple[LeftOut, ...]:
        """What is not served, and why."""
        return tuple(item for items in list(self._left_out.values()) for item in items)

    def verdicts(self) -> Iterator[Verdict]:
        """Who fails a health check."""
        for service, failing in tuple(self._failing.items()):
            for (address, port), why in sorted(failing.items()):
                yield Verdict(service, address, port, why)

    def ports_of(self, service: Key) -> tuple[ServedPort, ...]:
        """The served ports of one service."""
        return self._ports.get(service, ())

    def _judge(self, verdict: Verdict, dirty: dict[Key, Service | None]) -> None:
        if verdict.node and verdict.node == self._site.place.node:
            return  # our own words, which the store says again
        where = (verdict.address, verdict.port)
        if verdict.node:
            _note(self._failing_elsewhere, verdict.service, (*where, verdict.node), verdict.why)
        else:
            _note(self._failing, verdict.service, where, verdict.why)
        dirty.setdefault(verdict.service, self.snapshot.services.get(verdict.service))

    def _listed(self, keys: frozenset[Key], rev: int, dirty: dict[Key, Service | None]) -> None:
        missing = self._records.keys() - keys
        services = sum(key.kind == "Service" for key in missing)
        if services >= BRAKE_LEAST and services * 2 > self._services:
            self.held = Held(services, self._services, rev)
            self._missing = set(missing)
        else:
            self.held = None
            self._missing = set()
            for key in missing:
                self._drop(key, dirty)
        self.synced = True

    def _put(self, record: Record, dirty: dict[Key, Service | None]) -> None:
        key = record.key
        old = self._records.get(key)
        if old == record:
            return
        if old is None and key.kind == "Service":
            self._services += 1
        self._records[key] = record
        self._touch(key, old, record, dirty)

    def _drop(self, key: Key, dirty: dict[Key, Service | None]) -> None:
        old = self._records.pop(key, None)
        if old is None:
            return
        if key.kind == "Service":
            self._services -= 1
        self._touch(key, old, None, dirty)

    def _touch(self, key: Key, old: Record | None, new: Record | None, dirty: dict[Key, Service | None]) -> None:
        """Mark the services that a change of one record concerns, and keep the indexes."""
        touched: set[Key] = set()
        self._census.note(old, new)
        match new or old:
            case Service():
                self._members.set_service(key, new.selector if isinstance(new, Service) else ())
                touched.add(key)
            case Pod():
                touched |= self._members.set_pod(key, new if isinstance(new, Pod) else None)
            case EndpointSlice() | Endpoints():
                touched |= self._source(key, old, new)
            case Node():
                touched |= self._node(key.name, new.zone if isinstance(new, Node) else "")
        for service in touched:
            dirty.setdefault(service, self.snapshot.services.get(service))

    def _node(self, name: str, zone: str) -> set[Key]:
        """A minion has (or lost) a zone, which is rare: whatever may look at zones is worked out again."""
        if self._zones.get(name, "") == zone:
            return set()
        self._zones[name] = zone
        if name == self._site.place.node:
            self._site = self._site._replace(place=Place(name, zone))
            self.snapshot = structs.replace(self.snapshot, zone=zone)
        hinted = {s for s, sources in self._sources.items() if any(has_hints(source) for source in sources.values())}
        return {key for key in self._ports if key in hinted or key not in self._sources or self._prefers(key)}

    def _prefers(self, key: Key) -> bool:
        record = self._records.get(key)
        return isinstance(record, Service) and bool(record.traffic_distribution or locality_of(record))

    def _source(self, key: Key, old: Record | None, new: Record | None) -> set[Key]:
        touched: set[Key] = set()
        self._left_out.pop(key, None)
        for record, there in ((old, False), (new, True)):
            if not isinstance(record, EndpointSlice | Endpoints):
                continue
            name = record.service if isinstance(record, EndpointSlice) else record.meta.name
            if not name:
                if there:
                    self._left_out[key] = (LeftOut(str(key), "it has no label kubernetes.io/service-name"),)
                continue
            service = Key("Service", key.namespace, name)
            touched.add(service)
            sources = self._sources.setdefault(service, {})
            if there:
                sources[key] = record
            else:
                sources.pop(key, None)
            if not sources:
                del self._sources[service]
        return touched

    def _advance(self, rev: int, dirty: dict[Key, Service | None]) -> Delta:
        """Serve the dirty services anew, and whoever waited for an address that they gave up."""
        census = self._counted()
        if not dirty:
            if rev != self.snapshot.rev:
                self.snapshot = structs.replace(self.snapshot, rev=rev)
            return Delta(rev, census=census)
        ports, services = self.snapshot.ports.mutate(), self.snapshot.services.mutate()
        addresses = self.snapshot.by_address.mutate()
        before: dict[PortKey, ServedPort | None] = {}
        queue = dict.fromkeys(sorted(dirty))
        while queue:
            key = next(iter(queue))
            del queue[key]
            dirty.setdefault(key, self.snapshot.services.get(key))
            freed = self._retire(key, ports, addresses, before)
            for port in self._serve(key, addresses):
                known = before.setdefault(port.key, None)
                ports[port.key] = known if known == port else port
            _store(services, key, self._records.get(key))
            for address in freed:
                if address not in addresses:
                    queue |= dict.fromkeys(sorted(self._waiting.pop(address, ())))
        parts = {"services": services.finish(), "ports": ports.finish(), "by_address": addresses.finish()}
        self.snapshot = structs.replace(self.snapshot, rev=rev, **parts)
        return structs.replace(self._delta(rev, before, dirty), census=census)

    def _counted(self) -> tuple[Key, ...]:
        """Move the snapshot's census on; return what changed."""
        changes = self._census.changes()
        if changes:
            census = self.snapshot.census.mutate()
            for key, labels in changes.items():
                if labels is None:
                    del census[key]
                else:
                    census[key] = labels
            self.snapshot = structs.replace(self.snapshot, census=census.finish())
        return tuple(changes)

    def _retire(
        self,
        key: Key,
        ports: MapMutation[PortKey, ServedPort],
        addresses: MapMutation[Address, PortKey],
        before: dict[PortKey, ServedPort | None],
    ) -> list[Address]:
        freed: list[Address] = []
        self._left_out.pop(key, None)
        for port in self._ports.pop(key, ()):
            before.setdefault(port.key, port)
            self.endpoints -= len(port.endpoints)
            del ports[port.key]
            for address in _addresses(port):
                if addresses.get(address) == port.key:
                    del addresses[address]
                    freed.append(address)
        return freed

    def _serve(self, key: Key, addresses: MapMutation[Address, PortKey]) -> tuple[ServedPort, ...]:
        service, failing = self._records.get(key), self._failing.pop(key, NONE_FAILS)
        elsewhere = self._failing_elsewhere.get(key, NONE_FAILS_ELSEWHERE)
        if not isinstance(service, Service) or service.type == "ExternalName":
            return ()
        left_out: list[LeftOut] = []
        served: list[ServedPort] = []
        sources, pods = tuple(self._sources.get(key, {}).values()), self._members.pods(key)
        for virtual_ip, family in _families(service):
            policy, refused = policy_of(service, family, self._external)
            left_out += refused
            for port in service.served_ports:
                found = endpoints_of(service, port, family, sources, pods, self._site, failing, elsewhere)
                left_out += found.left_out
                port_key = PortKey(key.namespace, key.name, port.protocol, port.port, family)
                node_port = port.node_port if service.wants_address else 0
                chosen = found.endpoints, node_port, found.local, policy, found.lingering, found.probes, found.levels
                one = ServedPort(port_key, port.name, virtual_ip, *chosen)
                served.append(self._hold(one, key, addresses, left_out))
                self.endpoints += len(found.endpoints)
        if service.wants_address and not service.cluster_ips:
            left_out.append(LeftOut(str(key), "it has no virtual IP"))
        self._ports[key] = tuple(served)
        if failing:  # who is not checked any more has no verdict either
            checked = {(probe.address, probe.port) for port in served for probe in port.probes}
            kept = {where: why for where, why in failing.items() if where in checked}
            if kept:
                self._failing[key] = kept
        if left_out:
            self._left_out[key] = tuple(dict.fromkeys(left_out))
        return self._ports[key]

    def _hold(
        self, port: ServedPort, key: Key, addresses: MapMutation[Address, PortKey], left_out: list[LeftOut]
    ) -> ServedPort:
        """Take the port's addresses, or leave those to the service that has them already."""
        taken: set[str] = set()
        for address in _addresses(port):
            holder = addresses.get(address)
            if holder is None or holder == port.key:
                addresses[address] = port.key
                continue
            self._waiting[address].add(key)
            where = f"{address[0]} {address[2]}" if address[0] in NODE_PORT.values() else address[0]
            left_out.append(LeftOut(str(port.key), f"{where} is held by {holder}"))
            taken.add(address[0])
        return _without(port, taken) if taken else port

    def _delta(self, rev: int, before: dict[PortKey, ServedPort | None], dirty: dict[Key, Service | None]) -> Delta:
        now, services = self.snapshot.ports, self.snapshot.services
        added = tuple(now[k] for k, old in before.items() if old is None and k in now)
        changed = tuple((old, now[k]) for k, old in before.items() if old and k in now and now[k] != old)
        removed = tuple(old for k, old in before.items() if old and k not in now)
        records = ((old, services.get(key)) for key, old in dirty.items())
        return Delta(rev, added, changed, removed, tuple((old, new) for old, new in records if old is not new))


def _addresses(port: ServedPort) -> Iterator[Address]:
    """Everything that a served port answers on, each once."""
    protocol, policy = port.key.protocol, port.policy
    for address in dict.fromkeys((port.virtual_ip, *policy.external_ips, *policy.load_balancer_ips)):
        if address:
            yield (address, protocol, port.key.port)
    if port.node_port:
        yield (NODE_PORT[port.key.family], protocol, port.node_port)


def _without(port: ServedPort, taken: set[str]) -> ServedPort:
    policy = structs.replace(
        port.policy,
        external_ips=tuple(a for a in port.policy.external_ips if a not in taken),
        load_balancer_ips=tuple(a for a in port.policy.load_balancer_ips if a not in taken),
    )
    return structs.replace(
        port,
        virtual_ip="" if port.virtual_ip in taken else port.virtual_ip,
        node_port=0 if NODE_PORT[port.key.family] in taken else port.node_port,
        policy=policy,
    )


def _families(service: Service) -> tuple[tuple[str, int], ...]:
    """(virtual IP or "", family) for each family that the service is in."""
    if service.cluster_ips and not service.headless:
        return tuple((ip, 6 if ":" in ip else 4) for ip in service.cluster_ips)
    families = tuple(6 if f == "IPv6" else 4 for f in service.ip_families)
    return tuple(("", f) for f in families or ((4, 6) if service.headless else (4,)))


def _store(services: MapMutation[Key, Service], key: Key, record: Record | None) -> None:
    if isinstance(record, Service):
        services[key] = record
    elif key in services:
        del services[key]


def _note(failing: dict[Key, dict[K, str]], service: Key, where: K, why: str) -> None:
    """Keep why something of a service fails; with "" it does no more."""
    if why:
        failing.setdefault(service, {})[where] = why
        return
    mine = failing.get(service, {})
    mine.pop(where, None)
    if not mine:
        failing.pop(service, None)
