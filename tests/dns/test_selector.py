"""Datagrams that never end beside everything else that a loop waits for."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest

from svcnet.dns.selector import Selector

PATIENCE_SECONDS = 30


@pytest.fixture
def flooded() -> Iterator[socket.socket]:
    """A socket that always has something to read, as nobody reads it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.sendto(b"more", bound.getsockname())
        yield bound


def beside(flooded: socket.socket, work: Callable[[], Awaitable[None]]) -> int:
    """Run this while datagrams are served, without a pause and with nothing for asyncio; how often they were."""
    turns = 0
    selector = Selector()

    def turn() -> bool:
        nonlocal turns
        turns += 1
        return False

    async def run() -> None:
        selector.serve(flooded.fileno(), turn)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await work()
        selector.leave(flooded.fileno())
        selector.leave(flooded.fileno())

    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
        runner.run(run())
        seen = turns
        runner.run(asyncio.sleep(0.002))
        assert turns == seen, "what was left is served no more"
    return turns


def test_timers_fire(flooded: socket.socket) -> None:
    assert beside(flooded, partial(asyncio.sleep, 0.01))


def test_tasks_have_their_turn_and_so_have_datagrams(flooded: socket.socket) -> None:
    async def busy() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    assert beside(flooded, busy) >= 100


def test_other_sockets_and_other_threads_are_heard(flooded: socket.socket) -> None:
    async def listen() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop.call_later(0.002, theirs.send, b"!")
            assert await loop.sock_recv(ours, 1) == b"!"
        assert await asyncio.to_thread(lambda: 7) == 7

    beside(flooded, listen)


def test_what_a_turn_begins_is_looked_after_at_once() -> None:
    selector = Selector()

    async def run() -> str:
        loop = asyncio.get_running_loop()
        begun = loop.create_future()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))

            def turn() -> bool:
                bound.recv(10)
                loop.call_soon(begun.set_result, "begun")
                return True

            selector.serve(bound.fileno(), turn)
            bound.sendto(b"?", bound.getsockname())
            async with asyncio.timeout(PATIENCE_SECONDS):
                told = await begun
            selector.leave(bound.fileno())
        return str(told)

    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
        assert runner.run(run()) == "begun"


def test_in_the_middle_of_other_work_what_waits_is_served_and_it_is_said_when_asyncio_has_something(
    flooded: socket.socket,
) -> None:
    turns: list[bytes] = []
    selector = Selector()

    def turn() -> bool:
        turns.append(flooded.recv(512))
        return turns[-1] == b"more"

    async def run() -> None:
        selector.serve(flooded.fileno(), turn)
        assert selector.serve_now(), "what it began"
        flooded.sendto(b"usual", flooded.getsockname())
        assert not selector.serve_now()
        assert not selector.serve_now(), "nothing waits"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            asyncio.get_running_loop().add_reader(ours, ours.recv, 1)
            theirs.send(b"!")
            assert selector.serve_now(), "for a reader of asyncio's"
            asyncio.get_running_loop().remove_reader(ours)
        selector.leave(flooded.fileno())

    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
        runner.run(run())
    assert len(turns) == 2
