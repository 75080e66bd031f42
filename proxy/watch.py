"""What a connection asks, and tells, those that share its backends.

Owns: the question. proxy/pool.py answers it.
"""

from collections.abc import Container, Sequence
from typing import Protocol

from svcnet.proxy.pool import LADDER_SECONDS
from svcnet.proxy.row import Backend
from svcnet.proxy.seats import Seats


class Watch(Protocol):
    """What all connections to the same backends share."""

    @property
    def ladder(self) -> Sequence[float]:
        """How long each try waits, in seconds."""
        ...

    @property
    def hedge_seconds(self) -> float:
        """How long the first dial has no rival; 0: it never gets one."""
        ...

    @property
    def alert(self) -> bool:
        """Whether `answered` is to be told."""
        ...

    @property
    def is_sticky(self) -> bool:
        """Whether the client stays with whom it was picked for last."""
        ...

    @property
    def is_personal(self) -> bool:
        """Whether it depends on who comes where he belongs."""
        ...

    @property
    def seats(self) -> Seats | None:
        """Who may have how many connections; None: there is no limit."""
        ...

    @property
    def out(self) -> Container[Backend]:
        """Backends that are tried only when all others failed."""
        ...

    @property
    def load(self) -> object:
        """None: `take` and `give` need not be told."""
        ...

    def may_retry(self) -> bool:
        """Whether there may be another dial; then it is counted."""
        ...

    def failed(self, backend: Backend) -> None:
        """A dial failed."""
        ...

    def answered(self, backend: Backend) -> None:
        """A dial was answered."""
        ...

    def take(self, backend: Backend) -> None:
        """A dial begins."""
        ...

    def give(self, backend: Backend) -> None:
        """It failed, or the connection that it led to ended."""
        ...


class Unwatched:
    """Nobody shares anything."""

    ladder: Sequence[float] = LADDER_SECONDS
    hedge_seconds = 0.0
    alert = is_sticky = is_personal = False
    seats: Seats | None = None
    out: Container[Backend] = ()
    load: object = None

    def may_retry(self) -> bool:
        """Always."""
        return True

    def failed(self, backend: Backend) -> None:
        """Nobody minds."""

    answered = take = give = failed


ALONE = Unwatched()
