"""What the worker's loop waits with: datagrams are served where they are waited for. Shell.

Owns: an epoll around that of asyncio. The outer one holds the sockets of datagrams and, as one descriptor, all that
asyncio waits for: as long as nothing but datagrams comes, waiting costs one system call, and no turn of asyncio's loop.
Must not know what is read.
"""

import math
import select
import selectors
import time
from collections.abc import Callable

Turn = Callable[[], bool]
"""Serves what there is, up to a bound; says whether it began something that asyncio has to look after. Raises
nothing."""


class Selector(selectors.EpollSelector):
    """Of asyncio.SelectorEventLoop. Nobody starves: all that asyncio waits for, time as well, ends the serving."""

    def __init__(self) -> None:
        super().__init__()
        self._outer = select.epoll()
        self._outer.register(self.fileno(), select.EPOLLIN)
        self._turns: dict[int, Turn] = {}

    def serve(self, handle: int, turn: Turn) -> None:
        """From now on call this while there is something to read."""
        self._turns[handle] = turn
        self._outer.register(handle, select.EPOLLIN)

    def leave(self, handle: int) -> None:
        """Serve it no more."""
        if self._turns.pop(handle, None) is not None:
            self._outer.unregister(handle)

    def serve_now(self) -> bool:
        """Serve what there is, without waiting; return whether asyncio has something to look after."""
        back = False
        for handle, _ in self._outer.poll(0):
            turn = self._turns.get(handle)
            if turn is None or turn():
                back = True
        return back

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Serve until anything else is ready, or it is time. `timeout`: seconds; None: no end."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        left, find = timeout, self._turns.get
        while True:
            back = False
            # Up to the next millisecond, as of asyncio's own: a timer that fires late fires once.
            for handle, _ in self._outer.poll(None if left is None else max(math.ceil(left * 1e3) * 1e-3, 0)):
                turn = find(handle)
                if turn is None or turn():
                    back = True
            if back:
                return super().select(0)
            if left is not None:
                left = end - time.monotonic()
                if left <= 0:
                    return []

    def close(self) -> None:
        """Serve nothing, wait for nothing."""
        self._outer.close()
        super().close()
