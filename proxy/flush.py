"""Resets, and what comes before them.

Owns: how a socket is reset, and that what was sent to it before arrives. Must not know why.
"""

import _socket
import fcntl
import struct
import termios
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET

from svcnet.proxy.place import Place

FLUSH_SECONDS = 30.0
"""How long a side that is to be reset may take to acknowledge what it was sent before."""
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.001, 0.1
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Flush:
    """A socket that is reset as soon as all was acknowledged that it was sent: a reset throws away what is not."""

    __slots__ = ("_delay", "_left", "_place", "_sock")

    def __init__(self, place: Place, sock: _socket.socket) -> None:
        self._place = place
        self._sock: _socket.socket | None = sock
        self._delay, self._left = FIRST_LOOK_SECONDS, FLUSH_SECONDS
        self._look()

    def _look(self) -> None:
        if self._sock is not None and _unacknowledged(self._sock) and self._left > 0:
            self._left -= self._delay
            self._place.loop.later(self._delay, self._look)
            self._delay = min(LAST_LOOK_SECONDS, self._delay * 2)
            return
        self.abort()

    def abort(self) -> None:
        """Reset it now."""
        sock, self._sock = self._sock, None
        if sock is not None:
            reset_on_close(sock)
            self._place.loop.bury(sock)
            self._place.budget.give(1)


def _unacknowledged(sock: _socket.socket) -> int:
    """Bytes that were sent and not acknowledged yet (SIOCOUTQ, tcp(7); 0 once it is closed)."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 0
    return int.from_bytes(answer, "little")


def reset_on_close(sock: _socket.socket) -> None:
    """Have its end be a reset."""
    with suppress(OSError):
        sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)
