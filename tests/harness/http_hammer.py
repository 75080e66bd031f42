"""A load balancer, or Prometheus, that never stops asking an HTTP port, each time by a new connection.

Owns: what such a client sees. Every socket belongs to the namespace that `enter` moves the thread to.
"""

from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException

from tests.harness.client import LONG_SECONDS
from tests.harness.repeated import Repeated
from tests.harness.until import until

PAUSE_SECONDS = 0.01

Port = tuple[str, int, str]
"""Address, port, path."""


class HttpHammer(Repeated):
    """Asks one port after the other, from the beginning of the block to its end; `heed` is given each body.

    A failure is every answer that was not 200, and every connection without one.
    """

    def __init__(self, enter: Callable[[], None], ports: Sequence[Port], heed: Callable[[str], object] = len) -> None:
        super().__init__("http hammer", enter, PAUSE_SECONDS)
        self._ports, self._heed = ports, heed

    def turn(self) -> list[str]:
        """Ask each once."""
        whys = ((port, self._ask(*port)) for port in self._ports)
        return [f"{port}, in round {self.answers}: {why}" for port, why in whys if why]

    def asks_more(self) -> bool:
        """Wait until it has asked often, from now on."""
        before = self.answers
        return until(lambda: self.answers > before + 10)

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
