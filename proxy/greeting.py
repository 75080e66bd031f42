"""What a client says before its first byte: the PROXY header of a peer that is trusted to say whose client it is.

Owns: reading exactly the header, from peers in trusted networks. What follows stays in the kernel's buffer until a
backend has answered, as with every client. Must not know what becomes of the client then.
"""

import _socket
import select
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from socket import MSG_PEEK

from svcnet.proxy.hashed import packed
from svcnet.proxy.header import LONGEST_BYTES, BadHeaderError, Header, read
from svcnet.proxy.loop import LOST
from svcnet.proxy.place import Place
from svcnet.proxy.why import Why

_FINISHED = select.EPOLLRDHUP
GREETING_SECONDS = 5.0
"""So long a header may take."""


class Trusted:
    """Networks."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._masks = [
            (network.version, int(network.netmask), int(network.network_address))
            for network in map(ip_network, networks)
        ]

    def have(self, address: str) -> bool:
        """Whether an address is in one of them."""
        value, version = int.from_bytes(packed(address)), 6 if ":" in address else 4
        return any(version == v and value & mask == network for v, mask, network in self._masks)


class Greeting:
    """Calls `then` with the header, or `refuse` with why there is none."""

    __slots__ = ("_place", "_refuse", "_sock", "_then", "_timer")

    def __init__(
        self,
        place: Place,
        sock: _socket.socket,
        then: Callable[[_socket.socket, Header], None],
        refuse: Callable[[_socket.socket, Why], None],
    ) -> None:
        self._place, self._sock, self._then, self._refuse = place, sock, then, refuse
        self._timer = place.loop.later(GREETING_SECONDS, self._late)
        sock.setblocking(False)
        place.loop.add(sock.fileno(), self._on_client)

    def _on_client(self, events: int) -> None:
        place, sock = self._place, self._sock
        try:
            number = sock.recv_into(place.buffer, LONGEST_BYTES, MSG_PEEK)
            found = read(bytes(place.view[:number]))
        except BlockingIOError:
            return
        except (OSError, BadHeaderError):
            self._end(Why.BAD_HEADER)
            return
        if found is not None:
            header, length = found
            sock.recv_into(place.buffer, length)
            self._timer.cancel()
            place.loop.remove(sock.fileno())
            self._then(sock, header)
        elif events & (LOST | _FINISHED):  # no more will come
            self._end(Why.BAD_HEADER)

    def _late(self) -> None:
        self._end(Why.LATE_HEADER)

    def abort(self) -> None:
        """A fault came up."""
        self._end(Why.FAULT)

    def _end(self, why: Why) -> None:
        self._timer.cancel()
        refuse, self._refuse = self._refuse, _done
        refuse(self._sock, why)


def _done(_sock: _socket.socket, _why: Why) -> None:
    """It was refused before."""
