"""How long connections that say nothing are kept.

Owns: the rounds in which open connections are looked at. The kernel knows when something was said last (TCP_INFO), so
a byte costs nothing here, nor does a connection. Must not know what the end of one means.
"""

import _socket
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from svcnet.proxy.place import Place

if TYPE_CHECKING:
    from svcnet.proxy.relay import Relay

IDLE_SECONDS = 3600.0
"""A connection is ended after so long without a byte (contract, `idle-timeout`)."""
HALF_CLOSED_SECONDS = 30.0
"""The same once one side has finished (contract, `half-closed-timeout`)."""
ROUND_SECONDS, LONG_ROUND_SECONDS = 5.0, 60.0
"""How often half-closed connections are looked at, and all of them: that late an end may be."""
LOOKS_A_TURN = 256
_TCP_INFO = struct.Struct("=44xI4xI")
"""linux/tcp.h, tcp_info: tcpi_last_data_sent and tcpi_last_data_recv, in milliseconds."""


class Patience:
    """Looks from `start` on."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def start(self) -> None:
        """Begin."""
        self._place.loop.later(ROUND_SECONDS, self._look_at_half_closed)
        self._place.loop.later(LONG_ROUND_SECONDS, self._look_at_all)

    def _look_at_half_closed(self) -> None:
        self._some(iter(tuple(self._place.half_closed)))
        self._place.loop.later(ROUND_SECONDS, self._look_at_half_closed)

    def _look_at_all(self) -> None:
        self._some(iter(tuple(self._place.relays)))
        self._place.loop.later(LONG_ROUND_SECONDS, self._look_at_all)

    def _some(self, left: Iterator["Relay"]) -> None:
        for number, relay in enumerate(left, 1):
            relay.lose_patience()
            if number == LOOKS_A_TURN:
                self._place.loop.again(lambda: self._some(left))
                return


def silent_seconds(sock: _socket.socket) -> float:
    """How long nothing was sent or received; 0 when the kernel does not say."""
    with suppress(OSError, struct.error):
        sent, received = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        return float(min(sent, received)) / 1000
    return 0.0
