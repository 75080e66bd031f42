"""Waiting for a condition.

Owns: the one place where tests wait. Nothing is measured: the deadline only ends a test that would never end.
"""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.005

Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], why_not: Callable[[], str] = lambda: "") -> Seen:
    """Return what `look` sees as soon as it is true. `why_not` explains a failure, and may raise to end the waiting."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (seen := look()):
        why = why_not()
        assert time.monotonic() < deadline, f"it never came true; last seen {seen!r}\n{why}"
        time.sleep(POLL_SECONDS)
    return seen
