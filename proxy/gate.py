"""How many connections a service may have in one worker, and how many may come a second. Pure; the clock is given.

Owns: the count, and when accepting begins again. The clients that are not accepted wait in the kernel's queue.
"""

from collections.abc import Callable
from typing import Protocol

HYSTERESIS = 0.95
"""Accepting begins again at this part of the limit: not one by one."""
BURST_SECONDS = 0.1
"""A service that was quiet may have what it may have in this time at once; at least one connection."""


_SLACK = 1e-6
"""Of a connection: what is missing by rounding alone is there."""


class Clock(Protocol):
    """A worker's loop."""

    @property
    def now(self) -> float:
        """Seconds."""
        ...

    def later(self, seconds: float, callback: Callable[[], None]) -> object:
        """Call once."""
        ...


class Gate:
    """Of one service. `most`, `rate` 0: no limit."""

    def __init__(self, clock: Clock) -> None:
        self.most = 0
        self.rate = 0
        self.used = 0
        self._clock = clock
        self._saved, self._at = 0.0, clock.now
        """So many may come, as of this moment."""
        self._waiting: list[Callable[[], None]] = []
        self._is_set = False

    @property
    def is_full(self) -> bool:
        """Whether nobody else may come."""
        if 0 < self.most <= self.used:
            return True
        # What was saved is there still: the clock is asked only when that is used up.
        return self.rate > 0 and self._saved < 1 and self._may_come() < 1 - _SLACK

    def limit(self, most: int, rate: int = 0) -> None:
        """From now on so many; those who are there stay."""
        if rate != self.rate:
            self._saved, self._at = max(1.0, rate * BURST_SECONDS), self._clock.now
        self.most, self.rate = most, rate
        self._look()

    def come(self) -> None:
        """One came anew."""
        self.used += 1
        if self.rate:
            self._saved -= 1

    def enter(self) -> None:
        """One that is there already counts from now on."""
        self.used += 1

    def leave(self) -> None:
        """One went."""
        self.used -= 1
        if self._waiting:
            self._look()

    def wait(self, callback: Callable[[], None]) -> None:
        """Call once there is room."""
        self._waiting.append(callback)
        self._look()

    def _may_come(self) -> float:
        now = self._clock.now
        most = max(1.0, self.rate * BURST_SECONDS)
        self._saved, self._at = min(most, self._saved + (now - self._at) * self.rate), now
        return self._saved

    def _look(self) -> None:
        if self.most and self.used > min(self.most - 1, int(self.most * HYSTERESIS)):
            return
        if self.rate and self._waiting:
            missing = max(1.0, self.rate * BURST_SECONDS / 2) - self._may_come()
            if missing > _SLACK:
                self._look_in(missing / self.rate)
                return
        for _ in range(len(self._waiting)):
            self._waiting.pop(0)()

    def _look_in(self, seconds: float) -> None:
        if not self._is_set:
            self._is_set = True
            self._clock.later(seconds, self._look_again)

    def _look_again(self) -> None:
        self._is_set = False
        self._look()
