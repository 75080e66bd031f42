"""The event loop of a worker: one epoll, edge-triggered; timers; turns that give way to others.

Owns: when something is called. Must not know what is called. No asyncio: its cost per event is two to eight times the
work that there is to do (measured: see docs/adr/0008).
"""

import heapq
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import count

EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
LOST = select.EPOLLHUP | select.EPOLLERR
BATCH = 512
"""Events taken at once."""
IDLE_SECONDS = 5.0
"""The longest sleep: only so that the loop's clock is never very old."""

Handler = Callable[[int], None]
Callback = Callable[[], None]


class Timer:
    """One call to come; forget it with `cancel`."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    def cancel(self) -> None:
        """Never call it."""
        self._callback = None

    def fire(self) -> None:
        """Call it, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Loop:
    """Run with `run()` until `stop()`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._again: deque[Callback] = deque()
        self._graves: list[socket.socket] = []
        self._running = True
        self.now = clock()
        """Seconds, as of the last wake-up."""

    def add(self, fd: int, handler: Handler, events: int = EDGES) -> None:
        """Call `handler` with the events of `fd`."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Call it no more."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def bury(self, one: socket.socket) -> None:
        """Close a socket when the events at hand are through: its number must not mean another until then."""
        self._handlers.pop(one.fileno(), None)  # the kernel forgets it when it is closed
        self._graves.append(one)

    def later(self, seconds: float, callback: Callback) -> Timer:
        """Call once, after `seconds`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), timer))
        return timer

    def again(self, callback: Callback) -> None:
        """Call in the next turn, after the events of others."""
        self._again.append(callback)

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        while self._running:
            self.turn()
        self._epoll.close()

    def turn(self) -> None:
        """Wait for something, and do all of it."""
        ready = self._epoll.poll(self._patience(), BATCH)
        self.now = self._clock()  # before the handlers: a timer of theirs must not begin before the sleep
        for fd, events in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2].fire()
        if self._graves:
            for one in self._graves:
                one.close()
            self._graves.clear()
        for _ in range(len(self._again)):
            self._again.popleft()()

    def _patience(self) -> float:
        if self._again:
            return 0.0
        if not self._timers:
            return IDLE_SECONDS
        # Rounded up to epoll's milliseconds: a timer that is not quite due would make it spin.
        return min(IDLE_SECONDS, max(0.0, self._timers[0][0] - self._clock()) + 0.001)
