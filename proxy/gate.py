"""How many connections a service may have in one worker (contract, `max-connections`). Pure.

Owns: the count, and when accepting begins again. The clients that are not accepted wait in the kernel's queue.
"""

from collections.abc import Callable

HYSTERESIS = 0.95
"""Accepting begins again at this part of the limit: not one by one."""


class Gate:
    """Of one service. `most` 0: no limit."""

    def __init__(self) -> None:
        self.most = 0
        self.used = 0
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_full(self) -> bool:
        """Whether nobody else may come."""
        return 0 < self.most <= self.used

    def limit(self, most: int) -> None:
        """From now on so many; those who are there stay."""
        self.most = most
        self._look()

    def enter(self) -> None:
        """One came."""
        self.used += 1

    def leave(self) -> None:
        """One went."""
        self.used -= 1
        if self._waiting:
            self._look()

    def wait(self, callback: Callable[[], None]) -> None:
        """Call once there is room."""
        self._waiting.append(callback)

    def _look(self) -> None:
        if not self.most or self.used <= min(self.most - 1, int(self.most * HYSTERESIS)):
            waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()
