"""A load and the queries: whoever waits is served in the middle of it, and it ends though somebody always waits."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from svcnet.dns import intake
from svcnet.dns.intake import Intake
from svcnet.feed import Change, Whole, encode, framed
from tests.dns.world import virtual

if TYPE_CHECKING:
    from svcnet.dns.responder import Responder

STEPS = 500


class Slow:
    """Takes a frame in many steps; `at` is how many are done."""

    def __init__(self) -> None:
        self.at = 0
        self.frames: list[Whole | Change] = []

    def taking(self, frame: Whole | Change) -> Iterator[None]:
        for _ in range(STEPS):
            self.at += 1
            yield
        self.frames.append(frame)


@contextlib.contextmanager
def told(*payloads: bytes) -> Iterator[tuple[socket.socket, socket.socket, socket.socket]]:
    """A feed in which these wait, where it is told, and a socket where a query waits."""
    feed, teller = socket.socketpair()
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with feed, teller, bound, client:
        for one in (feed, bound):
            one.setblocking(False)
        bound.bind(("127.0.0.1", 0))
        client.sendto(b"query", bound.getsockname())
        teller.sendall(framed(b"greeting") + b"".join(payloads))
        yield feed, teller, bound


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for queries after every step, though steps take no time."""
    monkeypatch.setattr(intake, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(intake, "MOST_SECONDS", 0.0)


async def follow(
    feed: socket.socket, teller: socket.socket, bound: socket.socket, serves: bool
) -> tuple[Slow, list[int]]:
    """Take all in; return by whom, and at which step the query was read (`serves`)."""
    slow, read = Slow(), []

    def serve() -> bool:
        if serves:
            with contextlib.suppress(BlockingIOError):
                bound.recv(512)
                read.append(slow.at)
        return not serves  # as where what a query began has to be looked after

    follower = Intake(feed, serve)
    assert await follower.first() == b"greeting"
    follower.known.set()
    follower.begin(cast("Responder", slow), lambda _: None)
    teller.shutdown(socket.SHUT_WR)
    await follower.ended
    return slow, read


def test_a_query_that_waits_is_served_in_the_middle_of_a_load() -> None:
    with told(encode(Whole(2, ()))) as sockets:
        slow, read = asyncio.run(follow(*sockets, serves=True))
    assert len(slow.frames) == 1
    assert read
    assert read[0] < STEPS


def test_a_load_ends_though_queries_always_give_other_work() -> None:
    with told(encode(Whole(2, ()))) as sockets:
        slow, _ = asyncio.run(follow(*sockets, serves=False))
    assert slow.at == STEPS
    assert len(slow.frames) == 1


def test_changes_that_came_together_are_taken_in_as_one_and_what_comes_later_after_them() -> None:
    frames = [Change(rev, (virtual("a", f"10.0.0.{rev}"), virtual(f"b{rev}", "10.0.1.1"))) for rev in range(2, 9)]
    with told(*map(encode, frames), encode(Whole(9, ())), encode(Change(10, ()))) as sockets:
        slow, _ = asyncio.run(follow(*sockets, serves=True))
    assert [(type(frame), frame.rev) for frame in slow.frames] == [(Change, 8), (Whole, 9), (Change, 10)]
    assert {entry.name: entry.ports[0].virtual_ip for entry in slow.frames[0].entries} == {
        "a": "10.0.0.8",
        **{f"b{rev}": "10.0.1.1" for rev in range(2, 9)},
    }


class Standing(asyncio.SelectorEventLoop):
    """A loop whose clock a test moves."""

    now = 1000.01

    def time(self) -> float:
        return self.now


def test_a_change_is_taken_in_at_once_and_those_that_follow_it_closely_together_a_moment_later() -> None:
    slow = Slow()
    taken: asyncio.Queue[Whole | Change] = asyncio.Queue()

    async def tell(*revs: int) -> None:
        for rev in revs:
            teller.sendall(encode(Change(rev, (virtual(f"a{rev}", "10.0.0.1"),))))
        for _ in range(20):
            await asyncio.sleep(0)

    async def reached(rev: int) -> None:
        while (await taken.get()).rev < rev:
            pass

    async def stream() -> None:
        loop = cast("Standing", asyncio.get_running_loop())
        follower = Intake(feed, lambda: False)
        await follower.first()
        follower.begin(cast("Responder", slow), taken.put_nowait)
        await tell(2)
        await reached(2)
        for first, then in ((3, 4), (5, 6)):
            await tell(first)
            await tell(then)
            assert slow.frames[-1].rev < first
            loop.now += intake.GATHER_SECONDS
            await reached(then)
        loop.now += intake.GATHER_SECONDS
        await tell()
        await tell(7)
        await reached(7)
        teller.shutdown(socket.SHUT_WR)
        loop.now += intake.GATHER_SECONDS
        await follower.ended

    with told() as (feed, teller, _), asyncio.Runner(loop_factory=Standing) as runner:
        runner.run(stream())
    names = [{entry.name for entry in frame.entries} for frame in slow.frames]
    assert names == [{"a2"}, {"a3", "a4"}, {"a5", "a6"}, {"a7"}]


@pytest.mark.parametrize(("data", "why"), [(framed(b"\xc1"), msgspec.DecodeError), (b"\xff\xff\xff\xff", ValueError)])
@pytest.mark.parametrize("number", [1, 400])
def test_bytes_that_are_no_frame_end_it_with_the_reason(number: int, data: bytes, why: type[Exception]) -> None:
    """Whether they come with what is read first or later, rather than to answer from what is ever older."""
    before = encode(Whole(2, tuple(virtual(f"a{n}", "10.0.0.1") for n in range(number))))
    assert (len(before) > intake.READ_BYTES) == (number > 1)
    with told(before, data) as sockets, pytest.raises(why):
        asyncio.run(follow(*sockets, serves=True))
