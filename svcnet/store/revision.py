"""A counter that never falls, not after kill -9 and not when the clock steps back: revisions of a directory store.

Owns: STATE_DIR/NAME, which holds a number that the counter has not reached yet. Numbers are reserved ahead in blocks,
so that a change costs no write; a start goes on after the whole block. At least Unix seconds, so that it rises too when
the state directory was deleted.
"""

import logging
import os
from pathlib import Path

BLOCK = 10_000
_log = logging.getLogger(__name__)


class Revisions:
    """Counts up. `now` is Unix seconds. Without a state directory nothing is kept: for programs that end soon."""

    def __init__(self, state_dir: Path | None, now: float, name: str = "revision") -> None:
        self._path = state_dir / name if state_dir else None
        self.last = max(self._reserved(), int(now)) if self._path else int(now) - 1
        self._limit = self.last

    def next(self, least: int = 0) -> int:
        """Return a number greater than every one before, also by earlier processes, and not below `least`."""
        self.last = max(self.last + 1, least)
        if self.last >= self._limit:
            # Another may have reserved more meanwhile: a daemon that was to take over, and did not.
            self._limit = max(self.last, self._reserved() if self._path else 0) + BLOCK
            self._reserve()
        return self.last

    def _reserved(self) -> int:
        assert self._path is not None
        try:
            return int(self._path.read_text("ascii"))
        except (OSError, ValueError):
            return 0  # none yet, or garbage: Unix seconds alone decide

    def _reserve(self) -> None:
        if self._path is None:
            return
        temp = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temp.open("w", encoding="ascii") as file:
                file.write(f"{self._limit}\n")
                file.flush()
                os.fsync(file.fileno())
            temp.replace(self._path)
        except OSError as error:
            # Going on is better than stopping: Unix seconds still order this run after the last one.
            _log.info("revision not reserved path=%s error=%s", self._path, error)
