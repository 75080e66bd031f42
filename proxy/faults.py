"""What a bug of the worker's own costs: the connection that it came up in, and nothing else.

Owns: what becomes of an exception that nobody expected, and how loud it is. Must not know what the parts of a worker
are: what has an `abort` is ended by it.
"""

import functools
import traceback
from collections.abc import Callable
from typing import Protocol, runtime_checkable

TRACE_SECONDS = 10.0
"""A traceback at most so often; what comes between is only counted."""
OURS = "svcnet"


@runtime_checkable
class Abortable(Protocol):
    """What may be in the middle of anything."""

    def abort(self) -> None:
        """End at once, without a word that could be taken for an end in order."""
        ...


class Faults:
    """Of one worker. `say` hears of them, `clock` are seconds."""

    def __init__(self, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self._clock, self._say = clock, say
        self._quiet_until = 0.0
        self.count = 0
        self.last = ""
        """What the last one was, and where."""

    def take(self, owner: object, error: Exception) -> None:
        """One came out of a call: of something `owner`'s, or `owner` itself."""
        self._note(error)
        whose = owner_of(owner)
        if isinstance(whose, Abortable):
            try:
                whose.abort()
            except Exception as second:  # noqa: BLE001 - the rest of the worker is to go on, whatever this one does
                self._note(second)

    def _note(self, error: Exception) -> None:
        self.count += 1
        self.last = f"{type(error).__name__}: {error} ({_place(error)})"
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + TRACE_SECONDS
            self._say("".join(traceback.format_exception(error)))


def owner_of(call: object) -> object:
    """Whose method it is that was called; what is none is itself."""
    while isinstance(call, functools.partial):
        call = call.func
    return getattr(call, "__self__", call)


def _place(error: Exception) -> str:
    """Where it was raised, as far as that is code of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next((f for f in reversed(frames) if f"/{OURS}/" in f.filename), frames[-1] if frames else None)
    return "nowhere" if last is None else f"{last.filename.rpartition(f'/{OURS}/')[2]}:{last.lineno}"
