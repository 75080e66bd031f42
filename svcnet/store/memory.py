"""A store in memory: the behaving fake that ships, for tests and for programs that need no records on disk.

Owns: records, claims, revision of one process. It acts like any other adapter: claims addresses, refuses what is taken,
reports and serves without it what `load` brings in from outside, goes `away` and comes `back`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, MutableSequence

from svcnet.model.claim import NOTHING, Claim, Resource, claim_id
from svcnet.model.errors import ConflictError, StoreError
from svcnet.model.event import Away, Delete, Event, Problem, Put, Synced
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.store.protocol import Listing
from svcnet.virtual_ip import Allocation, Claims, Settled, asks, wakes

CHUNK = 500
"""Most Puts in one batch of a list."""


class MemoryStore:
    """Store (svcnet/store/protocol.py) without a disk. All calls come from one thread."""

    def __init__(self, allocation: Allocation, rev: int = 0) -> None:
        self.rev = rev
        self._claims = Claims(allocation)
        self._records: dict[Key, Record] = {}
        self._problems: dict[str, str] = {}
        self._asked: dict[Key, Service] = {}
        """Services that are served without something, as they asked for it."""
        self._waiting: dict[Resource, set[Key]] = {}
        self._watchers: list[asyncio.Queue[tuple[Event, ...]]] = []
        self._away = ""

    def list(self) -> Listing:
        """Return everything once, sorted by key."""
        self._reach()
        records = tuple(self._records[key] for key in sorted(self._records))
        return Listing(self.rev, records, tuple(Problem(*item) for item in sorted(self._problems.items())))

    async def watch(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield the list, Synced, then each change as one batch."""
        queue: asyncio.Queue[tuple[Event, ...]] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            for batch in [(Away(self._away),)] if self._away else list(self._all()):
                yield batch
            while True:
                batch = await queue.get()
                while not queue.empty():
                    batch += queue.get_nowait()
                yield batch
        finally:
            self._watchers.remove(queue)

    def put(self, *records: Record, create: bool = False) -> tuple[Record, ...]:
        """Write records, all or none; errors as in the Protocol."""
        self._reach()
        for record in records if create else ():
            if record.key in self._records:
                raise ConflictError(f"{record.key} exists")
        before: dict[str, Claim] = {}
        stored: dict[Key, Record] = {}
        given_up: list[Resource] = []
        try:
            for record in sorted(records, key=lambda r: not (isinstance(r, Service) and asks(r))):
                if isinstance(record, Service):
                    before.setdefault(claim_id(record.key), self._claims.held.get(claim_id(record.key), NOTHING))
                    stored[record.key] = self._claimed(record, given_up)
                else:
                    stored[record.key] = record
        except Exception:
            for name, claim in reversed(before.items()):
                self._claims.hold(name, claim)
            raise
        events = self._write([stored[key] for key in dict.fromkeys(record.key for record in records)])
        self._emit([*events, *self._settle_waiting(given_up)])
        return tuple(stored[record.key] for record in records)

    def delete(self, *keys: Key) -> tuple[Key, ...]:
        """Delete records and give up their claims; return the keys that existed."""
        self._reach()
        gone = tuple(key for key in dict.fromkeys(keys) if key in self._records)
        if not gone:
            return ()
        self.rev += 1
        events: list[Event] = []
        given_up: list[Resource] = []
        for key in gone:
            del self._records[key]
            events.append(Delete(key, self.rev))
            if key.kind == "Service":
                self._asked.pop(key, None)
                given_up += self._claims.free(claim_id(key))
                events += self._report(key, "")
        self._emit([*events, *self._settle_waiting(given_up)])
        return gone

    def load(self, *records: Record) -> None:
        """Bring records in as someone else would who writes past svcnet: what clashes is a Problem, not an error."""
        events: list[Event] = []
        self.rev += 1
        for record in sorted(records, key=lambda r: not (isinstance(r, Service) and asks(r))):
            if isinstance(record, Service):
                events += self._serve(record)
            else:
                self._records[record.key] = record
                events.append(Put(record, self.rev))
        self._emit(events)

    def lose(self, reason: str) -> None:
        """Be away: every call fails, watchers see Away."""
        self._away = reason
        self._emit([Away(reason)])

    def recover(self) -> None:
        """Be back: watchers get the list again."""
        self._away = ""
        for batch in self._all():
            self._emit(batch)

    def report(self, where: str, what: str) -> None:
        """Let watchers and lists see a Problem; an empty `what` mends it."""
        self._note(where, what)
        self._emit([Problem(where, what)])

    def _reach(self) -> None:
        if self._away:
            raise StoreError(self._away)

    def _all(self) -> Iterable[tuple[Event, ...]]:
        puts = [Put(record, self.rev) for record in self._records.values()]
        for start in range(0, len(puts), CHUNK):
            yield tuple(puts[start : start + CHUNK])
        problems = tuple(Problem(*item) for item in self._problems.items())
        yield (*problems, Synced(self.rev, frozenset(self._records)))

    def _claimed(self, service: Service, given_up: MutableSequence[Resource]) -> Service:
        settled = self._claims.settle(service)
        if settled.errors:
            raise settled.errors[0]
        given_up.extend(self._claims.hold(claim_id(service.key), settled.claim))
        return settled.service

    def _write(self, records: Iterable[Record]) -> Iterable[Event]:
        changed = [record for record in records if self._records.get(record.key) != record]
        self.rev += bool(changed)
        for record in changed:
            self._records[record.key] = record
            yield Put(record, self.rev)
            if isinstance(record, Service):
                self._asked.pop(record.key, None)
                yield from self._report(record.key, "")

    def _serve(self, service: Service) -> Iterable[Event]:
        settled: Settled = self._claims.settle(service)
        given_up = self._claims.hold(claim_id(service.key), settled.claim)
        self._asked.pop(service.key, None)
        for resource in settled.waits_for:
            self._asked[service.key] = service
            self._waiting.setdefault(resource, set()).add(service.key)
        if self._records.get(service.key) != settled.service:
            self._records[service.key] = settled.service
            yield Put(settled.service, self.rev)
        yield from self._report(service.key, "; ".join(str(error) for error in settled.errors))
        yield from self._settle_waiting(given_up)

    def _settle_waiting(self, given_up: Iterable[Resource]) -> Iterable[Event]:
        for resource in dict.fromkeys(what for given in given_up for what in wakes(given)):
            for key in sorted(self._waiting.pop(resource, ())):
                if key in self._asked:
                    yield from self._serve(self._asked[key])

    def _report(self, key: Key, what: str) -> Iterable[Event]:
        if self._problems.get(str(key), "") != what:
            self._note(str(key), what)
            yield Problem(str(key), what)

    def _note(self, where: str, what: str) -> None:
        if what:
            self._problems[where] = what
        else:
            self._problems.pop(where, None)

    def _emit(self, events: Iterable[Event]) -> None:
        batch = tuple(events)
        for queue in self._watchers if batch else ():
            queue.put_nowait(batch)
