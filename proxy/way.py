"""How the kernel would go to an address: is it one of this machine's, and by which own address would it be reached.

Owns: one question to rtnetlink(7), and its answer. Needs no privilege and changes nothing.
"""

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

_NLMSG = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST = 1
_NEW_ROUTE, _GET_ROUTE = 24, 26
_DESTINATION, _PREFERRED_SOURCE = 1, 7
_LOCAL = 2
"""include/uapi/linux/netlink.h, rtnetlink.h: NLM_F_, RTM_, RTA_, RTN_."""
_ANSWER_BYTES = 8192


class Way(NamedTuple):
    """`source` is the address that this machine's own clients would have on it; "" where there is no way."""

    is_local: bool
    source: str = ""


NOWHERE = Way(is_local=False)


class Ways:
    """Ask as often as you like: one socket for all. Those of the network namespace that it was made in."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

    def to(self, address: str) -> Way:
        """The way to an address. OSError if the kernel does not say."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address.partition("%")[0])
        body = _RTMSG.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
        self._sock.send(_NLMSG.pack(_NLMSG.size + len(body), _GET_ROUTE, _REQUEST, 0, 0) + body)
        answer = self._sock.recv(_ANSWER_BYTES)
        length, kind, *_ = _NLMSG.unpack_from(answer)
        if kind != _NEW_ROUTE:  # an error: no way there
            return NOWHERE
        is_local = _RTMSG.unpack_from(answer, _NLMSG.size)[7] == _LOCAL
        found = dict(_attributes(answer[_NLMSG.size + _RTMSG.size : length]))
        source = found.get(_PREFERRED_SOURCE)
        return Way(is_local, socket.inet_ntop(family, source) if source else "")

    def is_local(self, address: str) -> bool:
        """Whether it is one of this machine's; False where the kernel does not say."""
        try:
            return self.to(address).is_local
        except OSError:
            return False

    def close(self) -> None:
        """Ask no more."""
        self._sock.close()


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
