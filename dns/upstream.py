"""A server upstream: where it is, how it has done, and in which order servers are asked. Pure.

Owns: what makes a server worth asking. Must not know sockets; the time is an argument.

The order is the policy's: by itself as given (the first may know names that others don't). Behind those that do well
come those that were passed by several times in a row, then those whose probes fail: when all do, all are asked still.
Whoever leads back to us is not.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

SEQUENTIAL, RANDOM, ROUND_ROBIN = "sequential", "random", "round-robin"
MOST_IN_FLIGHT = 1000
"""Questions; each has a socket for every server that it waits for."""
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

    __slots__ = ("_behind_until", "_passed_by", "failed_probes", "loops", "max_fails", "seconds")

    def __init__(self, max_fails: int = MOST_FAILED_PROBES) -> None:
        self.max_fails = max_fails
        """So many probes fail before it counts as down; 0: it never does, and is not probed."""
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
        return not self.max_fails or self.failed_probes < self.max_fails

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


class Turns:
    """Which server a question begins with. `shuffle` is as random.shuffle."""

    def __init__(self, policy: str, number: int, shuffle: Callable[[list[int]], object]) -> None:
        self._policy = policy
        self._numbers = list(range(number))
        self._shuffle = shuffle

    def next(self) -> Sequence[int]:
        """Return the numbers of all servers, for one question."""
        if self._policy == RANDOM:
            self._shuffle(self._numbers)
        turn = tuple(self._numbers)
        if self._policy == ROUND_ROBIN:
            self._numbers.append(self._numbers.pop(0))
        return turn


def order(healths: Sequence[Health], turn: Sequence[int], now: float) -> list[int]:
    """Return the numbers of the servers to ask, best first, in `turn` where they are as good. [] when all loop."""
    numbers = (number for number in turn if not healths[number].loops)
    return sorted(numbers, key=lambda number: (not healths[number].up, healths[number].behind(now)))
