"""A thread that does one thing again and again, for as long as a block lasts.

Owns: its begin and its end. Every socket belongs to the namespace that `enter` moves the thread to.
"""

import threading
from collections.abc import Callable
from typing import Self


class Repeated(threading.Thread):
    """Calls `turn`, with a pause before each; what it says is no answer is a failure."""

    def __init__(self, name: str, enter: Callable[[], None], pause_seconds: float) -> None:
        super().__init__(name=name)
        self._enter, self._pause = enter, pause_seconds
        self._over = threading.Event()
        self.answers = 0
        """Turns that are over."""
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        self._enter()
        while not self._over.wait(self._pause):
            self.failures += self.turn()
            self.answers += 1

    def turn(self) -> list[str]:
        """Do it; return what failed."""
        raise NotImplementedError
