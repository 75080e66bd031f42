"""How long connections that say nothing are kept.

Owns: the rounds in which open connections are looked at. The kernel knows when something was said last (TCP_INFO), so
a byte costs nothing here, nor does a connection. Must not know what the end of one means.
"""

import _socket
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from svcnet.proxy.place import Place

if TYPE_CHECKING:
    from svcnet.proxy.loop import Timer
    from svcnet.proxy.relay import Relay

IDLE_SECONDS = 3600.0
"""A connection is ended after so long without a byte (contract, `idle-timeout`)."""
HALF_CLOSED_SECONDS = 30.0
"""The same once one side has finished (contract, `half-closed-timeout`)."""
SHORTEST_ROUND_SECONDS, LONGEST_ROUND_SECONDS, LOOKS_A_TIMEOUT = 0.1, 60.0, 4
"""How often all are looked at: a quarter of the shortest timeout in use, within these bounds. That late an end is."""
LOOKS_A_TURN = 256
DEAD_PEER_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""A peer that is gone without a word is found out in two minutes. No TCP_USER_TIMEOUT: it would also end
connections whose reader pauses for so long (docs/adr/0008)."""
_TCP_INFO = struct.Struct("=44xI4xI")
"""linux/tcp.h, tcp_info: tcpi_last_data_sent and tcpi_last_data_recv, in milliseconds."""


class Limits(Protocol):
    """A frontend with timeouts."""

    idle_seconds: float
    half_closed_seconds: float


class Patience:
    """Looks from `start` on."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._hosts: set[Limits] = set()
        """Frontends with timeouts of their own."""
        self._rounds = (
            _Round(place, self._hosts, lambda: place.relays, "idle_seconds", IDLE_SECONDS),
            _Round(place, self._hosts, lambda: place.half_closed, "half_closed_seconds", HALF_CLOSED_SECONDS),
        )

    def start(self) -> None:
        """Begin."""
        for each in self._rounds:
            each.mind()

    def mind(self, host: Limits) -> None:
        """A frontend has these timeouts now, for connections that are open too."""
        if (host.idle_seconds, host.half_closed_seconds) == (IDLE_SECONDS, HALF_CLOSED_SECONDS):
            self._hosts.discard(host)
            return
        self._hosts.add(host)
        for each in self._rounds:
            each.mind(host)

    def forget(self, host: Limits) -> None:
        """It takes no more connections; those that are open keep their timeouts."""
        self._hosts.discard(host)


class _Round:
    """Looks at some connections, again and again, by one of their timeouts."""

    def __init__(
        self, place: Place, hosts: set[Limits], relays: Callable[[], "Iterable[Relay]"], name: str, usual: float
    ) -> None:
        self._place, self._hosts, self._relays, self._name, self._usual = place, hosts, relays, name, usual
        self._timer: Timer | None = None
        self._due = 0.0

    def mind(self, *hosts: Limits) -> None:
        """Look in time for what these have, and what is usual."""
        shortest = min((getattr(host, self._name) for host in hosts), default=self._usual)
        seconds = min(shortest, self._usual) / LOOKS_A_TIMEOUT
        seconds = min(max(seconds, SHORTEST_ROUND_SECONDS), LONGEST_ROUND_SECONDS)
        due = self._place.loop.now + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due, self._timer = due, self._place.loop.later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        relays = tuple(self._relays())
        self._some(iter(relays))
        self.mind(*self._hosts, *{relay.host for relay in relays})

    def _some(self, left: Iterator["Relay"]) -> None:
        some = tuple(islice(left, LOOKS_A_TURN))
        self._place.loop.call(relay.lose_patience for relay in some)
        if len(some) == LOOKS_A_TURN:
            self._place.loop.again(partial(self._some, left))


def silent_seconds(sock: _socket.socket) -> float:
    """How long nothing was sent or received; 0 when the kernel does not say."""
    with suppress(OSError, struct.error):
        sent, received = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        return float(min(sent, received)) / 1000
    return 0.0


def watch_for_dead_peer(sock: _socket.socket) -> None:
    """Have the kernel ask, now and then, whether the other end of a silent connection is still there."""
    with suppress(OSError):  # it has ended
        for level, option, value in DEAD_PEER_OPTIONS:
            sock.setsockopt(level, option, value)
