"""When to sync. Pure: the time is an argument.

Owns: the trade between the delay of one change and the number of commits in a burst.
"""

MIN_SECONDS = 0.001
MAX_SECONDS = 0.100


class Pacing:
    """The first change of a quiet time goes at once; in a burst the gap doubles up to MAX_SECONDS: changes merge."""

    def __init__(self, min_seconds: float = MIN_SECONDS, max_seconds: float = MAX_SECONDS) -> None:
        self._min, self._max = min_seconds, max_seconds
        self._gap = 0.0
        self._last = float("-inf")

    def delay(self, now: float) -> float:
        """Seconds to wait from `now` until the next sync may begin; 0 after a quiet time."""
        return max(0.0, self._last + self._gap - now)

    def synced(self, now: float) -> None:
        """A sync ended at `now`."""
        quiet = now - self._last > 4 * max(self._gap, self._min)
        self._gap = 0.0 if quiet else min(self._max, max(self._min, self._gap * 2))
        self._last = now


class Backoff:
    """Delays between tries after failures: 0.5, 1, 2 … 30 seconds."""

    FIRST, LAST = 0.5, 30.0

    def __init__(self) -> None:
        self._delay = 0.0

    def failed(self) -> float:
        """Seconds to wait before the next try."""
        self._delay = min(self.LAST, max(self.FIRST, self._delay * 2))
        return self._delay

    def worked(self) -> None:
        """Begin again."""
        self._delay = 0.0
