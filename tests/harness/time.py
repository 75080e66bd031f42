"""A clock that a test sets, with what is to be called later."""

from collections.abc import Callable
from itertools import count


class Time:
    """As a worker's loop: `now`, `later` and `again`. Time passes by `go`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call once."""
        self._due.append((self.now + seconds, next(self._order), callback))

    def again(self, callback: Callable[[], None]) -> None:
        """Call once, when time is passed next."""
        self.later(0.0, callback)

    def go(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._due and min(self._due)[0] <= end:
            due = min(self._due)
            self._due.remove(due)
            self.now = due[0]
            due[2]()
        self.now = end
