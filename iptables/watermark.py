"""Whether somebody else changed a network namespace's iptables: numbers that the kernel gives in microseconds.

Owns: the count of nftables' transactions (NFT_MSG_GETGEN), and IPT_SO_GET_INFO of the legacy tables
(include/uapi/linux/netfilter_ipv4/ip_tables.h, …ipv6/ip6_tables.h): how many rules they have, of how many bytes, and
where those of each hook begin. Knows no rule.
"""

import ctypes
import os
import socket
from collections.abc import Hashable
from contextlib import suppress

from svcnet.iptables.netlink import Socket, attributes

GETGEN, GEN_ID = (10 << 8) + 16, 1
SO_GET_INFO = 64
INFO_BYTES = 84
"""Name (32), valid hooks, 5 begins, 5 policies, rules, bytes."""
LEVELS = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
TABLES = (b"nat", b"filter")


class NftWatermark:
    """The number of the last nftables transaction of the namespace that it was made in."""

    def __init__(self) -> None:
        self._netlink = Socket()

    def read(self) -> Hashable:
        """Another value after a change."""
        return bytes(dict(attributes(self._netlink.ask(GETGEN, 0)))[GEN_ID])

    def close(self) -> None:
        """Give the socket back."""
        self._netlink.close()


class LegacyWatermark:
    """The sizes of the legacy tables. A rule that gives way to one of the same size, at once, is not noticed."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._sockets: list[socket.socket] = []
        for family in LEVELS:
            with suppress(OSError):  # a kernel without IPv6
                self._sockets.append(socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def read(self) -> Hashable:
        """Another value after a change."""
        return tuple(_info(self._libc, s, table) for s in self._sockets for table in TABLES)

    def close(self) -> None:
        """Give the sockets back."""
        for each in self._sockets:
            each.close()


def _info(libc: ctypes.CDLL, of: socket.socket, table: bytes) -> bytes:
    """What a table looks like from outside; the error where it isn't."""
    info = ctypes.create_string_buffer(table, INFO_BYTES)
    size = ctypes.c_uint32(INFO_BYTES)
    if libc.getsockopt(of.fileno(), LEVELS[of.family], SO_GET_INFO, info, ctypes.byref(size)):
        return os.strerror(ctypes.get_errno()).encode()
    return info.raw
