"""What the keys of an etcd hold: record by key, and what can't be read.

Owns: value → record, and the Problems of values. Must not know: connections, claims, events.
"""

import logging
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from svcnet.codec.reader import read
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.store.catalog import Reports
from svcnet.store.etcd_keys import Keyspace

_log = logging.getLogger(__name__)


class EtcdCatalog:
    """All records below one prefix. A value that is broken leaves the last good record of its key in force."""

    def __init__(self, space: Keyspace) -> None:
        self.reports = Reports()
        self._space = space
        self._records: dict[Key, Record] = {}
        self._revs: dict[str, int] = {}
        """Key in etcd → the revision of the value that was read."""
        self._touched: dict[Key, None] = {}

    def get(self, key: Key) -> Record | None:
        """Return a record."""
        return self._records.get(key)

    def keys(self) -> Iterable[Key]:
        """All keys of records."""
        return self._records.keys()

    def take_touched(self) -> dict[Key, None]:
        """Return (and forget) the keys whose record may be another one than before."""
        touched, self._touched = self._touched, {}
        return touched

    def take(self, name: str, value: bytes, rev: int) -> None:
        """Take the value that a key got at a revision."""
        if self._revs.get(name) == rev:
            return
        self._revs[name] = rev
        key = self._space.record_key(name)
        if key is None:
            what = f"expected {self._space.records}KIND/NAMESPACE/NAME, with - for kinds without a namespace"
            self.reports.set(name, {name: what})
            return
        record, wrong = _decode(name, key, value)
        self.reports.set(name, {name: wrong} if wrong else {})
        if record is not None and self._records.get(key) != record:
            self._records[key] = record
            self._touched[key] = None

    def drop(self, name: str) -> None:
        """Forget a key that is gone."""
        self._revs.pop(name, None)
        self.reports.set(name, {})
        key = self._space.record_key(name)
        if key is not None and self._records.pop(key, None) is not None:
            self._touched[key] = None

    def keep(self, names: AbstractSet[str]) -> None:
        """Forget all keys but these."""
        for name in self._revs.keys() - names:
            self.drop(name)

    def distrust(self) -> None:
        """Read every value again at the next list: it may be another etcd, whose revisions say nothing."""
        self._revs = dict.fromkeys(self._revs, 0)


def _decode(name: str, key: Key, value: bytes) -> tuple[Record | None, str]:
    """Return the record of a value, or what is wrong with it."""
    if value.lstrip()[:1] != b"{":
        return None, f"{bytes(value[:20])!r} is no JSON object, expected a record"
    found = read(value, name)
    for warning in found.warnings:
        _log.info("%s", warning)
    if found.errors:
        return None, str(found.errors[0]).removeprefix(f"{name}:")
    if len(found.records) != 1:
        return None, f"{len(found.records)} records, expected one a key"
    record = found.records[0].record
    if record.key != key:
        return None, f"holds {record.key}, expected {key}"
    return record, ""
