"""What `svcnet exec` does when services change. Pure: the time is an argument.

Owns: when a child with old variables is restarted or signalled. Must not know processes, signals or stores.
"""

from collections.abc import Mapping
from typing import Literal

SETTLE_SECONDS = 0.1
"""Quiet that ends a burst of changes: they cost one restart, not one each."""
LONGEST_SECONDS = 5.0
"""A burst that doesn't end is acted on after this."""
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL at a restart."""

OnChange = Literal["restart", "SIGHUP", "none"]
ON_CHANGE: tuple[OnChange, ...] = ("restart", "SIGHUP", "none")

Variables = Mapping[str, str]


class Following:
    """What the child was told, what the records say, and when to act on the difference.

    Times are seconds of one clock. Only variables count: a change that leaves them as they were told, or brings them
    back within the settle time, is none.
    """

    def __init__(self, on_change: OnChange) -> None:
        self.on_change = on_change
        self.told: Variables = {}
        """What the child knows: those that it was started with, or that it was last signalled about."""
        self.wanted: Variables = {}
        """What the records say."""
        self._first = self._last = 0.0

    def see(self, wanted: Variables, now: float) -> None:
        """Take what the records say at `now`."""
        if wanted == self.wanted:
            return
        if self.wanted == self.told:
            self._first = now
        self._last = now
        self.wanted = dict(wanted)

    def tell(self) -> Variables:
        """Return what the child gets to know now, with a start or a signal."""
        self.told = self.wanted
        return self.told

    def due(self) -> float | None:
        """When to act on what was seen; None when there is nothing to act on."""
        if self.on_change == "none" or self.wanted == self.told:
            return None
        return min(self._last + SETTLE_SECONDS, self._first + LONGEST_SECONDS)

    def differences(self) -> str:
        """Name what changed: `+ADDED ~CHANGED -REMOVED`, sorted by name, for a message."""
        names = sorted(self.told.keys() | self.wanted.keys())
        signs = [(self._sign(name), name) for name in names if self.told.get(name) != self.wanted.get(name)]
        return " ".join(sign + name for sign, name in signs)

    def _sign(self, name: str) -> str:
        return "+" if name not in self.told else "-" if name not in self.wanted else "~"


def exit_code(code: int) -> int:
    """Return what a shell says of a child that ended: its own code, 128 + n for signal n (`code` is -n then)."""
    return 128 - code if code < 0 else code
