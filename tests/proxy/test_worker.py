"""A worker process that is killed, that has few file descriptors, that loses its parent."""

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from svcnet.model.frontend import Frontend
from svcnet.model.terms import Terms
from svcnet.proxy import child
from svcnet.proxy.child import Started
from svcnet.proxy.lead import Lead, Neighbours
from svcnet.proxy.listener import Hall, TcpDoor
from svcnet.proxy.loop import Loop
from svcnet.proxy.patience import Patience
from svcnet.proxy.place import Place
from svcnet.wire import Inbox, encode, send
from tests.harness.until import until
from tests.proxy.stage import HOST, Stage, leading_to, state

FEW = 256


class Crowd(NamedTuple):
    """A worker, its one backend, and more clients than the worker may have file descriptors."""

    stage: Stage
    server: socket.socket
    clients: list[socket.socket]


@pytest.fixture
def crowded() -> Iterator[Crowd]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        with Stage() as stage:
            server, backend = stage.server(backlog=2 * FEW)
            front = stage.frontend(backend)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # our own: the worker keeps the few
            yield Crowd(stage, server, [stage.client(front) for _ in range(FEW)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files(pid: int) -> int:
    """How many file descriptors it has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_frames_arrive_whole_however_they_are_cut() -> None:
    one, other = socket.socketpair()
    with one, other, Path(os.devnull).open() as null:
        inbox = Inbox()
        for byte in encode({"a": 1}):
            assert inbox.take() is None
            one.send(bytes([byte]))
            inbox.receive(other)
        assert inbox.take() == ({"a": 1}, [])
        send(one, {"b": 2}, [null.fileno()])
        send(one, {"c": 3})
        until(lambda: inbox.receive(other) and inbox.receive(other))
        message, fds = inbox.take() or ({}, [])
        assert message == {"b": 2}
        assert os.path.samestat(os.fstat(fds[0]), os.fstat(null.fileno()))
        os.close(fds[0])
        assert inbox.take() == ({"c": 3}, [])


def test_a_killed_worker_is_started_again(stage: Stage) -> None:
    until(stage.child.confirm)
    before = stage.child.pid
    os.kill(before, signal.SIGKILL)
    until(lambda: stage.child.pid != before and stage.child.confirm())
    assert stage.child.starts == 2


def test_sigterm_ends_a_worker_that_has_no_daemon_and_no_other(stage: Stage) -> None:
    server, backend = stage.server()
    listener = stage.keep(socket.create_server((HOST, 0)))
    process, control = child.start()
    try:
        send(control, {"put": [[1, "tcp", True, False, leading_to(1, backend)]]}, [listener.fileno()])
        client = stage.keep(socket.create_connection(listener.getsockname()))
        inner = stage.accept(server)
        send(control, {"drain": True, "alone": True})
        process.terminate()
        client.sendall(b"still")
        assert inner.recv(5) == b"still"
        control.close()

        def ended() -> bool:
            process.terminate()
            return process.poll() is not None

        until(ended)
        assert process.returncode in {0, -signal.SIGTERM}, "the second if another one came while it ended"
        assert not client.recv(1)
    finally:
        control.close()
        process.kill()
        process.wait()


def test_clients_beyond_the_file_limit_wait_and_are_served_when_there_is_room(crowded: Crowd) -> None:
    stage, server, clients = crowded
    pid = stage.child.pid
    for number, one in enumerate(clients):
        one.send(number.to_bytes(2))
    for _ in clients:
        inner = stage.accept(server)
        number = int.from_bytes(inner.recv(2))
        inner.close()
        assert clients[number].recv(1) == b""
        clients[number].close()
    assert stage.child.pid == pid, "it is the same worker"


def test_a_worker_that_is_full_does_not_spin(crowded: Crowd) -> None:
    pid = crowded.stage.child.pid
    until(lambda: open_files(pid) > FEW - 80)
    looks = 0

    def asleep_a_hundred_times() -> bool:
        nonlocal looks
        looks = looks + 1 if state(pid) == "S" else 0
        return looks > 100

    until(asleep_a_hundred_times)
    assert open_files(pid) < FEW


def test_a_worker_that_is_full_of_connections_takes_new_frontends(crowded: Crowd) -> None:
    pid = crowded.stage.child.pid
    until(lambda: open_files(pid) > FEW - 80)
    _, backend = crowded.stage.server()
    for _ in range(20):
        crowded.stage.frontend(backend)
    assert crowded.stage.child.pid == pid
    assert open_files(pid) < FEW


def test_a_worker_that_hangs_is_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    until(stage.child.confirm)
    before = stage.child.pid
    os.kill(before, signal.SIGSTOP)
    with monkeypatch.context() as hasty:
        hasty.setattr(child, "CONFIRM_SECONDS", 0.2)
        assert not stage.child.confirm()
    until(lambda: stage.child.pid not in {0, before} and stage.child.confirm())


def test_a_worker_that_takes_long_to_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    start = child.start

    def slowly() -> Started:
        monkeypatch.setattr(child, "start", start)  # its spare is to be as quick as ever
        started = start()
        os.kill(started.process.pid, signal.SIGSTOP)
        return started

    monkeypatch.setattr(child, "start", slowly)
    with Stage() as stage, ThreadPoolExecutor() as others:
        until(lambda: stage.child.pid)
        with monkeypatch.context() as hasty:
            hasty.setattr(child, "CONFIRM_SECONDS", 0.001)
            confirmed = others.submit(stage.child.confirm)
            until(lambda: stage.child._asked)
            stage.go_on()
            assert confirmed.result()
        assert stage.child.starts == 1


def test_a_worker_that_dies_again_and_again_is_started_again(stage: Stage) -> None:
    for number in range(1, 4):
        until(stage.child.confirm)
        assert stage.child.starts == number
        os.kill(stage.child.pid, signal.SIGKILL)
        until(lambda: not stage.child.confirm())
    until(stage.child.confirm)


def test_a_worker_ends_when_its_parent_does() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", "svcnet.proxy.worker", str(theirs.fileno())]
        worker = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    ours.close()
    assert worker.wait(30) == 0


def test_what_is_not_a_frontend_says_so_in_words() -> None:
    assert str(Frontend(4, "10.0.0.5", "tcp", 80)) == "10.0.0.5 tcp/80"


def test_a_worker_that_lives_gets_a_spare_which_takes_its_place(stage: Stage) -> None:
    spare = until(lambda: spares_of(os.getpid()) - {stage.child.pid})
    os.kill(stage.child.pid, signal.SIGKILL)
    until(lambda: stage.child.pid in spare and stage.child.confirm())


def test_a_spare_that_was_killed_is_nobodys_place(stage: Stage) -> None:
    (spare,) = until(lambda: spares_of(os.getpid()) - {stage.child.pid})
    os.kill(spare, signal.SIGKILL)
    os.kill(stage.child.pid, signal.SIGKILL)
    until(lambda: stage.child.pid not in {0, spare} and stage.child.confirm())


def test_a_spare_ends_with_its_worker() -> None:
    with Stage() as stage:
        spare = until(lambda: spares_of(os.getpid()) - {stage.child.pid})
    assert not spares_of(os.getpid()) & spare


def spares_of(pid: int) -> set[int]:
    """Its children that wait for a worker's end."""
    lists = [read(file).split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    found = {int(child) for some in lists for child in some}
    return {child for child in found if read(Path(f"/proc/{child}/comm")) == "proxy-spare\n"}


def read(file: Path) -> str:
    """What is there; nothing of a thread or process that has just ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


def test_a_frontend_that_is_closed_leaves_nothing_behind() -> None:
    place = Place(Loop(), 1000)
    lead = Lead(Neighbours((), lambda _: False), lambda: 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = TcpDoor(place, Hall(place), listener, lead, Patience(place))
        door.update(terms=Terms(drain_seconds=60.0, idle_seconds=5.0))
        door.close()
        there = weakref.ref(door)
        gc.disable()  # as in a worker
        try:
            del door
            assert there() is None
        finally:
            gc.enable()
