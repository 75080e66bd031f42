"""An event loop whose clock a test moves: the forwarder as it is, real sockets, no waiting for TTLs.

Owns: readers, writers, timers. It has what `svcnet.dns.exchange.Loop` asks for, and no asyncio.
"""

import heapq
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Self

import dns.message

from svcnet.dns.forward import Forwarder, Options
from svcnet.dns.query import parse
from svcnet.dns.responder import Ask
from svcnet.dns.stream import links
from svcnet.dns.upstream import Server
from tests.dns.serving import PATIENCE_SECONDS, busy

SOON = 0.05


class Timer:
    def __init__(self, callback: Callable[..., object], args: Sequence[Any]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class Clockwork:
    """Time passes in leaps, and while it waits for something and no server upstream has anything to do.

    However slow the machine is, no server is given up that would have answered.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wants: dict[int, dict[int, tuple[Callable[..., object], Sequence[Any]]]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._now = 1000.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def time(self) -> float:
        return self._now

    def leap(self, seconds: float) -> None:
        """It is later now; what was due meanwhile is called."""
        self._now += seconds
        self.turn(0)

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer:
        timer = Timer(callback, args)
        heapq.heappush(self._timers, (self.time() + delay, next(self._order), timer))
        return timer

    def add_reader(self, fd: int, callback: Callable[..., object], /, *args: Any) -> None:
        self._want(fd, selectors.EVENT_READ, (callback, args))

    def add_writer(self, fd: int, callback: Callable[..., object], /, *args: Any) -> None:
        self._want(fd, selectors.EVENT_WRITE, (callback, args))

    def remove_reader(self, fd: int, /) -> None:
        self._want(fd, selectors.EVENT_READ, None)

    def remove_writer(self, fd: int, /) -> None:
        self._want(fd, selectors.EVENT_WRITE, None)

    def _want(self, fd: int, event: int, call: tuple[Callable[..., object], Sequence[Any]] | None) -> None:
        wants = self._wants.setdefault(fd, {})
        before = bool(wants)
        if call is None:
            wants.pop(event, None)
        else:
            wants[event] = call
        if before:
            self._selector.unregister(fd)
        if wants:
            self._selector.register(fd, sum(wants))
        else:
            del self._wants[fd]

    def turn(self, seconds: float = SOON) -> None:
        """Wait for something, and do all of it."""
        due = self._timers[0][0] - self._now if self._timers else seconds
        pause = max(0.0, min(seconds, due))
        others_rest = not busy()  # what they sent before is there to be read
        happened = self._selector.select(pause / 5 if others_rest else SOON)
        if others_rest and not happened:
            self._now += pause
        for key, events in happened:
            for event in (selectors.EVENT_READ, selectors.EVENT_WRITE):
                callback, args = self._wants.get(key.fd, {}).get(event, (None, ()))
                if callback is not None and events & event:
                    callback(*args)
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback(*timer.args)

    def until(self, done: Callable[[], object]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < end, "it did not come to pass"
            self.turn()


class Forwarding:
    """A forwarder on such a loop. `events`: what it counted."""

    def __init__(self, servers: Sequence[Server], options: Options | None = None) -> None:
        self.loop = Clockwork()
        self.events: dict[tuple[str, ...], int] = {}
        self.forwarder = Forwarder(self.loop, servers, links(self.loop, servers), self._count, options)

    def _count(self, what: str, *labels: str, by: int = 1) -> None:
        self.events[what, *labels] = self.events.get((what, *labels), 0) + by

    def counted(self, what: str) -> int:
        """How often something happened, whatever its labels."""
        return sum(number for key, number in self.events.items() if key[0] == what)

    def send(self, name: str, kind: str = "A", alias: bool = False, **how: Any) -> list[bytes]:
        """Ask; the list holds the reply when there is one."""
        query = parse(dns.message.make_query(name, kind, **how).to_wire(), stream=False)
        replies: list[bytes] = []
        chain = b"\xc0\x0c\0\5\0\1\0\0\0\5\0\2\xc0\x0c" if alias else b""
        self.forwarder.ask(Ask(query, query.name, chain, int(alias)), replies.append)
        return replies

    def ask(self, name: str, kind: str = "A", **how: Any) -> dns.message.Message:
        """Ask, and wait for the reply."""
        replies = self.send(name, kind, **how)
        self.loop.until(lambda: replies)
        return dns.message.from_wire(replies[0])


@contextmanager
def forwarding(*servers: Server, **options: Any) -> Iterator[Forwarding]:
    """Forward to these servers; afterwards no socket is left open."""
    running = Forwarding(servers, Options(**options))
    with running.loop:
        try:
            yield running
        finally:
            running.forwarder.close()


def dead() -> Server:
    """Return an address where nothing listens, nor takes a port by chance."""
    return Server("127.53.0.2", 5300)
