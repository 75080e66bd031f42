"""A reader of Store.watch that a test can ask, and short names for records.

Owns: what a reader knows after the batches so far. Must not know: which store it reads.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from ipaddress import ip_network
from types import TracebackType
from typing import Any, Self, cast

from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.event import Away, Delete, Event, Problem, Put, Synced
from svcnet.model.meta import Key, Meta
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.store.protocol import Store
from svcnet.virtual_ip import Allocation

ALLOCATION = Allocation((ip_network("10.0.0.0/16"), ip_network("fd00:10::/108")))
DEADLINE_SECONDS = 60.0


def service(name: str, address: str = "", **fields: Any) -> Service:
    """A service with port 80; `address` is its clusterIP."""
    fields.setdefault("ports", (ServicePort(80, target_port=80),))
    return Service(Meta(name, "default"), cluster_ips=(address,) if address else (), **fields)


def pod(name: str, address: str = "10.1.0.1") -> Pod:
    """A running pod."""
    return Pod(Meta(name, "default"), phase="Running", ips=(address,), ready=True)


def endpoints(name: str, *addresses: str) -> EndpointSlice:
    """A slice of the service of the same name."""
    meta = Meta(name, "default", labels=(("kubernetes.io/service-name", name),))
    return EndpointSlice(meta, endpoints=tuple(SliceEndpoint((a,)) for a in addresses), ports=(EndpointPort(80),))


def key(name: str, kind: str = "Service") -> Key:
    """The key of a record of namespace default."""
    return Key(kind, "default", name)


def listed(store: Store) -> dict[Key, Record]:
    """What list() returns, by key."""
    return {record.key: record for record in store.list().records}


def addresses(record: Record | None) -> tuple[str, ...]:
    """The virtual IPs of a service."""
    assert isinstance(record, Service), record
    return record.cluster_ips


class Follower:
    """Reads a watch in the background."""

    def __init__(self, store: Store) -> None:
        self.records: dict[Key, Record] = {}
        self.problems: dict[str, str] = {}
        self.away = ""
        self.syncs = 0
        self.keys: frozenset[Key] = frozenset()
        self.revs: list[int] = []
        self.seen: list[Event] = []
        self._watch = cast("AsyncGenerator[tuple[Event, ...], None]", store.watch())
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        self._task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._watch.aclose()

    async def until(self, holds: Callable[[Self], object]) -> Self:
        """Wait for a condition on what is known."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not holds(self):
                    if self._task.done():
                        self._task.result()
                        raise AssertionError("the watch ended")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"still not: {self.seen[-20:]}, {self.problems}, away {self.away!r}") from None
        return self

    async def synced(self) -> Self:
        """Wait for the first list."""
        return await self.until(lambda f: f.syncs)

    async def shows(self, record: Record) -> Self:
        """Wait for a record."""
        return await self.until(lambda f: f.records.get(record.key) == record)

    def events(self, name: Key) -> list[Event]:
        """What was said of a record, Synced apart."""
        return [e for e in self.seen if (isinstance(e, Put) and e.record.key == name) or getattr(e, "key", 0) == name]

    async def _read(self) -> None:
        async for batch in self._watch:
            for event in batch:
                self._take(event)
            self._changed.set()

    def _take(self, event: Event) -> None:
        self.seen.append(event)
        match event:
            case Put(record, rev):
                self.records[record.key] = record
                self.revs.append(rev)
            case Delete(name, rev):
                del self.records[name]
                self.revs.append(rev)
            case Problem(where, what):
                self.problems[where] = what
                if not what:
                    del self.problems[where]
            case Synced(rev, keys):
                self.away, self.keys, self.syncs = "", keys, self.syncs + 1
                self.records = {name: record for name, record in self.records.items() if name in keys}
                self.revs.append(rev)
            case Away(reason):
                self.away = reason


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario to its end."""
    asyncio.run(asyncio.wait_for(scenario(), 3 * DEADLINE_SECONDS))
