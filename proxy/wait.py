"""The time that a client waits for an endpoint with room.

Owns: its count, and its end. Must not know whose turn it is: the tickets do (seats.py).
"""

from collections.abc import Callable

from svcnet.proxy.counts import QUEUED_NOW, Tally
from svcnet.proxy.loop import Loop


class Wait:
    """`on_end` is called after so many seconds, unless it was left before."""

    __slots__ = ("_tally", "_timer")

    def __init__(self, loop: Loop, tally: Tally, seconds: float, on_end: Callable[[], None]) -> None:
        self._tally = tally
        self._timer = loop.later(seconds, on_end)
        tally.now(QUEUED_NOW, 1)

    def leave(self) -> None:
        """It is over."""
        self._timer.cancel()
        self._tally.now(QUEUED_NOW, -1)
