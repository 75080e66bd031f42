"""What a worker is told, taken in between the queries: these have their turn whenever one waits. Shell (asyncio).

Owns: reading the feed, and when its frames are worked on. Must not know what they do to a zone.

A load is thousands of services of some 20 µs each; a query costs less and is urgent. So after every step those that
wait are answered, then and there. Where queries never end, a share of the time is the records' all the same.

What came with one read is one change, however many frames that is. A change that comes alone finds nothing in the CPU's
caches and costs eight times what one costs among others: so the feed rests after each, and what comes meanwhile waits
in the socket.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator

from svcnet.dns.responder import Responder
from svcnet.feed import Change, Splitter, Whole, decode, merged

READ_BYTES = 1 << 16
GATHER_SECONDS = 0.05
"""Between two changes. Ends of a rest are multiples of it (CLOCK_MONOTONIC), so that several workers, who are told the
same, tell the same serials."""
MANY = 50
"""Frames in one read. Whoever tells so much has more to tell, and what they cost together is little each."""
TURN_SECONDS = 0.0005
"""At most without a turn of the loop, where TCP, upstream servers and timers wait."""
SHARE = 0.5
"""Of the time that queries just took, which the records have though more wait: a third of all, thus."""
MOST_SECONDS = 0.0002
"""That share at most."""
LOOK_SECONDS = 0.00002
"""Between two looks whether a query waits, at least."""


class Intake:
    """Reads `feed` from its first payload on. `serve`: answers queries that wait; whether the loop has to turn."""

    def __init__(self, feed: socket.socket, serve: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._feed = feed
        self._serve = serve
        self._frames = Splitter()
        self._payloads: deque[bytes] = deque()
        self._steps: Iterator[None] = iter(())
        self._rests = False
        """What was read last is all of something, and not much."""
        self.known = asyncio.Event()
        """Records are there, or it was told that there are none; or nothing comes any more."""
        self.ended = self._loop.create_future()
        """Nobody tells any more; or why what was told could not be taken in."""

    async def first(self) -> bytes | None:
        """Return the first payload, which is no frame; None: there is none."""
        while not self._payloads:
            data = await self._loop.sock_recv(self._feed, READ_BYTES)
            if not data:
                return None
            self._payloads.extend(self._frames.feed(data))
        return self._payloads.popleft()

    def begin(self, responder: Responder, taken: Callable[[Whole | Change], None]) -> None:
        """Let `responder` follow; `taken` is called after each frame."""
        self._responder, self._taken = responder, taken
        self._steps = self._work(b"")
        self._go_on()

    def _read(self) -> None:
        try:
            data = self._feed.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            self._loop.add_reader(self._feed, self._woken)
            return
        except ConnectionResetError:  # it went without having read all that we said
            data = b""
        if not data:
            self.ended.set_result(None)
            self.known.set()
            return
        self._steps, self._rests = self._work(data), False
        self._go_on()

    def _woken(self) -> None:
        self._loop.remove_reader(self._feed)  # what comes meanwhile waits in the socket
        self._read()

    def _go_on(self) -> None:
        """Work for a turn, and have what is next done then."""
        try:
            done = self._advance()
        except Exception as error:  # noqa: BLE001 (whatever is wrong, `ended` raises it, which ends this process)
            self.ended.set_exception(error)
            self.known.set()
            return
        # `call_later`: behind what the loop finds ready next; `call_soon` would come before it.
        if not done:
            self._loop.call_later(0, self._go_on)
        elif self._rests:
            self._loop.call_later(GATHER_SECONDS - self._loop.time() % GATHER_SECONDS, self._read)
        else:
            self._loop.call_later(0, self._read)

    def _advance(self) -> bool:
        """Work for TURN_SECONDS at most, and answer queries in between; return whether all is done."""
        clock, serve = time.perf_counter, self._serve
        look = begin = clock()
        end = begin + TURN_SECONDS
        for _ in self._steps:
            now = clock()
            if now < look:
                continue
            if now > end or serve():
                return False
            served = clock()
            look = served + max(LOOK_SECONDS, min((served - now) * SHARE, MOST_SECONDS))
        return True

    def _work(self, data: bytes) -> Iterator[None]:
        self._payloads.extend(self._frames.feed(data))
        few = len(self._payloads) < MANY
        changes: list[Change] = []
        while self._payloads:
            yield
            frame = decode(self._payloads.popleft())
            if isinstance(frame, Change):
                changes.append(frame)
                continue
            if changes:
                yield from self._take(merged(changes))
                changes = []
            yield from self._take(frame)  # and let go of it: to free all at once takes a fraction of a millisecond
            self._rests = frame.last and few
        if changes:
            yield
            yield from self._take(merged(changes))
            self._rests = changes[-1].last and few

    def _take(self, frame: Whole | Change) -> Iterator[None]:
        yield from self._responder.taking(frame)
        if isinstance(frame, Change) or frame.last:
            self.known.set()
        self._taken(frame)
