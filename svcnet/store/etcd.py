"""`etcd://HOST:PORT[,…]/PREFIX`: records in an etcd. What others may rely on is in docs/contract.md.

Owns: the Store of a prefix, put together from its parts; a writer's order of things. Must not know: gRPC, streams.
A record and what its service holds change in one transaction, which compares the claims that it was decided on: who
comes second decides again, on what is there by then.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableSequence, Sequence
from contextlib import suppress
from operator import attrgetter, itemgetter
from typing import TypeVar

import msgspec

from svcnet.codec.writer import to_v1
from svcnet.model.claim import claim_id
from svcnet.model.errors import ConflictError, StoreError, SvcnetError
from svcnet.model.event import Event
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.store.etcd_change import MOST, Change, LostError, commit
from svcnet.store.etcd_claims import Ledger
from svcnet.store.etcd_client import Access, CompactedError, EtcdClient, modules
from svcnet.store.etcd_health import LEASE_SECONDS, Speaker
from svcnet.store.etcd_keys import Keyspace
from svcnet.store.etcd_view import EtcdView
from svcnet.store.etcd_watch import EtcdWatch
from svcnet.store.protocol import Listing
from svcnet.virtual_ip import Allocation, asks

TRIES = 40
"""Lost transactions before a writer gives up: each means that another one got something done."""
PAUSE_MOST_SECONDS = 0.25

Result = TypeVar("Result")


class EtcdStore:
    """Store (svcnet/store/protocol.py) in an etcd. Nothing is opened before the first call."""

    def __init__(self, access: Access, allocation: Allocation) -> None:
        self.access = access
        self.allocation = allocation
        self._client = EtcdClient(access)
        self._space = Keyspace(access.prefix)

    def list(self) -> Listing:
        """Return everything once, at etcd's revision; services without an address claim one, if that may be written."""
        return self._persist(self._list)

    def watch(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield the list, Synced, then changes for ever. ConfigError when the claims belong to another service CIDR."""
        return EtcdWatch(EtcdClient(self.access), self._space, self.allocation).run()

    def put(self, *records: Record, create: bool = False) -> tuple[Record, ...]:
        """Write records; return them with what they hold. NotPermittedError, else as in the Protocol.

        Up to about 100 records are one transaction. Of more, those before a failure are written; `create` takes them
        back.
        """
        by_key = {record.key: record for record in records}
        if create and len(by_key) < len(records):
            raise ConflictError("a record is given twice")
        ledger = Ledger(self._client, self._space, self.allocation)
        try:
            stored = self._persist(lambda: self._put(ledger, by_key, create=create))
        except SvcnetError:
            if create and ledger.written:
                self._take_back(ledger)
            raise
        return tuple(stored[record.key] for record in records)

    def delete(self, *keys: Key) -> tuple[Key, ...]:
        """Delete records and give up their claims; return the keys that existed."""
        wanted = tuple(dict.fromkeys(keys))
        return self._persist(lambda: self._delete(wanted))

    def speaker(self, node: str, seconds: int = LEASE_SECONDS) -> Speaker:
        """Who says for a minion which of its endpoints fail; so long after it fell silent that is forgotten."""
        return Speaker(EtcdClient(self.access), self._space, node, seconds)

    def close(self) -> None:
        """Give the connection up."""
        self._client.close()

    def _list(self) -> Listing:
        view = EtcdView(self._client, self._space, self.allocation)
        for _ in view.read():
            pass
        for _ in view.served.settle_held():
            pass
        if not view.served.is_settled:
            view.claim()
        records = tuple(record for _, record in sorted(view.served.changes(), key=itemgetter(0)) if record is not None)
        return Listing(view.rev, records, tuple(sorted(view.catalog.reports.take(), key=attrgetter("where"))))

    def _put(self, ledger: Ledger, records: dict[Key, Record], *, create: bool) -> dict[Key, Record]:
        """Write records once. LostError: to be tried again; those in `ledger.written` stand."""
        space = self._space
        names = {space.record(key): key for key in records}
        for name in self._there(names.keys() - ledger.written.keys()) if create else ():
            raise ConflictError(f"{names[name]} exists in {self.access}/{space.prefix}")
        stored = dict(records)
        services = [record for record in records.values() if isinstance(record, Service)]
        if services:
            ledger.read()
        for service in sorted(services, key=lambda service: not asks(service)):
            settled = ledger.claims.settle(service)
            if settled.waits_for and ledger.lapse(settled.waits_for):
                settled = ledger.claims.settle(service)
            if settled.errors:
                raise settled.errors[0]
            ledger.claims.hold(claim_id(service.key), settled.claim)
            stored[service.key] = settled.service

        def changes() -> Iterator[Change]:
            for name, key in names.items():
                value = msgspec.json.encode(to_v1(stored[key]))
                if key.kind == "Service":
                    change = ledger.change(claim_id(key), record=value)
                else:
                    change = Change({}, {name: value}, set(), set())
                if create:
                    change.revs[name] = ledger.written.get(name, 0)
                yield change

        ledger.write(changes)
        return stored

    def _take_back(self, ledger: Ledger) -> None:
        """Delete what a refused create has written so far, unless it was changed since."""
        with suppress(SvcnetError, LostError):
            written = dict(ledger.written)
            for name, rev in written.items():
                with suppress(LostError):
                    commit(self._client, [Change({name: rev}, {name: None}, set(), set())], lambda *_: None)
            keys = [key for name in written if (key := self._space.record_key(name.decode())) is not None]
            names = [claim_id(key) for key in keys if key.kind == "Service"]
            if names:
                ledger.read()
                ledger.write(lambda: (ledger.lapsed_change(name) for name in names))

    def _delete(self, keys: Iterable[Key]) -> tuple[Key, ...]:
        there = self._there(self._space.record(key) for key in keys)
        gone = tuple(key for key in keys if self._space.record(key) in there)
        ledger = Ledger(self._client, self._space, self.allocation)
        if any(key.kind == "Service" for key in gone):
            ledger.read()

        def changes() -> Iterator[Change]:
            for key in gone:
                if key.kind == "Service":
                    yield ledger.removal(key)
                else:
                    yield Change({}, {self._space.record(key): None}, set(), set())

        ledger.write(changes)
        return gone

    def _there(self, names: Iterable[bytes]) -> Sequence[bytes]:
        """Return those keys that are there, sorted."""
        rpc, wanted = modules().rpc, sorted(names)
        found: MutableSequence[bytes] = []
        for start in range(0, len(wanted), MOST):
            reads = [
                rpc.RequestOp(request_range=rpc.RangeRequest(key=name, keys_only=True))
                for name in wanted[start : start + MOST]
            ]
            answer = self._client.txn([], reads, [])
            found += [kv.key for response in answer.responses for kv in response.response_range.kvs]
        return found

    def _persist(self, act: Callable[[], Result]) -> Result:
        """Do something until nobody else was first."""
        for turn in range(TRIES):
            try:
                return act()
            except (LostError, CompactedError):
                time.sleep(min(0.002 * 2**turn, PAUSE_MOST_SECONDS))
        raise StoreError(f"{self.access}/{self._space.prefix}: others change the same claims all the time")
