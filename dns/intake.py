"""What a worker is told, taken in between the queries: these have their turn whenever one waits. Shell (asyncio).

Owns: reading the feed, and when its frames are worked on. Must not know what they do to a zone.

A load is thousands of services of some 20 µs each; a query costs less and is urgent. So after every step it is looked
whether one waits (poll(2), under a microsecond). Where queries never end, a share of the time is the records' all the
same. What came with one read is one change, however many frames that is.
"""

import asyncio
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from svcnet.dns.responder import Responder
from svcnet.feed import Change, Splitter, Whole, decode, merged

READ_BYTES = 1 << 16
TURN_SECONDS = 0.0005
"""At most without a turn of the loop, where TCP, upstream servers and timers wait."""
SHARE = 0.5
"""Of the time that the others just had, which the records have though queries wait: a third of all, thus."""
LEAST_SECONDS = 0.0002
"""That share at most."""
LOOK_SECONDS = 0.00002
"""Between two looks whether a query waits."""


class Intake:
    """Reads `feed` from its first payload on. `bound`: the sockets where queries wait."""

    def __init__(self, feed: socket.socket, bound: Sequence[socket.socket]) -> None:
        self._loop = asyncio.get_running_loop()
        self._feed = feed
        self._frames = Splitter()
        self._payloads: deque[bytes] = deque()
        self._waiting = select.poll()
        for one in bound:
            self._waiting.register(one, select.POLLIN)
        self._steps: Iterator[None] = iter(())
        self._left = 0.0
        """When the loop had its turn in the middle of the work."""
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
        self._steps = self._work()
        self._pause()

    def _read(self) -> None:
        try:
            data = self._feed.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:  # it went without having read all that we said
            data = b""
        if not data:
            self._loop.remove_reader(self._feed)
            self.ended.set_result(None)
            self.known.set()
            return
        self._payloads.extend(self._frames.feed(data))
        self._steps = self._work()
        begin = time.perf_counter()
        if not self._advance(begin, begin):
            self._loop.remove_reader(self._feed)  # what comes meanwhile waits in the socket
            self._pause()

    def _pause(self) -> None:
        # Behind what the loop finds ready next: `call_soon` would come before it.
        self._left = time.perf_counter()
        self._loop.call_later(0, self._go_on)

    def _go_on(self) -> None:
        begin = time.perf_counter()
        if self._advance(begin, begin + min((begin - self._left) * SHARE, LEAST_SECONDS)):
            if not self.ended.done():
                self._loop.add_reader(self._feed, self._read)
        else:
            self._pause()

    def _advance(self, begin: float, least: float) -> bool:
        """Work until a query waits, at least until `least`; return whether all is done."""
        looked = begin
        try:
            for _ in self._steps:
                now = time.perf_counter()
                if now - looked < LOOK_SECONDS:
                    continue
                looked = now
                if now > begin + TURN_SECONDS or (now >= least and self.known.is_set() and self._waiting.poll(0)):
                    return False
        except Exception as error:  # noqa: BLE001 (whatever is wrong, `ended` raises it, which ends this process)
            self._loop.remove_reader(self._feed)
            self.ended.set_exception(error)
            self.known.set()
        return True

    def _work(self) -> Iterator[None]:
        frames: list[Whole | Change] = []
        while self._payloads:
            frames.append(decode(self._payloads.popleft()))
            if self._payloads:
                yield
        for frame in merged(frames):
            yield from self._responder.taking(frame)
            if isinstance(frame, Change) or frame.last:
                self.known.set()
            self._taken(frame)
            if frame is not frames[-1]:
                yield
