"""TCP listeners that another program of ours had open, and hands on: no connect is refused while one follows the other.

Owns: opening an address, be it with such a socket or a new one, and the way of listeners through execv. Must not know
who asks there.
"""

import os
import socket
from collections.abc import Iterable, MutableMapping
from contextlib import suppress

VARIABLE = "_SVCNET_LISTENERS"
"""Names the file descriptors to the program that execv starts: 5,6."""

Place = tuple[str, int]


class Inherited:
    """Each is taken by one who wants to listen there; without any, `open` opens."""

    def __init__(self) -> None:
        self._sockets: dict[Place, socket.socket] = {}

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "Inherited":
        """What `bequeath` left; workers that this process starts get none of it."""
        found = cls()
        found.add(int(word) for word in environ.pop(VARIABLE, "").split(",") if word.isdecimal())
        return found

    def add(self, fds: Iterable[int]) -> None:
        """Have these file descriptors too. What is no TCP listener is closed."""
        for fd in fds:
            try:
                sock = socket.socket(fileno=fd)
            except OSError:  # it is no socket, or nothing
                continue
            sock.set_inheritable(False)
            place = _place(sock)
            if place is None or place in self._sockets:
                sock.close()
            else:
                self._sockets[place] = sock

    def open(self, place: Place) -> socket.socket:
        """Return a socket that is bound there. OSError."""
        return self._sockets.pop(place, None) or _bind(place)

    def waiting(self) -> tuple[socket.socket, ...]:
        """Those that nobody has taken yet."""
        return tuple(self._sockets.values())

    def keep(self, wanted: Iterable[Place]) -> None:
        """Close those where nobody will listen: a client is refused rather than kept waiting."""
        for place in self._sockets.keys() - {tuple(one) for one in wanted}:
            self._sockets.pop(place).close()


def bequeath(sockets: Iterable[socket.socket], environ: MutableMapping[str, str]) -> None:
    """Let the program that execv starts have copies of these."""
    copies = [os.dup(one.fileno()) for one in sockets]
    for fd in copies:
        os.set_inheritable(fd, True)
    if copies:
        environ[VARIABLE] = ",".join(map(str, copies))


def _place(sock: socket.socket) -> Place | None:
    with suppress(OSError, TypeError, ValueError):
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and sock.family != socket.AF_UNIX:
            host, port = sock.getsockname()[:2]
            return str(host), int(port)
    return None


def _bind(place: Place) -> socket.socket:
    host, port = place
    family, kind, number, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
    )[0]
    fresh = socket.socket(family, kind, number)
    try:
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            fresh.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        fresh.bind(address)
    except OSError:
        fresh.close()
        raise
    return fresh
