"""What a store holds, joined: services with their endpoints, controllers with their pods. Pure.

Owns: the questions that listings ask. The tracker answers most of them, as it does for the daemon, so that what
`get endpoints` shows is what a minion would serve.
"""

from collections import defaultdict
from collections.abc import Iterable

from msgspec.structs import replace

from svcnet.endpoints import Networks
from svcnet.membership import Membership
from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import EndpointPort, Endpoints, EndpointSlice, SliceEndpoint, Subset
from svcnet.model.event import Delete, Event, Put, Synced
from svcnet.model.meta import Key, Meta
from svcnet.model.node import Namespace
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.model.snapshot import Endpoint, ServedPort
from svcnet.option_kind import Network
from svcnet.store.protocol import Listing
from svcnet.tracker import Tracker


class View:
    """All records at one moment, and what follows from them."""

    def __init__(self, deny: Iterable[Network]) -> None:
        self.tracker = Tracker(Networks(deny))
        self._members = Membership()
        self._sources: defaultdict[Key, dict[Key, EndpointSlice | Endpoints]] = defaultdict(dict)
        self._service_of: dict[Key, Key] = {}
        self._known: set[Key] = set()

    @classmethod
    def of(cls, listing: Listing, deny: Iterable[Network]) -> "View":
        """Return the view of a listing."""
        view = cls(deny)
        events: list[Event] = [Put(record, listing.rev) for record in listing.records]
        view.fold((*events, Synced(listing.rev, frozenset(record.key for record in listing.records))))
        return view

    def fold(self, events: Iterable[Event]) -> set[Key]:
        """Take changes in; return the records that they touch: themselves, services and controllers they belong to."""
        events = tuple(events)
        delta = self.tracker.fold(events)
        ports = (*delta.added, *delta.removed, *(new for _, new in delta.changed))
        touched = {Key("Service", port.key.namespace, port.key.service) for port in ports}
        for event in events:
            match event:
                case Put(record, _):
                    touched |= self._note(record)
                case Delete(key, _):
                    touched |= self._forget(key)
                case Synced():
                    for key in [key for key in self._known if self.tracker.get(key) is None]:
                        touched |= self._forget(key)
        return touched

    def _note(self, record: Record) -> set[Key]:
        self._known.add(record.key)
        touched = {record.key}
        match record:
            case Service() | ReplicationController():
                self._members.set_service(record.key, record.selector)
            case Pod():
                touched |= self._members.set_pod(record.key, record)
            case EndpointSlice() | Endpoints():
                name = record.service if isinstance(record, EndpointSlice) else record.meta.name
                service = Key("Service", record.key.namespace, name)
                if self._service_of.get(record.key, service) != service:
                    touched |= self._forget(record.key)
                self._service_of[record.key] = service
                self._sources[service][record.key] = record
                touched.add(service)
        return touched

    def _forget(self, key: Key) -> set[Key]:
        self._known.discard(key)
        touched = {key}
        if key.kind in {"Service", "ReplicationController"}:
            self._members.set_service(key, ())
        elif key.kind == "Pod":
            touched |= self._members.set_pod(key, None)
        elif key in self._service_of:
            service = self._service_of.pop(key)
            self._sources[service].pop(key, None)
            touched.add(service)
        return touched

    def pods(self, key: Key) -> list[Pod]:
        """The pods that the selector of a service or controller matches."""
        return self._members.pods(key)

    def sources(self, service: Key) -> tuple[EndpointSlice | Endpoints, ...]:
        """The records that name the endpoints of a service: when there are any, its selector doesn't count."""
        return tuple(self._sources.get(service, {}).values())

    def counts(self, service: Service) -> tuple[int, int]:
        """(addresses that traffic may go to, addresses that belong to it)."""
        ready = {e.address for port in self.tracker.ports_of(service.key) for e in port.endpoints}
        known = {e.addresses[0] for source in self.sources(service.key) for e in _entries(source) if e.addresses}
        if not self.sources(service.key):
            families = {port.key.family for port in self.tracker.ports_of(service.key)} or {4}
            known = {ip for pod in self.pods(service.key) for ip in pod.ips if (6 if ":" in ip else 4) in families}
        return len(ready), len(ready | known)

    def endpoints(self, service: Service) -> Endpoints:
        """The endpoints of a service as a minion works them out, in the form of an Endpoints record."""
        groups: dict[tuple[tuple[str, ...], ...], list[tuple[ServedPort, Endpoint]]] = {}
        members: dict[tuple[str, ...], Endpoint] = {}
        for port in self.tracker.ports_of(service.key):
            for number in sorted({e.port for e in port.endpoints}):
                chosen = [e for e in port.endpoints if e.port == number]
                identity = tuple(e[0:1] for e in chosen)
                members |= {e[0:1]: e for e in chosen}
                groups.setdefault(identity, []).append((port, chosen[0]))
        subsets = tuple(
            Subset(
                tuple(_entry(members[one]) for one in identity),
                tuple(EndpointPort(e.port, port.name, port.key.protocol) for port, e in ports if e.port),
            )
            for identity, ports in groups.items()
        )
        meta = Meta(service.meta.name, service.meta.namespace, service.meta.labels, created=service.meta.created)
        return Endpoints(meta, subsets)

    def records(self, kind: str) -> list[Record]:
        """All records of a kind, sorted by namespace and name.

        Endpoints are those that a minion works out for each service, and records whose service doesn't exist;
        namespaces are also those that only exist by what is in them.
        """
        found = {record.key: record for record in self.tracker.records() if record.key.kind == kind}
        if kind == "Endpoints":
            services = (r for r in self.tracker.records() if isinstance(r, Service) and r.type != "ExternalName")
            found |= {Key(kind, *s.key[1:]): self._worked_out(s) for s in services}
        if kind == "Namespace":
            for name in {record.key.namespace for record in self.tracker.records()} - {""}:
                found.setdefault(Key(kind, "", name), Namespace(Meta(name)))
        return [found[key] for key in sorted(found)]

    def record(self, key: Key) -> Record | None:
        """One record, in the same sense as `records`."""
        if key.kind == "Endpoints":
            service = self.tracker.get(Key("Service", *key[1:]))
            if isinstance(service, Service) and service.type != "ExternalName":
                return self._worked_out(service)
        elif key.kind == "Namespace":
            return next((record for record in self.records(key.kind) if record.key == key), None)
        return self.tracker.get(key)

    def _worked_out(self, service: Service) -> Endpoints:
        found = self.endpoints(service)
        written = self.tracker.get(found.key)
        return replace(found, meta=written.meta) if written is not None else found


def _entries(source: EndpointSlice | Endpoints) -> tuple[SliceEndpoint, ...]:
    if isinstance(source, EndpointSlice):
        return source.endpoints
    return tuple(entry for subset in source.subsets for entry in subset.endpoints)


def _entry(e: Endpoint) -> SliceEndpoint:
    return SliceEndpoint((e.address,), hostname=e.hostname, node=e.node, target=e.target)
