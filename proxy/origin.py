"""Whose connection it is: who it came from and what was dialled, and how a backend is told so (contract, `send-proxy`).

Owns: the addresses that count, where another proxy or the kernel has changed those of the socket.
"""

import _socket
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from svcnet.proxy import header
from svcnet.proxy.header import Header, Place

_ORIGINAL = 80
"""SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h)."""
_SOCKADDR4, _SOCKADDR6 = struct.Struct("!2xH4s8x"), struct.Struct("!2xH4x16s4x")


NOWHERE: Place = ("0.0.0.0", 0)  # noqa: S104 - nothing is bound to it
"""Of what is not known."""


class Origin(NamedTuple):
    """Of one connection."""

    source: Place
    destination: Place
    tlvs: bytes = b""
    by: Place | None = None
    """The peer that said so; None: the client itself came."""


def origin(sock: _socket.socket, peer: Place, said: Header | None = None) -> Origin:
    """What counts: what a header said, otherwise the addresses of the packets as the client sent and got them."""
    source = said.source if said is not None else None
    destination = said.destination if said is not None else None
    tlvs = said.tlvs if said is not None else b""
    return Origin(source or peer, destination or dialled(sock), tlvs, peer if source is not None else None)


def dialled(sock: _socket.socket) -> Place:
    """The address that the client dialled, also where the kernel has led it elsewhere."""
    six = sock.family == socket.AF_INET6
    level, form = (socket.IPPROTO_IPV6, _SOCKADDR6) if six else (socket.IPPROTO_IP, _SOCKADDR4)
    with suppress(OSError, struct.error):  # no connection table, or the connection is not in it
        port, packed = form.unpack(sock.getsockopt(level, _ORIGINAL, form.size))
        return socket.inet_ntop(sock.family, packed), port
    with suppress(OSError):
        name: Place = sock.getsockname()[:2]
        return name
    return ("::", 0) if six else NOWHERE  # it is gone already


Introduction = Callable[[Origin], bytes]
"""What comes before the client's first byte."""
HEADERS: Mapping[str, Introduction] = {
    "v1": lambda one: header.v1(one.source, one.destination),
    "v2": lambda one: header.v2(one.source, one.destination, one.tlvs),
}
"""By what `send-proxy` says."""
