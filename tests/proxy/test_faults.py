"""Bugs in the worker's own code: what they cost, and what is said of them."""

import fcntl
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svcnet.model.terms import EndpointLimit, Terms
from svcnet.proxy import child
from svcnet.proxy.child import Started
from svcnet.proxy.faults import TRACE_SECONDS, Faults
from svcnet.proxy.row import Backend
from svcnet.wire import encode
from tests.harness.time import Time
from tests.harness.until import until
from tests.proxy.buggy import SAID
from tests.proxy.stage import HOST, PATIENCE_SECONDS, Stage, leading_to, read_all

ROOT = Path(__file__).resolve().parents[2]
BEYOND_SELECT = 1100
"""A number that select(2) does not know: a daemon with as many listeners gives its later workers such ones."""
BUGGY = [sys.executable, "-m", "tests.proxy.buggy"]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Its worker has bugs (buggy.py)."""

    def start() -> Started:
        ours, theirs = socket.socketpair()
        with theirs:
            number = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, BEYOND_SELECT)
        process = subprocess.Popen([*BUGGY, str(number)], pass_fds=[number], stdin=subprocess.DEVNULL, cwd=ROOT)
        os.close(number)
        return Started(process, ours)

    monkeypatch.setattr(child, "start", start)
    with at_least(2 * BEYOND_SELECT), Stage() as made:
        yield made
        made.hang_up()
        until(lambda: not made.happened("active"))
        assert made.child.starts == 1, "it is the same worker as in the beginning"


@contextmanager
def at_least(files: int) -> Iterator[None]:
    """This process, and those that it starts, may have so many file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, files), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_fault_in_one_connection_resets_both_of_its_sides_and_no_other(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    (one, its), (other, others) = ((stage.client(front), stage.accept(server)) for _ in range(2))
    one.sendall(SAID)
    for end in (one, its):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    other.sendall(b"hello")
    assert others.recv(10) == b"hello"
    assert stage.happened("active") == 1


def test_faults_are_counted_and_told_and_leave_nothing_open(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    stage.client(front).close()
    stage.accept(server).close()
    until(lambda: not stage.happened("active"))
    before = open_files(stage.child.pid)
    for _ in range(20):
        client = stage.client(front)
        client.sendall(SAID)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        stage.accept(server).close()
    until(lambda: stage.child.faults == 20)
    assert "LookupError: a bug in pump" in stage.child.last_fault
    until(lambda: "Traceback" in caplog.text)
    assert caplog.text.count("Traceback") == 1, "one in ten seconds"
    assert "_turn" in caplog.text
    until(lambda: open_files(stage.child.pid) <= before)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("bug", ["settle", "_dialled", "_timed_out", "_queue", "seated", "_greet"])
def test_a_fault_at_any_turn_costs_the_one_client(stage: Stage, bug: str) -> None:
    server, backend = stage.server()
    terms = {
        "_queue": Terms(endpoint_limit=EndpointLimit(1)),
        "seated": Terms(endpoint_limit=EndpointLimit(1)),
        "_greet": Terms(send_proxy="v1"),
        "_timed_out": Terms(connect_seconds=(0.05,)),
    }
    buggy = {"_dialled": stage.dead, "_timed_out": stage.silent}.get(bug, lambda: backend)()
    front = stage.frontend(buggy, name=f"bug in {bug}", terms=terms.get(bug, Terms()))
    sound = stage.frontend(backend)
    other = stage.client(sound)
    others = stage.accept(server)
    if bug == "settle":
        stage.client(front).close()
        stage.accept(server).close()
    elif bug == "seated":
        first, held, second = stage.client(front), stage.accept(server), stage.client(front)
        until(lambda: stage.happened("active") == 3)
        held.close()
        first.close()
        with pytest.raises(ConnectionResetError):
            second.recv(1)
    else:
        if bug == "_queue":
            stage.client(front)
            stage.accept(server)
        with pytest.raises(ConnectionResetError):  # it may come while the client still connects
            stage.client(front).recv(1)
    until(lambda: stage.child.faults == 1)
    other.sendall(b"hello")
    assert others.recv(10) == b"hello"


def test_a_fault_in_a_round_of_looks_leaves_the_others_their_timeouts(stage: Stage) -> None:
    _, backend = stage.server()
    terms = Terms(idle_seconds=0.2)
    buggy, sound = (
        stage.frontend(backend, name="bug in lose_patience", terms=terms),
        stage.frontend(backend, terms=terms),
    )
    for _ in range(2):
        clients = [stage.keep(socket.socket()) for _ in range(3)]
        for client, front in zip(clients, (buggy, sound, sound), strict=True):
            client.setblocking(False)
            client.connect_ex(stage.address(front))
        for client in clients:
            client.settimeout(PATIENCE_SECONDS)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    until(lambda: stage.child.faults)


def test_a_fault_while_a_header_is_read_costs_its_client(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(accept_proxy=("127.0.0.0/8",), most_connections=2))
    client = stage.client(front)
    client.sendall(b"PROXY bug\r\n")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    for _ in range(4):  # it has left room for others, as often as it may
        good = stage.client(front)
        good.sendall(b"PROXY UNKNOWN\r\nhello")
        inner = stage.accept(server)
        assert inner.recv(10) == b"hello"
        good.close()
        inner.close()
    until(lambda: stage.child.faults == 1)


def test_a_fault_in_a_flow_costs_one_datagram(stage: Stage) -> None:
    server, backend = stage.server(socket.SOCK_DGRAM)
    front = stage.frontend(backend, protocol="udp")
    client, other = (stage.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (client, other):
        sock.connect(stage.address(front))
        sock.send(b"hello")
        assert server.recv(10) == b"hello"
    client.send(SAID)
    until(lambda: stage.child.faults == 1)
    for sock in (client, other):
        sock.send(b"again")
        data, where = server.recvfrom(10)
        assert data == b"again"
        server.sendto(b"yes", where)
        assert sock.recv(10) == b"yes"
    assert stage.happened("flows") == 2
    stage.drop(front)
    assert not stage.happened("flows")


def test_a_message_that_nobody_understands_changes_nothing(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    rule = leading_to(front, Backend(HOST, 9))
    good, port = stage.keep(socket.create_server((HOST, 0))), stage.keep(socket.create_server((HOST, 0)))
    other = leading_to(98, backend)
    rows = [
        [front, "tcp", False, False, [*rule[:3], "no such choice", *rule[4:]], 0, []],
        [97, "tcp", True, False, [*rule[:3], "no such choice", *rule[4:]], 0, []],
        [12345, "tcp", False, False, rule, 0, []],
        ["too", "short"],
        [98, "tcp", True, False, other, 0, []],
    ]
    stage.tell({"put": rows, "drop": 7, "unheard of": 1}, [])
    stage.tell({"put": rows}, [port.fileno(), good.fileno()])
    stage.child.tell([({"put": rows}, ())])
    assert stage.child._socket is not None
    stage.child._socket.sendall(encode({}).replace(b"{}", b"{:"))
    for where in (stage.address(front), good.getsockname()):
        client = stage.keep(socket.create_connection(where))
        inner = stage.accept(server)
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        assert read_all(inner) == b"hello"
    with pytest.raises(ConnectionResetError):
        stage.keep(socket.create_connection(port.getsockname())).recv(1)
    until(lambda: stage.child.faults == 11)


def test_a_fault_whose_owner_can_not_even_be_ended_is_two() -> None:
    time, said = Time(), list[str]()
    faults = Faults(lambda: time.now, said.append)

    class Stubborn:
        def abort(self) -> None:
            raise OSError("no")

        def call(self) -> None:
            """What was called."""

    for _ in range(3):
        faults.take(Stubborn().call, ValueError("first"))
    assert faults.count == 6
    assert len(said) == 1
    assert faults.last.startswith("OSError: no")
    time.go(TRACE_SECONDS)
    faults.take(None, ValueError("later"))
    assert len(said) == 2
    assert "later" in said[1]
