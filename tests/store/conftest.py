"""The adapters that the contract suite is held against. Another store joins it by one more class in ADAPTERS."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from svcnet.codec.writer import to_json
from svcnet.model.record import Record
from svcnet.store.dir import DirStore
from svcnet.store.memory import MemoryStore
from svcnet.store.protocol import Store
from svcnet.virtual_ip import Allocation
from tests.store.follower import ALLOCATION


class Adapter(Protocol):
    """One store under test, and what happens to it from outside."""

    def open(self, allocation: Allocation = ALLOCATION) -> Store:
        """Return the store; all that are opened see the same records."""
        ...

    def smuggle(self, *records: Record) -> None:
        """Write records past svcnet, as another tool would."""
        ...

    def lose(self) -> None:
        """Take the store away."""
        ...

    def recover(self) -> None:
        """Bring it back."""
        ...


class Memory:
    """MemoryStore."""

    def __init__(self, _: Path) -> None:
        self._store: MemoryStore | None = None

    def open(self, allocation: Allocation = ALLOCATION) -> MemoryStore:
        if self._store is None:
            self._store = MemoryStore(allocation)
        return self._store

    def smuggle(self, *records: Record) -> None:
        self.open().load(*records)

    def lose(self) -> None:
        self.open().lose("gone")

    def recover(self) -> None:
        self.open().recover()


class Directory:
    """DirStore."""

    def __init__(self, path: Path) -> None:
        self.path = path / "records"
        self.path.mkdir()

    def open(self, allocation: Allocation = ALLOCATION) -> DirStore:
        return DirStore(self.path, allocation)

    def smuggle(self, *records: Record) -> None:
        for record in records:
            kind, namespace, name = record.key
            temp = self.path / f".{kind}-{namespace}-{name}"
            temp.write_bytes(to_json(record))
            temp.rename(self.path / f"{kind}-{namespace}-{name}.json")

    def lose(self) -> None:
        self.path.rename(self.path.with_name("lost"))

    def recover(self) -> None:
        self.path.with_name("lost").rename(self.path)


ADAPTERS: dict[str, Callable[[Path], Adapter]] = {"memory": Memory, "dir": Directory}


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    return ADAPTERS[request.param](tmp_path)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """An empty record directory."""
    path = tmp_path / "records"
    path.mkdir()
    return path
