"""What a data path leaves in force for those who are connected through it, after another took its place.

Owns: until when it stays, and the thread that waits for that. Must not know any path by name.
"""

import logging
import threading
import time
from collections.abc import Callable

from svcnet.model.errors import SvcnetError

log = logging.getLogger(__name__)

FIRST_SECONDS = 0.2
"""How long connections that are being opened get at least: what is counted knows them when their first packet left."""
PAUSE_SECONDS = 1.0
"""Between two counts, if a count takes less than a twentieth of that."""


class Drain:
    """`remove`s as soon as nothing `is_used`. Ends with the process: what is left then, the next start finds."""

    def __init__(self, what: str, is_used: Callable[[], bool], remove: Callable[[], bool]) -> None:
        self._what = what
        self._is_used = is_used
        self._remove = remove

    def start(self) -> None:
        """Begin to wait."""
        threading.Thread(target=self._run, name="drain", daemon=True).start()

    def _run(self) -> None:
        pause = FIRST_SECONDS
        while True:
            time.sleep(pause)
            begin = time.monotonic()
            if self._is_over():
                return
            pause = max(PAUSE_SECONDS, 20 * (time.monotonic() - begin))

    def _is_over(self) -> bool:
        try:
            if self._is_used():
                return False
            self._remove()
        except SvcnetError as error:  # it disturbs no packet: tried again
            log.warning("left what=%s why=%s", self._what, error)
            return False
        log.info("removed what=%s", self._what)
        return True
