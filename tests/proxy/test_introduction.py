"""The PROXY header before a client's bytes, written and read, as backends and clients see it; HAProxy is the judge."""

import _socket
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from svcnet.model.terms import Terms
from svcnet.proxy import header
from svcnet.proxy.counts import AT_LIMIT, BAD_HEADERS, BYTES_IN
from svcnet.proxy.greeting import GREETING_SECONDS, Greeting
from svcnet.proxy.header import LOCAL, Header
from svcnet.proxy.loop import Loop
from svcnet.proxy.place import Place
from svcnet.proxy.row import Backend, Choice
from svcnet.proxy.why import Why
from tests.harness.until import until
from tests.proxy.oracle import HAPROXY
from tests.proxy.stage import HOST, PATIENCE_SECONDS, Stage, read_all

HERE = "127.0.0.0/8"
CLIENT, DIALLED = ("192.0.2.1", 4711), ("198.51.100.7", 443)
TLV = b"\2\0\4name"
CONFIG = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen test
"""
needs_haproxy = pytest.mark.needs("haproxy")
Start = Callable[[str], None]


def introduced(sock: socket.socket) -> tuple[Header, bytes]:
    """The header that comes first, and what came with it."""
    data = b""
    while (found := header.read(data)) is None:
        more = sock.recv(1 << 16)
        assert more, data
        data += more
    return found[0], data[found[1] :]


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Callable[[str, socket.socket], None]]:
    """Runs one with these lines, behind this listener."""
    with ExitStack() as stack:

        def start(lines: str, listener: socket.socket) -> None:
            config = tmp_path / "haproxy.cfg"
            config.write_text(CONFIG + lines.format(listener=listener.fileno()))
            command = [str(HAPROXY), "-db", "-q", "-f", str(config)]
            process = stack.enter_context(subprocess.Popen(command, pass_fds=[listener.fileno()]))
            stack.callback(process.terminate)

        yield start


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_a_backend_is_told_the_client_and_what_it_dialled(stage: Stage, form: str) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(send_proxy=form))
    client = stage.client(front)
    client.sendall(b"question")
    inner = stage.accept(server)
    said, rest = introduced(inner)
    assert said == Header(client.getsockname(), stage.address(front))
    while len(rest) < len(b"question"):
        rest += inner.recv(100)
    assert rest == b"question"
    inner.sendall(b"answer")
    inner.close()
    assert read_all(client) == b"answer"
    assert until(lambda: stage.counted(front, BYTES_IN)) == len(b"question"), "the header is not the client's"


@pytest.mark.parametrize("form", ["v1", "v2"])
def test_a_server_that_speaks_first_gets_it_at_once(stage: Stage, form: str) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend, terms=Terms(send_proxy=form)))
    inner = stage.accept(server)
    assert introduced(inner) == (Header(client.getsockname(), client.getpeername()), b"")
    inner.sendall(b"220 hello")
    assert client.recv(100) == b"220 hello"


def test_a_client_that_says_nothing_and_finishes_is_introduced(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend, terms=Terms(send_proxy="v2")))
    client.shutdown(socket.SHUT_WR)
    inner = stage.accept(server)
    assert header.read(read_all(inner)) == (Header(client.getsockname(), client.getpeername()), 28)


def test_much_comes_whole_after_it(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend, terms=Terms(send_proxy="v2")))
    bulk = bytes(range(256)) * 4096
    inner = stage.accept(server)
    client.setblocking(True)
    client.sendall(bulk)
    client.shutdown(socket.SHUT_WR)
    said, rest = introduced(inner)
    assert said.source == client.getsockname()
    assert rest + read_all(inner) == bulk


def test_the_next_backend_is_told_too_where_one_refuses(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(stage.dead(), backend, terms=Terms(send_proxy="v1"))
    for _ in range(2):
        client = stage.client(front)
        assert introduced(stage.accept(server))[0].source == client.getsockname()


def test_the_second_backend_that_answers_first_is_told_too(stage: Stage) -> None:
    server, backend = stage.server()
    terms = Terms(send_proxy="v2", connect_seconds=(20.0,), hedge_seconds=0.01)
    front = stage.frontend(stage.silent(), backend, terms=terms)
    for said in (b"", b"ping"):  # a server that speaks first waits for nothing
        client = stage.client(front)
        client.sendall(said)
        inner = stage.accept(server)
        told, rest = introduced(inner)
        assert told == Header(client.getsockname(), client.getpeername())
        assert rest + (inner.recv(4) if said and not rest else b"") == said
        inner.sendall(b"hello")
        assert client.recv(5) == b"hello"


def test_ipv6_clients_too(stage: Stage) -> None:
    listener = stage.keep(socket.create_server(("::1", 0), family=socket.AF_INET6))
    server, backend = stage.server()
    front = stage.frontend(backend, listener=listener, terms=Terms(send_proxy="v2"))
    client = stage.keep(socket.create_connection(listener.getsockname()[:2], PATIENCE_SECONDS))
    said, _ = introduced(stage.accept(server))
    assert said == Header(client.getsockname()[:2], listener.getsockname()[:2])
    assert front


def trusting(stage: Stage, *backends: Backend, **more: object) -> int:
    return stage.frontend(*backends, terms=Terms(accept_proxy=(HERE,), **more))  # type: ignore[arg-type]  # send_proxy


@pytest.mark.parametrize("said", [header.v1(CLIENT, DIALLED), header.v2(CLIENT, DIALLED, TLV)])
def test_what_a_trusted_peer_says_is_passed_on_with_its_tlvs_byte_by_byte(stage: Stage, said: bytes) -> None:
    server, backend = stage.server()
    client = stage.client(trusting(stage, backend, send_proxy="v2"))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in said + b"x":
        client.sendall(bytes([byte]))
    told, rest = introduced(stage.accept(server))
    assert told == Header(CLIENT, DIALLED, TLV if TLV in said else b"")
    assert rest in {b"", b"x"}


@pytest.mark.parametrize("said", [LOCAL, b"PROXY UNKNOWN\r\n"])
def test_a_trusted_peer_that_speaks_for_itself_is_the_client(stage: Stage, said: bytes) -> None:
    server, backend = stage.server()
    client = stage.client(trusting(stage, backend, send_proxy="v1"))
    client.sendall(said + b"ping")
    inner = stage.accept(server)
    assert introduced(inner)[0] == Header(client.getsockname(), client.getpeername())


def test_without_send_proxy_the_header_ends_here(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(trusting(stage, backend))
    client.sendall(header.v2(CLIENT, DIALLED) + b"hello")
    client.shutdown(socket.SHUT_WR)
    assert read_all(stage.accept(server)) == b"hello"


def test_peers_that_are_not_trusted_are_clients(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(accept_proxy=("192.0.2.0/24", "2001:db8::/32")))
    client = stage.client(front)
    said = header.v2(CLIENT, DIALLED)
    client.sendall(said)
    client.shutdown(socket.SHUT_WR)
    assert read_all(stage.accept(server)) == said


def test_who_it_is_decides_where_it_is_led(stage: Stage) -> None:
    servers = [stage.server() for _ in range(3)]
    named = {backend: server for server, backend in servers}
    front = stage.frontend(*named, choice=Choice.HASH, terms=Terms(accept_proxy=(HERE,), send_proxy="v2"))
    found: dict[str, set[Backend]] = {}
    for number in range(16):
        whose = (f"192.0.2.{number % 8}", 1000 + number)
        stage.client(front).sendall(header.v2(whose, DIALLED))
        (ready, *others), _, _ = select.select(named.values(), [], [])
        assert not others
        assert introduced(stage.accept(ready))[0].source == whose
        found.setdefault(whose[0], set()).add(Backend(*ready.getsockname()))
    assert {len(backends) for backends in found.values()} == {1}, "by its address"
    assert len(set.union(*found.values())) > 1, "and not by that of the peer"


def _waits(server: socket.socket) -> bool:
    """Whether somebody comes soon: where nobody does this costs its timeout."""
    return bool(select.select([server], [], [], 0.05)[0])


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n", b"PROXY TCP4 nonsense\r\n", header.v2(CLIENT, DIALLED, b"\1")])
def test_a_trusted_peer_that_sends_no_header_is_reset_and_counted(stage: Stage, said: bytes) -> None:
    server, backend = stage.server()
    front = trusting(stage, backend)
    client = stage.client(front)
    client.sendall(said)
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert until(lambda: stage.counted(front, BAD_HEADERS)) == 1
    assert not _waits(server)


def test_a_trusted_peer_that_finishes_in_the_middle_is_reset(stage: Stage) -> None:
    client = stage.client(trusting(stage, stage.server()[1]))
    client.sendall(header.v2(CLIENT, DIALLED)[:20])
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        read_all(client)


def test_peers_count_from_when_they_come_and_no_more_once_they_are_refused(stage: Stage) -> None:
    server, backend = stage.server()
    front = trusting(stage, backend, most_connections=2)
    peers = [stage.client(front) for _ in range(2)]
    until(lambda: stage.happened("active") == len(peers))
    waiting = stage.client(front)
    waiting.sendall(header.v1(CLIENT, DIALLED) + b"third")
    until(lambda: stage.counted(front, AT_LIMIT) == 1)
    assert not _waits(server)
    peers[0].sendall(b"GET / HTTP/1.1\r\n")
    assert stage.accept(server).recv(10) == b"third"
    peers[1].sendall(header.v1(CLIENT, DIALLED) + b"second")
    assert stage.accept(server).recv(10) == b"second"


def test_a_limit_that_comes_while_a_peer_introduces_itself_counts_it(stage: Stage) -> None:
    server, backend = stage.server()
    front = trusting(stage, backend)
    peer = stage.client(front)
    until(lambda: stage.happened("active") == 1)
    stage.update(front, backend, terms=Terms(accept_proxy=(HERE,), most_connections=1))
    peer.sendall(header.v1(CLIENT, DIALLED) + b"first")
    inner = stage.accept(server)
    assert inner.recv(10) == b"first"
    stage.client(front).sendall(header.v1(CLIENT, DIALLED) + b"second")
    until(lambda: stage.counted(front, AT_LIMIT) == 1)
    peer.close()
    inner.close()
    assert stage.accept(server).recv(10) == b"second"


def test_one_that_keeps_its_header_to_itself_is_refused_in_the_end() -> None:
    now, refused = [1000.0], []
    place = Place(Loop(lambda: now[0]), 1000)
    client, ours = socket.socketpair()
    inner = _socket.socket(ours.family, ours.type, 0, ours.detach())
    Greeting(place, inner, lambda *_: None, lambda _sock, why: refused.append(why))
    client.sendall(b"PROXY TCP4 ")
    for seconds in (0.0, GREETING_SECONDS / 2, GREETING_SECONDS):
        assert not refused
        now[0] += seconds
        place.loop.again(lambda: None)
        place.loop.turn()
    assert refused == [Why.LATE_HEADER]
    inner.close()
    client.close()


@needs_haproxy
@pytest.mark.parametrize("form", ["v1", "v2"])
def test_haproxy_behind_us_knows_the_client(
    stage: Stage, haproxy: Callable[[str, socket.socket], None], form: str
) -> None:
    """It takes our header, and tells what it understood by its own."""
    server, backend = stage.server()
    listener = stage.keep(socket.create_server((HOST, 0)))
    haproxy(f"  bind fd@{{listener}} accept-proxy\n  server one {backend} send-proxy-v2\n", listener)
    front = stage.frontend(Backend(*listener.getsockname()), terms=Terms(send_proxy=form))
    client = stage.client(front)
    client.sendall(b"hello")
    inner = stage.accept(server)
    said, rest = introduced(inner)
    assert said._replace(tlvs=b"") == Header(client.getsockname(), stage.address(front))
    while len(rest) < len(b"hello"):
        rest += inner.recv(100)
    assert rest == b"hello"


@needs_haproxy
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy_before_us_tells_us_the_client(
    stage: Stage, haproxy: Callable[[str, socket.socket], None], option: str
) -> None:
    server, backend = stage.server()
    front = trusting(stage, backend, send_proxy="v2")
    listener = stage.keep(socket.create_server((HOST, 0)))
    host, port = stage.address(front)
    lines = f"  bind fd@{{listener}}\n  unique-id-format %ci-%cp\n  server one {host}:{port} {option}\n"
    haproxy(lines, listener)
    client = stage.keep(socket.create_connection(listener.getsockname(), PATIENCE_SECONDS))
    client.sendall(b"hello")
    said, _ = introduced(stage.accept(server))
    assert said._replace(tlvs=b"") == Header(client.getsockname(), listener.getsockname())
    name = f"{HOST}-{client.getsockname()[1]}".encode()
    wanted = b"\x05" + len(name).to_bytes(2) + name  # PP2_TYPE_UNIQUE_ID
    assert said.tlvs == (wanted if "unique-id" in option else b"")
