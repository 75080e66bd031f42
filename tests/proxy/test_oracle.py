"""The same conversations through a worker and through HAProxy, where that is installed: they end alike.

What is known to end otherwise is in docs/adr/0008, and not asked of HAProxy here.
"""

import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from svcnet.proxy.row import Backend
from tests.proxy.oracle import BOTH, Connect, Front, haproxy
from tests.proxy.stage import Stage, read_all

MIB = 1 << 20
LONG, LONGEST = 64, 1024
"""MiB each way on one connection; the second without HAProxy."""
MANY, OF_MANY = 64, 16
"""Connections at a time, MiB on each."""
BLOCK = bytes(range(256)) * 4096
CONFIG = """
global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  retries 3
  option redispatch 1
  option splice-auto
listen test
  bind fd@{listener}
"""

Sum = tuple[int, int]
"""How many bytes, and their CRC-32."""


@pytest.fixture(params=BOTH)
def front(request: pytest.FixtureRequest, stage: Stage, tmp_path: Path) -> Iterator[Front]:
    """Makes a frontend to backends; gives what connects to it."""
    with ExitStack() as stack:

        def ours(*backends: Backend) -> Connect:
            ident = stage.frontend(*backends)
            return lambda: stage.client(ident)

        def theirs(*backends: Backend) -> Connect:
            servers = "".join(f"  server s{n} {backend}\n" for n, backend in enumerate(backends))
            return haproxy(stack, stage, tmp_path, lambda listener: CONFIG.format(listener=listener) + servers)

        yield ours if request.param == "svcnet" else theirs


def send_blocks(sock: socket.socket, number: int) -> None:
    """So many MiB, and a FIN."""
    for turn in range(number):
        sock.sendall(BLOCK[turn % 251 :])
        sock.sendall(BLOCK[: turn % 251])
    sock.shutdown(socket.SHUT_WR)


def expected(number: int) -> Sum:
    """The bytes that `send_blocks` sends."""
    whole = 0
    for turn in range(number):
        whole = zlib.crc32(BLOCK[: turn % 251], zlib.crc32(BLOCK[turn % 251 :], whole))
    return number * MIB, whole


def checksum(sock: socket.socket) -> Sum:
    """Of all that comes."""
    total, whole, buffer = 0, 0, bytearray(MIB)
    while number := sock.recv_into(buffer):
        whole = zlib.crc32(memoryview(buffer)[:number], whole)
        total += number
    return total, whole


def there_and_back(client: socket.socket, inner: socket.socket, number: int) -> None:
    """So many MiB each way at the same time."""
    sums: dict[str, Sum] = {}
    at_once(
        lambda: send_blocks(client, number),
        lambda: send_blocks(inner, number),
        lambda: sums.update(up=checksum(inner)),
        lambda: sums.update(down=checksum(client)),
    )
    assert sums == dict.fromkeys(("up", "down"), expected(number))


def at_once(*acts: Callable[[], None]) -> None:
    """Do all of them at the same time, and wait for them."""
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_server_speaks_first(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    client = front(backend)()
    stage.accept(server).sendall(b"220 hello")
    assert client.recv(100) == b"220 hello"


def test_a_request_with_its_end_before_the_dial_is_done_is_whole(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    connect = front(stage.dead(), backend)
    for _ in range(4):
        client = connect()
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        inner = stage.accept(server)
        assert read_all(inner) == b"request"
        inner.sendall(b"reply")
        inner.close()
        assert read_all(client) == b"reply"


def test_a_client_goes_on_after_the_server_finished(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    client = front(backend)()
    inner = stage.accept(server)
    inner.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.sendall(b"x" * 10_000)
    client.close()
    assert read_all(inner) == b"x" * 10_000


def test_much_both_ways_at_once_is_whole(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    client = front(backend)()
    inner = stage.accept(server)
    there_and_back(client, inner, LONG)


def test_a_gibibyte_each_way_is_whole(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    there_and_back(client, inner, LONGEST)


def test_many_connections_at_once_are_whole(front: Front, stage: Stage) -> None:
    server, backend = stage.server(backlog=MANY)
    connect = front(backend)
    pairs = [(connect(), stage.accept(server)) for _ in range(MANY)]
    sums: list[Sum] = []
    acts: list[Callable[[], None]] = []
    for client, inner in pairs:
        acts.append(lambda inner=inner: send_blocks(inner, OF_MANY))  # type: ignore[misc]
        acts.append(lambda client=client: sums.append(checksum(client)))  # type: ignore[misc]
    at_once(*acts)
    assert sums == [expected(OF_MANY)] * MANY


def test_readers_that_do_not_read_cost_little_memory(stage: Stage) -> None:
    """Of a worker alone: HAProxy has fixed buffers."""
    server, backend = stage.server(backlog=MANY)
    connect = stage.frontend(backend)
    clients, inner = zip(*((stage.client(connect), stage.accept(server)) for _ in range(MANY)), strict=True)
    before = memory(stage.child.pid)
    for one in inner:
        one.settimeout(0.05)  # as long as it takes until nothing moves any more
        with pytest.raises(TimeoutError):
            one.sendall(bytes(256 * MIB))
    assert memory(stage.child.pid) - before < MANY * MIB // 2
    assert all(client.recv(1) == b"\0" for client in clients)


def memory(pid: int) -> int:
    """Bytes that are a process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))
