"""The adapters that the contract suite is held against. Another store joins it by one more class in ADAPTERS."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from svcnet.codec.writer import to_json
from svcnet.model.record import Record
from svcnet.store import etcd_client, etcd_watch
from svcnet.store.dir import DirStore
from svcnet.store.etcd import EtcdStore
from svcnet.store.etcd_client import Access, EtcdClient, modules
from svcnet.store.etcd_keys import Keyspace
from svcnet.store.memory import MemoryStore
from svcnet.store.protocol import Store
from svcnet.virtual_ip import Allocation
from tests.harness.until import PATIENCE_SECONDS
from tests.store.etcd_server import EtcdServer, etcd_in
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


class Etcd:
    """EtcdStore, below a prefix of its own in a server that many tests share."""

    def __init__(self, server: EtcdServer, prefix: str) -> None:
        self.server = server
        self.access = Access((server.host,), prefix)
        self.space = Keyspace(prefix)
        self._stores: list[EtcdStore] = []
        self._client = EtcdClient(self.access)

    def open(self, allocation: Allocation = ALLOCATION) -> EtcdStore:
        self._stores.append(EtcdStore(self.access, allocation))
        return self._stores[-1]

    def smuggle(self, *records: Record) -> None:
        for record in records:
            self.write(self.space.record(record.key), to_json(record))

    def lose(self) -> None:
        self.server.kill()

    def recover(self) -> None:
        self.server.start()

    def write(self, key: bytes, value: bytes | None) -> None:
        """Write or (None) delete a key past svcnet."""
        rpc = modules().rpc
        if value is None:
            change = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
        else:
            change = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
        self._client.txn([], [change], [])

    def values(self) -> dict[str, bytes]:
        """All keys below the prefix, without it, and their values."""
        start = f"{self.space.prefix}/"
        pages = list(self._client.pages(start.encode(), f"{self.space.prefix}0".encode()))
        return {kv.key.decode().removeprefix(start): kv.value for page in pages for kv in page.kvs}

    def close(self) -> None:
        """Give all connections up; the server is there for the next test."""
        for store in self._stores:
            store.close()
        self._client.close()
        if not self.server.runs:
            self.server.start()


ADAPTERS: dict[str, Callable[[Path], Adapter]] = {"memory": Memory, "dir": Directory}
ETCD = pytest.param("etcd", marks=pytest.mark.needs("etcd"))


@pytest.fixture(params=[*ADAPTERS, ETCD])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    if request.param == "etcd":
        made: Etcd = request.getfixturevalue("etcd")
        return made
    return ADAPTERS[request.param](tmp_path)


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One etcd for the session: it takes half a second to start."""
    server = etcd_in(tmp_path_factory)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def etcd(etcd_server: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Etcd]:
    """A store below a fresh prefix. An etcd that is slow, as the machine is busy, is not away."""
    monkeypatch.setattr(etcd_client, "CALL_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(etcd_watch, "SILENCE_SECONDS", PATIENCE_SECONDS)
    made = Etcd(etcd_server, tmp_path.name)
    yield made
    made.close()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """An empty record directory."""
    path = tmp_path / "records"
    path.mkdir()
    return path
