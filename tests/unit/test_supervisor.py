"""Workers: fed, behind, dead, and never waited for. Real processes, that write down what they are told."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from svcnet import feed
from svcnet.endpoints import Networks
from svcnet.feed import Change, Frame, Whole
from svcnet.model.event import Delete, Put, Synced
from svcnet.model.meta import Key, Meta
from svcnet.model.node import Node
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Delta
from svcnet.supervisor import Crew, Program
from svcnet.tracker import Tracker
from tests.harness.until import PATIENCE_SECONDS

# Writes each payload to a file of its own, by rename; waits while a file `hold` is there.
SCRIBE = """
import os, pathlib, socket, sys, time
from svcnet.feed import Splitter
place = pathlib.Path(sys.argv[1])
feed, frames, number = socket.socket(fileno=int(sys.argv[2])), Splitter(), 0
(place / f"pid-{os.getpid()}").touch()
for numbers in sys.argv[3:]:
    (place / f"socket-{socket.socket(fileno=int(numbers)).getsockname()[1]}").touch()
while (place / "hold").exists():
    time.sleep(0.01)
while data := feed.recv(65536):
    for payload in frames.feed(data):
        new = place / f".new-{os.getpid()}"
        new.write_bytes(payload)
        new.rename(place / f"{os.getpid()}-{number:06}")
        number += 1
