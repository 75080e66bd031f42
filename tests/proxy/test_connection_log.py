"""The log of connections as an operator reads it: lines of JSON on the worker's stderr."""

import json
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from svcnet.model.terms import Terms
from svcnet.proxy import connection_log, header
from svcnet.proxy.connection_log import MOST_LINES, ConnectionLog, Entry
from svcnet.proxy.counts import CONNECTIONS
from svcnet.proxy.origin import Origin
from svcnet.proxy.why import Why
from tests.harness.until import until
from tests.proxy.stage import PATIENCE_SECONDS, Stage, read_all, reset

CLIENT, DIALLED = ("192.0.2.1", 4711), ("198.51.100.7", 443)
Lines = Callable[[int], list[dict[str, Any]]]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "connections.md"


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    """Waits for so many lines, in all."""
    read: list[str] = []

    def wait(number: int) -> list[dict[str, Any]]:
        def told() -> bool:
            read.extend(line for line in capfd.readouterr().err.splitlines() if line.startswith("{"))
            return len(read) >= number

        until(told, lambda: str(read))
        return [json.loads(line) for line in read]

    return wait


def talk(stage: Stage, front: int, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A question of 8 bytes, an answer of 6."""
    client = stage.client(front)
    client.sendall(b"question")
    inner = stage.accept(server)
    while len(inner.recv(200, socket.MSG_PEEK)) < len(b"question"):
        pass
    inner.sendall(b"answer")
    assert client.recv(100) == b"answer"
    return client, inner


def test_a_connection_is_a_line_of_json(lines: Lines) -> None:
    with Stage(log_every=1) as stage:
        server, backend = stage.server()
        dead = stage.dead()
        front = stage.frontend(dead, backend)
        client, inner = talk(stage, front, server)
        name = client.getsockname()
        client.close()
        inner.recv(100)
        assert inner.recv(1) == b""
        inner.close()
        (line,) = lines(1)
        assert line.pop("time") > 1e9
        assert 0 <= line.pop("dial_ms") <= line.pop("duration_ms")
        assert line == {
            "service": f"service {front}",
            "frontend": "{}:{}".format(*stage.address(front)),
            "client": "{}:{}".format(*name),
            "endpoint": str(backend),
            "bytes_in": 8,
            "bytes_out": 6,
            "tries": 2,
            "why": "CF",
        }


def test_headers_are_not_among_the_bytes_and_who_said_so_is_told(lines: Lines) -> None:
    with Stage(log_every=1) as stage:
        server, backend = stage.server()
        front = stage.frontend(backend, terms=Terms(accept_proxy=("127.0.0.0/8",), send_proxy="v2"))
        client = stage.client(front)
        client.sendall(header.v1(CLIENT, DIALLED) + b"question")
        peer = client.getsockname()
        client.shutdown(socket.SHUT_WR)
        inner = stage.accept(server)
        read_all(inner)
        inner.close()
        (line,) = lines(1)
    wanted = {"frontend": "198.51.100.7:443", "client": "192.0.2.1:4711", "by": "{}:{}".format(*peer), "bytes_in": 8}
    assert {key: line[key] for key in wanted} == wanted


def finishes_last(_stage: Stage, client: socket.socket, inner: socket.socket) -> None:
    inner.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.close()


def resets(_stage: Stage, client: socket.socket, _inner: socket.socket) -> None:
    reset(client)


def is_reset(_stage: Stage, _client: socket.socket, inner: socket.socket) -> None:
    reset(inner)


def says_nothing(_stage: Stage, _client: socket.socket, _inner: socket.socket) -> None:
    pass


def is_half_closed(_stage: Stage, client: socket.socket, _inner: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def is_removed(stage: Stage, _client: socket.socket, _inner: socket.socket) -> None:
    stage.drop(1)


def is_stopped(stage: Stage, _client: socket.socket, _inner: socket.socket) -> None:
    stage.child.stop()


@pytest.mark.parametrize(
    ("do", "terms", "why"),
    [
        (finishes_last, Terms(), "SF"),
        (resets, Terms(), "CR"),
        (is_reset, Terms(), "SR"),
        (says_nothing, Terms(idle_seconds=0.1), "TI"),
        (is_half_closed, Terms(half_closed_seconds=0.1), "TH"),
        (is_removed, Terms(drain_seconds=0.0), "KD"),
        (is_stopped, Terms(), "KS"),
    ],
)
def test_what_ended_it_is_told(
    lines: Lines, do: Callable[[Stage, socket.socket, socket.socket], None], terms: Terms, why: str
) -> None:
    with Stage(log_every=1) as stage:
        server, backend = stage.server()
        front = stage.frontend(backend)
        ends = talk(stage, front, server)
        stage.update(front, backend, terms=terms)  # not before: the conversation might take longer
        do(stage, *ends)
        line = lines(1)[0]
    assert (line["why"], line["bytes_in"], line["bytes_out"]) == (why, 8, 6)


def _talk_and_read(client: socket.socket, said: bytes) -> None:
    if said:
        client.sendall(said)
    read_all(client)


def test_clients_that_reach_no_endpoint_are_told_too(lines: Lines) -> None:
    with Stage(log_every=1) as stage:
        dead = stage.dead()
        refused = stage.frontend(dead)
        _, silent = stage.server(backlog=0)
        for _ in range(3):  # what the queue takes; after that nobody answers
            waiting = stage.keep(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent)
        slow = stage.frontend(silent, terms=Terms(connect_seconds=(0.05, 0.05)))
        strict = stage.frontend(dead, terms=Terms(accept_proxy=("127.0.0.0/8",)))
        found = []
        for number, (front, said) in enumerate(((refused, b""), (slow, b""), (strict, b"HELO")), 1):
            with pytest.raises(ConnectionResetError):  # of the connect itself, where it comes that soon
                _talk_and_read(stage.client(front), said)
            found.append(lines(number)[-1])
    told = [(line["why"], line["endpoint"], line["tries"], line["dial_ms"], line["bytes_in"]) for line in found]
    assert told == [("NR", str(dead), 1, None, 0), ("NT", str(silent), 2, None, 0), ("HB", None, 0, None, 0)]


def test_none_is_logged_unless_asked_for(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    client, _ = talk(stage, front, server)
    client.close()
    until(lambda: stage.counted(front, CONNECTIONS))
    stage.child.stop()
    assert "{" not in capfd.readouterr().err


ENTRY = Entry("default/web", Origin(CLIENT, DIALLED), None, 0, 0, None, 0.0, 1, Why.IDLE)


def test_about_one_of_so_many_is_logged() -> None:
    log = ConnectionLog(10, os.open(os.devnull, os.O_WRONLY))
    assert 500 < sum(log.is_due() for _ in range(10_000)) < 2000


def test_a_reader_that_stands_still_holds_up_nobody_and_what_is_lost_is_known() -> None:
    reader, writer = os.pipe()
    log = ConnectionLog(1, writer, lambda: 0.0)
    number, lost = MOST_LINES * 10, 0
    for _ in range(number):
        lost += not log.note(ENTRY)
    assert 0 < lost < number
    read = b""
    while read.count(b"\n") < number - lost:
        read += os.read(reader, 1 << 16)
    assert read.count(b"\n") == number - lost
    os.close(reader)


def test_the_end_waits_for_lines_that_are_read_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_log, "CLOSE_SECONDS", PATIENCE_SECONDS)
    reader, writer = os.pipe()
    log = ConnectionLog(1, writer, lambda: 0.0)
    number = 0
    while log.note(ENTRY):  # until there is no room for more, as nobody reads
        number += 1
    put, begun = log._said.put, Event()

    def tell(*arguments: Any, **named: Any) -> None:
        begun.set()
        put(*arguments, **named)

    monkeypatch.setattr(log._said, "put", tell)
    with ThreadPoolExecutor() as others:
        others.submit(log.close).add_done_callback(lambda _: os.close(writer))
        begun.wait()
        read = 0
        while data := os.read(reader, 1 << 16):
            read += data.count(b"\n")
    assert read == number
    os.close(reader)


def test_every_code_is_explained() -> None:
    page = PAGE.read_text()
    assert not [why for why in Why if why is not Why.UNKNOWN and f"| `{why.value}` |" not in page]
