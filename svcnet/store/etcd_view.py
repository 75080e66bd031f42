"""What one reader knows of an etcd: records, claims, and what of them was emitted.

Owns: the fold of lists and answers into that. Must not know: streams, waiting, when to try again. Calls that ask etcd
block: a reader in an event loop makes them in a thread, one at a time.
"""

from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

from svcnet.model.claim import claim_key
from svcnet.model.errors import ConfigError, NotPermittedError, RecordError
from svcnet.model.event import Delete, Event, Put
from svcnet.store.etcd_catalog import EtcdCatalog
from svcnet.store.etcd_claims import Ledger
from svcnet.store.etcd_client import EtcdClient
from svcnet.store.etcd_health import Heard
from svcnet.store.etcd_keys import Keyspace
from svcnet.store.served import Served
from svcnet.virtual_ip import Allocation

DELETED = 1
"""mvccpb.Event.EventType.DELETE."""


class EtcdView:
    """The state behind one list or watch."""

    def __init__(self, client: EtcdClient, space: Keyspace, allocation: Allocation) -> None:
        self.catalog = EtcdCatalog(space)
        self.ledger = Ledger(client, space, allocation)
        self.served = Served(self.catalog, self.ledger)
        self.rev = 0
        """Everything up to it is known."""
        self.cluster = 0
        """Whose revisions these are (ResponseHeader.cluster_id)."""
        self.newest: tuple[bytes, int] = (b"", 0)
        """The key that changed last and is there, and its revision."""
        self._client = client
        self._space = space
        self._heard = Heard(space)

    def read(self) -> Iterator[int]:
        """Read everything anew; yield the number of keys of each page, whose records can be served then.

        StoreError; ConfigError when the claims come from other service CIDRs. Claims come before records, in the
        order of keys.
        """
        there: set[str] = set()
        self._heard.begin()
        known: Iterable[str] = ()
        ledger, catalog, claims = self.ledger, self.catalog, self._space.claims
        ledger.clear()
        rev, in_claims = 0, True
        self.newest = (b"", 0)
        for page in self._client.pages(*self._space.everything):
            if not rev:
                rev = page.header.revision
                self._meet(page.header.cluster_id)
            for kv in page.kvs:
                if kv.mod_revision > self.newest[1]:
                    self.newest = (kv.key, kv.mod_revision)
                name = kv.key.decode(errors="replace")
                if name.startswith(claims):
                    ledger.take(name, kv.value, kv.mod_revision)
                    continue
                self._heard.take(name, kv.value)
                if in_claims:
                    in_claims, known = False, self._claims_read()
                if name.startswith(self._space.records):
                    there.add(name)
                    catalog.take(name, kv.value, kv.mod_revision)
            if not in_claims:
                self.served.touch(catalog.take_touched())
            yield len(page.kvs)
        if in_claims:
            known = self._claims_read()
        catalog.keep(there)
        self._heard.end()
        self.served.touch(catalog.take_touched())
        self.served.mark_absent(known)
        self.rev = rev

    def take(self, events: Iterable[Any]) -> None:
        """Take the events of watch answers."""
        for event in events:
            name, rev = event.kv.key.decode(errors="replace"), event.kv.mod_revision
            value = None if event.type == DELETED else event.kv.value
            if rev >= self.newest[1]:
                self.newest = (b"", 0) if value is None else (event.kv.key, rev)
            if name.startswith(self._space.claims):
                self.ledger.take(name, value, rev)
            elif name.startswith(self._space.records):
                if value is None:
                    self.catalog.drop(name)
                else:
                    self.catalog.take(name, value, rev)
            else:
                self._heard.take(name, value)
            self.rev = max(self.rev, rev)
        self.served.load()
        self.served.touch(self.catalog.take_touched())

    def knows(self, answer: Any) -> bool:
        """Whether an etcd is the one that was read, and not one whose data were lost or put back from a backup.

        `answer`: its RangeResponse for the key of `newest`. A key that is gone by now costs a list.
        """
        header, (_, rev) = answer.header, self.newest
        return (
            header.cluster_id == self.cluster
            and header.revision >= self.rev
            and (not rev or any(kv.mod_revision >= rev for kv in answer.kvs))
        )

    def claim(self) -> None:
        """Settle services that lack what they ask for, and write that; blocks.

        LostError: another was first, and the next answers tell; StoreError. Where nothing can be written, services are
        served with what they hold.
        """
        try:
            self.ledger.check()
            self.served.settle(quiet=True)
        except (NotPermittedError, ConfigError, RecordError) as error:
            self.served.settle_unwritable(str(error))

    def give_up(self, names: Iterable[str]) -> None:
        """Give up the claims of services without a record; blocks. LostError, StoreError."""
        gone = [name for name in names if self.catalog.get(claim_key(name)) is None and name in self.ledger.names]
        self.ledger.write(lambda: [self.ledger.lapsed_change(name) for name in gone])

    def events(self, *, deletes: bool) -> tuple[Event, ...]:
        """Return what differs from what was emitted, and new and mended problems. A list says no Delete."""
        events: list[Event] = []
        for key, record in sorted(self.served.changes(), key=itemgetter(0)):
            if record is not None:
                events.append(Put(record, self.rev))
            elif deletes:
                events.append(Delete(key, self.rev))
        return (*events, *self._heard.verdicts(), *self.catalog.reports.take())

    def _claims_read(self) -> list[str]:
        self.served.load()
        self.ledger.check()
        return list(self.ledger.claims.held)

    def _meet(self, cluster: int) -> None:
        if self.cluster not in {0, cluster}:
            self.catalog.distrust()
        self.cluster = cluster
