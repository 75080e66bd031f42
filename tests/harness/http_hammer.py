"""A load balancer, or Prometheus, that never stops asking an HTTP port, each time by a new connection.

Owns: what such a client sees. Every socket belongs to the namespace that `enter` moves the thread to.
"""

import threading
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Self

from tests.harness.client import LONG_SECONDS
from tests.harness.until import until

PAUSE_SECONDS = 0.01

Port = tuple[str, int, str]
"""Address, port, path."""


class HttpHammer(threading.Thread):
    """Asks one port after the other, from the beginning of the block to its end; `heed` is given each body."""

    def __init__(self, enter: Callable[[], None], ports: Sequence[Port], heed: Callable[[str], object] = len) -> None:
        super().__init__(name="http hammer")
        self._enter, self._ports, self._heed = enter, ports, heed
        self._over = threading.Event()
        self.rounds = 0
        self.failures: list[str] = []
        """Every answer that was not 200, and every connection without one."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        self._enter()
        while not self._over.wait(PAUSE_SECONDS):
            for port in self._ports:
                why = self._ask(*port)
                if why:
                    self.failures.append(f"{port}, in round {self.rounds}: {why}")
            self.rounds += 1

    def asks_more(self) -> bool:
        """Wait until it has asked often, from now on."""
        before = self.rounds
        return until(lambda: self.rounds > before + 10)

    def _ask(self, address: str, number: int, path: str) -> str:
        connection = HTTPConnection(address, number, timeout=LONG_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            self._heed(answer.read().decode())
        except (OSError, HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        return "" if answer.status == 200 else f"{answer.status}"
