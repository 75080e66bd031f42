"""The event loop of a worker: one epoll, edge-triggered; a wheel of timers; turns that give way to others.

Owns: when something is called, and that others are called still when a call fails. Must not know what is called. No
asyncio: its cost per event is two to eight times the
work that there is to do (measured: see docs/adr/0008).
"""

import _socket  # its sockets are what socket.socket wraps, and cost less
import heapq
import math
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

EDGES = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
LOST = select.EPOLLHUP | select.EPOLLERR
BATCH = 512
"""Events taken at once."""
IDLE_SECONDS = 5.0
"""The longest sleep: only so that the loop's clock is never very old."""
TICKS = 128
"""A second; so late a timer may be. A power of two, so that times are exact."""

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

    def take(self) -> Callback | None:
        """What is to be called now, once."""
        callback, self._callback = self._callback, None
        return callback


def _raise(_call: object, error: Exception) -> None:
    raise error


class Loop:
    """Run with `run()` until `stop()`. `on_fault` hears of what is raised by what is called, and whose it is."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, on_fault: Callable[[object, Exception], None] = _raise
    ) -> None:
        self._clock = clock
        self.on_fault = on_fault
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._wheel: dict[int, list[Timer]] = {}
        """By tick. Those of one tick are a list: to add a timer costs the same however many there are."""
        self._ticks: list[int] = []
        """A heap of the wheel's keys."""
        self._again: deque[Callback] = deque()
        self._graves: list[_socket.socket] = []
        self._running = True
        self._full = 0
        """Full batches in a row."""
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

    def hears(self, fd: int) -> bool:
        """Whether somebody is called with the events of `fd`."""
        return fd in self._handlers

    def bury(self, one: _socket.socket) -> None:
        """Close a socket when the events at hand are through: its number must not mean another until then."""
        self._handlers.pop(one.fileno(), None)  # the kernel forgets it when it is closed
        self._graves.append(one)

    def later(self, seconds: float, callback: Callback) -> Timer:
        """Call once, after `seconds`."""
        timer = Timer(callback)
        tick = math.ceil((self.now + seconds) * TICKS)
        there = self._wheel.get(tick)
        if there is None:
            self._wheel[tick] = [timer]
            heapq.heappush(self._ticks, tick)
        else:
            there.append(timer)
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
        """Wait for something, and do a batch of it; timers come when no event that was there is left.

        What is ready stands in a queue, and what comes later behind it. So many full batches as there can be events are
        all that were there before: those that never cease hold no timer up.
        """
        ready = self._epoll.poll(self._patience(), BATCH)
        self.now = self._clock()  # before the handlers: a timer of theirs must not begin before the sleep
        self._handle(iter(ready))
        if len(ready) == BATCH and self._full < len(self._handlers) // BATCH:
            self._full += 1
        else:
            self._full = 0
            self._fire()
        if self._graves:
            for one in self._graves:
                one.close()
            self._graves.clear()
        if self._again:
            calls, self._again = self._again, deque()
            self.call(calls)

    def _handle(self, ready: Iterator[tuple[int, int]]) -> None:
        """Until all were, whatever becomes of one. To be ready for that costs nothing as long as nothing is raised."""
        find, handler = self._handlers.get, None
        while True:
            try:
                for fd, events in ready:
                    handler = find(fd)
                    if handler is not None:
                        handler(events)
            except Exception as error:  # noqa: BLE001 - a bug, which shall not end the connections of others
                self.on_fault(handler, error)
            else:
                return

    def call(self, calls: Iterable[Callback | None]) -> None:
        """All of these, whatever becomes of one."""
        left, call = iter(calls), None
        while True:
            try:
                for call in left:
                    if call is not None:
                        call()
            except Exception as error:  # noqa: BLE001 - as above
                self.on_fault(call, error)
            else:
                return

    def _fire(self) -> None:
        while self._ticks and self._ticks[0] <= self.now * TICKS:
            self.call(map(Timer.take, self._wheel.pop(heapq.heappop(self._ticks))))

    def _patience(self) -> float:
        if self._again or self._full:
            return 0.0
        if not self._ticks:
            return IDLE_SECONDS
        # Rounded up to epoll's milliseconds: a timer that is not quite due would make it spin.
        return min(IDLE_SECONDS, max(0.0, self._ticks[0] / TICKS - self._clock()) + 0.001)