"""


class Scribe:
    """What the workers of one test wrote."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.states: list[str] = []
        self.tracker = Tracker(Networks(()), "m1")
        self.tracker.fold([Synced(1, frozenset())])
        self.rev = 1

    def program(self, *sockets: socket.socket) -> Program:
        return Program("scribe", (sys.executable, "-c", SCRIBE, str(self.place)), b"hello", sockets)

    def pids(self) -> list[int]:
        return [int(p.name.removeprefix("pid-")) for p in self.place.glob("pid-*")]

    def told(self, pid: int) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.place.glob(f"{pid}-*"))]

    def frames(self, pid: int) -> list[Frame]:
        return [feed.decode(payload) for payload in self.told(pid)[1:]]

    def known(self, pid: int) -> dict[str, str]:
        """Service → address, as the worker has it after all frames."""
        services: dict[str, str] = {}
        begun = False
        for frame in self.frames(pid):
            if isinstance(frame, Whole):
                services = services if begun else {}
                begun = not frame.last
            for entry in frame.entries:
                services.pop(entry.name, None)
                if entry.service:
                    services[entry.name] = entry.service.cluster_ips[0]
        return services

    def put(self, name: str, address: str) -> Delta:
        self.rev += 1
        record = Service(Meta(name, "default"), (ServicePort(80),), cluster_ips=(address,))
        return self.tracker.fold([Put(record, self.rev)])

    def drop(self, name: str) -> Delta:
        self.rev += 1
        return self.tracker.fold([Delete(Key("Service", "default", name), self.rev)])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def true(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def crew(scribe: Scribe, count: int = 1, *sockets: socket.socket) -> AsyncIterator[Crew]:
    running = Crew([scribe.program(*sockets)] * count, scribe.states.append)
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not any(map(alive, scribe.pids())), "workers end with their crew"


def test_a_worker_is_greeted_then_told_the_whole_then_changes(tmp_path: Path) -> None:
    async def scenario() -> None:
        scribe = Scribe(tmp_path)
        async with crew(scribe) as running:
            await true(scribe.pids)
            (pid,) = scribe.pids()
            await true(lambda: len(scribe.told(pid)) == 2)
            assert scribe.told(pid)[0] == b"hello"
            assert scribe.frames(pid) == [Change(0, ())], "there is no whole to wait for"
            running.publish(scribe.tracker.snapshot, scribe.put("a", "10.0.0.1"))
            running.publish(scribe.tracker.snapshot, Delta(2))
            await true(lambda: scribe.known(pid) == {"a": "10.0.0.1"})
            assert isinstance(scribe.frames(pid)[1], Whole)
            delta = scribe.put("b", "10.0.0.2")
            running.publish(scribe.tracker.snapshot, delta)
            await true(lambda: scribe.known(pid) == {"a": "10.0.0.1", "b": "10.0.0.2"})
            assert isinstance(scribe.frames(pid)[-1], Change)
            assert len(scribe.frames(pid)[-1].entries) == 1
            delta = scribe.drop("a")
            running.publish(scribe.tracker.snapshot, delta)
            await true(lambda: scribe.known(pid) == {"b": "10.0.0.2"})
            assert scribe.states == ["running"]

    asyncio.run(scenario())


def test_a_worker_is_told_everything_when_the_minion_is_in_another_zone(tmp_path: Path) -> None:
    async def scenario() -> None:
        scribe = Scribe(tmp_path)
        async with crew(scribe) as running:
            delta = scribe.put("a", "10.0.0.1")
            running.publish(scribe.tracker.snapshot, delta)
            await true(scribe.pids)
            (pid,) = scribe.pids()
            await true(lambda: scribe.known(pid))
            here = Node(Meta("m1", labels=(("topology.kubernetes.io/zone", "east"),)))
            delta = scribe.tracker.fold([Put(here, 9)])
            running.publish(scribe.tracker.snapshot, delta)
            await true(lambda: len(scribe.frames(pid)) == 2)
            last = scribe.frames(pid)[-1]
            assert isinstance(last, Whole)
            assert (last.zone, [e.name for e in last.entries]) == ("east", ["a"])
            delta = scribe.put("b", "10.0.0.2")
            running.publish(scribe.tracker.snapshot, delta)
            await true(lambda: len(scribe.known(pid)) == 2)
            assert isinstance(scribe.frames(pid)[-1], Change)

    asyncio.run(scenario())


def test_a_worker_that_is_behind_is_told_the_last_state_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        scribe = Scribe(tmp_path)
        (tmp_path / "hold").touch()
        async with crew(scribe) as running:
            await true(scribe.pids)
            (pid,) = scribe.pids()
            for number in range(20_000):
                delta = scribe.put(f"s{number % 50}", f"10.0.{number % 250}.1")
                running.publish(scribe.tracker.snapshot, delta)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            (tmp_path / "hold").unlink()
            wanted = {s.meta.name: s.cluster_ips[0] for s in scribe.tracker.snapshot.services.values()}
            await true(lambda: scribe.known(pid) == wanted)
            # 20,000 changes came; what a socket holds, and one more of everything, is what it was told.
            assert len(scribe.frames(pid)) < 20_000

    asyncio.run(scenario())


def test_a_worker_that_dies_is_started_again_with_its_sockets_and_the_current_state(tmp_path: Path) -> None:
    async def scenario(listening: socket.socket) -> None:
        scribe = Scribe(tmp_path)
        async with crew(scribe, 2, listening) as running:
            await true(lambda: len(scribe.pids()) == 2)
            delta = scribe.put("a", "10.0.0.1")
            running.publish(scribe.tracker.snapshot, delta)
            victim, other = scribe.pids()
            await true(lambda: scribe.known(victim) == scribe.known(other) == {"a": "10.0.0.1"})
            os.kill(victim, signal.SIGKILL)
            await true(lambda: len(scribe.pids()) == 3)
            (fresh,) = {*scribe.pids()} - {victim, other}
            await true(lambda: scribe.known(fresh) == {"a": "10.0.0.1"})
            assert "failed: signal 9" in scribe.states
            await true(lambda: scribe.states[-1] == "running")
            delta = scribe.put("b", "10.0.0.2")
            running.publish(scribe.tracker.snapshot, delta)
            await true(lambda: len(scribe.known(fresh)) == len(scribe.known(other)) == 2)
            assert len(scribe.frames(other)) <= 3, "the other was told nothing twice"
            assert (tmp_path / f"socket-{listening.getsockname()[1]}").exists()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(scenario(listening))


@pytest.mark.parametrize(("argv", "why"), [(("/nothing/there",), "No such file"), (("/bin/false",), "exit 1")])
def test_a_program_that_can_t_run_is_a_state_and_no_end(argv: tuple[str, ...], why: str) -> None:
    async def scenario() -> None:
        states: list[str] = []
        task = asyncio.create_task(Crew([Program("none", argv, b"")], states.append).run())
        await true(lambda: any(state.startswith("failed") and why in state for state in states))
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_the_first_frame_is_the_greeting_as_it_was_given() -> None:
    assert list(feed.Splitter().feed(feed.framed(msgspec.msgpack.encode({"a": 1})))) == [
        msgspec.msgpack.encode({"a": 1})
    ]
