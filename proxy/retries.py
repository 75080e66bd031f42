"""How many further dials a service's connections may have, so that one that is dead does not get a multiple. Pure.

Owns: the account. Each answered dial pays for BY_ANSWER further ones, and so does each second for A_SECOND: as long as
some endpoints answer, every connection tries all that it needs; where nobody does, retries cease. A share of the
connections that are open, as others have it, is less than one failed endpoint of two needs.
"""

MOST = 100.0
"""What can be saved: so many retries may come at once."""
BY_ANSWER = 10.0
A_SECOND = 10.0


class Retries:
    """Of one service and worker."""

    def __init__(self) -> None:
        self._left = MOST
        self._at: float | None = None

    @property
    def is_full(self) -> bool:
        """Whether an answer adds nothing."""
        return self._left >= MOST

    def take(self, now: float) -> bool:
        """Whether there may be one more; then it is taken."""
        passed, self._at = now - (self._at if self._at is not None else now), now
        self._left = min(MOST, self._left + passed * A_SECOND)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def answered(self) -> None:
        """A dial was answered."""
        self._left = min(MOST, self._left + BY_ANSWER)
