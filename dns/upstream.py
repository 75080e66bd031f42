"""A server upstream: where it is, how it has done, and in which order servers are asked. Pure.

Owns: what makes a server worth asking. Must not know sockets; the time is an argument.

The order given holds (the first may know names that others don't). Behind those that do well come those that were
passed by several times in a row, then those whose probes fail: when all do, all are asked still. Whoever leads back to
us is not.
"""

from collections.abc import Sequence
from typing import NamedTuple

PROBE_SECONDS = 0.5
"""How often a server that failed is asked for a sign of life, until it gives one."""
MOST_FAILED_PROBES = 2
MOST_PASSED_BY = 3
BEHIND_SECONDS = 5.0
"""How long a server comes behind the others when they answered in its place MOST_PASSED_BY times in a row."""
LEAST_PATIENCE, FIRST_PATIENCE, MOST_PATIENCE = 0.25, 0.5, 0.8
PATIENCE = 8
"""So many times its usual time is a server waited for before the next is asked too."""
EWMA = 0.2


class Server(NamedTuple):
    """`tls`: by DNS over TLS (RFC 7858), where `name` must be in the certificate; "" means the address."""

    host: str
    port: int
    tls: bool = False
    name: str = ""

    def __str__(self) -> str:
        """As --dns-upstream says it."""
        at = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"tls://{at}{self.name and '#' + self.name}" if self.tls else at


class Health:
    """How one server does."""

    __slots__ = ("_behind_until", "_passed_by", "failed_probes", "loops", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        """Usual time of a reply; None: not known."""
        self.failed_probes = 0
        self.loops = False
        """What is asked there comes back to us."""
        self._passed_by = 0
        self._behind_until = 0.0

    @property
    def up(self) -> bool:
        """False: it gave no sign of life when it was asked for one."""
        return self.failed_probes < MOST_FAILED_PROBES

    def replied(self, seconds: float, useful: bool) -> None:
        """Note a reply, and how long it took."""
        self.seconds = seconds if self.seconds is None else self.seconds + EWMA * (seconds - self.seconds)
        self.failed_probes = 0
        if useful:
            self._passed_by = 0

    def passed_by(self, now: float) -> None:
        """Note that another server answered what this one was asked first."""
        self._passed_by += 1
        if self._passed_by >= MOST_PASSED_BY:
            self._behind_until = now + BEHIND_SECONDS
            self._passed_by = MOST_PASSED_BY - 1  # then it has one try

    def behind(self, now: float) -> bool:
        """Whether others come first for a while."""
        return now < self._behind_until

    @property
    def patience(self) -> float:
        """Seconds after which the next server is asked too."""
        if self.seconds is None:
            return FIRST_PATIENCE
        return min(max(PATIENCE * self.seconds, LEAST_PATIENCE), MOST_PATIENCE)


def order(healths: Sequence[Health], now: float) -> list[int]:
    """Return the numbers of the servers to ask, in order. [] when all lead back to us."""
    numbers = (number for number, health in enumerate(healths) if not health.loops)
    return sorted(numbers, key=lambda number: (not healths[number].up, healths[number].behind(now)))
