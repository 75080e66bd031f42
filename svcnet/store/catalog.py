"""What the files of a record directory hold: which record is in which file, and which file counts.

Owns: the indexes by path and by key, and what is wrong with files. Must not know: the disk, addresses, events.
Cost per changed file depends on the records in it alone.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from svcnet.codec.reader import Located, read
from svcnet.model.errors import RecordError
from svcnet.model.event import Problem
from svcnet.model.meta import Key
from svcnet.model.record import Record

_log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A record, where it stands."""

    path: str
    line: int
    record: Record


class Reports:
    """Problems by who causes them, so that each can be mended by itself, also where several stand in one place."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        """where → what, as the last reader heard it."""
        self._causes: dict[str, dict[object, str]] = {}
        self._wheres: dict[object, tuple[str, ...]] = {}
        self._pending: dict[str, None] = {}

    def set(self, cause: object, found: dict[str, str]) -> None:
        """Make `found` (where → what) all that is wrong because of `cause`: a path, a key, or any other name."""
        before = self._wheres.pop(cause, ())
        for where in before:
            del self._causes[where][cause]
            self._pending[where] = None
        for where, what in found.items():
            self._causes.setdefault(where, {})[cause] = what
            self._pending[where] = None
        if found:
            self._wheres[cause] = tuple(found)

    def take(self) -> list[Problem]:
        """Return what is new, and (with an empty `what`) what is mended, since the last time."""
        problems = []
        for where in self._pending:
            what = "; ".join(self._causes[where].values())
            if not what:
                del self._causes[where]
            if self._said.get(where, "") == what:
                continue
            problems.append(Problem(where, what))
            if what:
                self._said[where] = what
            else:
                del self._said[where]
        self._pending.clear()
        return problems


class Catalog:
    """All files. `root` is how the directory is called in messages."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.reports = Reports()
        self.files: dict[str, Key | tuple[Key, ...]] = {}
        """Path → what it holds. Most files hold one record: a key alone is smaller than a tuple of it."""
        self._first: dict[Key, Held] = {}
        self._others: dict[Key, list[Held]] = {}
        self._touched: dict[Key, None] = {}
        self._doubled: set[Key] = set()

    def get(self, key: Key) -> Record | None:
        """Return the record that counts: the one in the first file by path."""
        held = self._first.get(key)
        return held.record if held is not None else None

    def find(self, key: Key) -> tuple[str, ...]:
        """Return the paths of the files that hold the record, the one that counts first."""
        held = self._first.get(key)
        return () if held is None else (held.path, *(other.path for other in self._others.get(key, ())))

    def keys(self) -> Iterable[Key]:
        """All keys, in the order in which they came."""
        return self._first.keys()

    def held(self) -> Iterator[Record]:
        """All records that count."""
        return (held.record for held in self._first.values())

    def doubled(self) -> set[str]:
        """Return the files of those records that another file has, or had, since the last `take_touched`."""
        return {path for key in self._doubled for path in self.find(key)}

    def take_touched(self) -> dict[Key, None]:
        """Return (and forget) the keys whose record may be another one than before."""
        for key in self._doubled:
            others = self._others.get(key, ())
            what = f"{key} is in {self._name(self._first[key].path)} already, which counts" if others else ""
            self.reports.set(key, {f"{self._name(other.path)}:{other.line}": what for other in others})
        self._doubled.clear()
        touched, self._touched = self._touched, {}
        return touched

    def load(self, path: str, data: bytes) -> None:
        """Take what a file holds now. A record that is broken in it keeps its last good version."""
        origin = self._name(path)
        decoded = read(data, origin)
        for warning in decoded.warnings:
            _log.info("%s", warning)
        found = _by_line(origin, decoded.errors)
        records: dict[Key, Located] = {}
        for located in decoded.records:
            key = located.record.key
            if records.setdefault(key, located) is not located:
                found[f"{origin}:{located.line}"] = f"{key} is in line {records[key].line} already, which counts"
        self.reports.set(path, found)
        self._replace(path, records, keep=bool(decoded.errors))

    def fail(self, path: str, why: str) -> None:
        """Report a file that can't be read; what it held stays."""
        self.reports.set(path, {self._name(path): f"can't be read: {why}"})

    def remove(self, path: str) -> None:
        """Forget a file that is gone."""
        self.reports.set(path, {})
        self._replace(path, {}, keep=False)
        self.files.pop(path, None)

    def _name(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _replace(self, path: str, records: dict[Key, Located], *, keep: bool) -> None:
        before = self.files.get(path, ())
        if isinstance(before, Key):
            before = (before,)
        for key, located in records.items():
            self._give(key, Held(path, located.line, located.record))
        missing = [key for key in before if key not in records]
        if not keep:
            for key in missing:
                self._take(key, path)
            missing = []
        keys = (*records, *missing)
        if keys != before or path not in self.files:
            self.files[path] = keys[0] if len(keys) == 1 else keys

    def _give(self, key: Key, held: Held) -> None:
        first = self._first.get(key)
        if first is None or held.path == first.path:
            if first is not None and first.record == held.record:
                held = first._replace(line=held.line)
            else:
                self._touched[key] = None
            self._first[key] = held
            return
        others = [other for other in self._others.get(key, ()) if other.path != held.path]
        if held.path < first.path:
            self._first[key], held = held, first
            self._touched[key] = None
        self._others[key] = sorted([*others, held])
        self._doubled.add(key)

    def _take(self, key: Key, path: str) -> None:
        others = self._others.pop(key, [])
        if self._first[key].path == path:
            self._touched[key] = None
            if others:
                self._first[key] = others.pop(0)
            else:
                del self._first[key]
        else:
            others = [other for other in others if other.path != path]
        if others:
            self._others[key] = others
        self._doubled.add(key)


def _by_line(origin: str, errors: Iterable[RecordError]) -> dict[str, str]:
    """Return FILE:LINE → what is wrong there."""
    found: dict[str, str] = {}
    for error in errors:
        text = str(error).removeprefix(f"{origin}:")
        line, _, what = text.partition(": ")
        where, what = (f"{origin}:{line}", what) if line.isdigit() else (origin, text)
        found[where] = f"{found[where]}; {what}" if where in found else what
    return found
