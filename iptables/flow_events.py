"""Translated flows as the kernel tells of them: one event when a flow begins, one with its bytes when it ends.

Owns: the event socket of ctnetlink, what of an event is read, and how many were lost. Must not know whose a flow is.

The kernel keeps back what was not translated (a filter on the socket): other traffic costs nothing here.
Bytes are in an event if `net.netfilter.nf_conntrack_acct` was 1 when the flow began, which is the operator's to set.
"""

import ctypes
import errno
import socket
import struct
import sys
from typing import NamedTuple, Self

from svcnet.iptables.elements import FAMILY_NUMBERS
from svcnet.iptables.netlink import NETLINK_NETFILTER, kernel_error

GROUP_NEW, GROUP_DESTROY = 1, 3
DELETED = 2
"""IPCTNL_MSG_CT_DELETE, the low byte of such a message's type."""
CTA_STATUS = 3
COUNTERS_SIZE = 4 + 2 * 12
COUNTERS_HEADS = (struct.pack("=HH", COUNTERS_SIZE, 0x8000 | 9), struct.pack("=HH", COUNTERS_SIZE, 0x8000 | 10))
"""How CTA_COUNTERS_ORIG begins, and CTA_COUNTERS_REPLY right behind it; each holds packets and bytes, 64 bit."""
_SUMS = struct.Struct("> 20x Q 20x Q")
ID_HEAD = struct.pack("=HH", 8, 12)
"""How CTA_ID begins."""
DST_NAT = 1 << 5
"""IPS_DST_NAT: the destination was translated."""
ROOM_BYTES = 16 << 20
"""Events that wait: about 26,000."""
EVENT_BYTES = 4096
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP = 270, 1, 2
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_MEMINFO, MEMINFO_DROPS = 26, 33, 55, 8
LOAD, LOAD_X, LOAD_AT, LOAD_AT_X, A_TO_X, ANY_BIT, RETURN = 0x00, 0x01, 0x20, 0x40, 0x07, 0x45, 0x06
FIND_ATTRIBUTE = 0xFFFFF000 + 12
"""SKF_AD_OFF + SKF_AD_NLATTR: loading from there finds attribute X of the run that begins at A."""
_KIND = 4 if sys.byteorder == "little" else 5

Way = tuple[int, bytes, int, int, bytes, int]
"""Family, and where a flow goes: destination, protocol and port that the client asked for; endpoint's address, port."""


class Layout(NamedTuple):
    """Where an event of one family has the two tuples, which come first and always alike."""

    fields: struct.Struct
    heads: tuple[bytes, bytes]
    end: int


def layout(address_bytes: int) -> Layout:
    """The offsets, by the size of an address. A struct nlattr is 4 bytes, and what is shorter is padded to 4."""
    size = 4 + 4 + 2 * (4 + address_bytes) + 4 + 3 * 8
    a = address_bytes
    asked = f"4s 4x {4 + a}x 4x {a}s 4x 4x B 3x 8x 4x H 2x"
    replies = f"4s 4x 4x {a}s {4 + a}x 4x 8x 4x H 2x 8x"
    heads = (struct.pack("=HH", size, 0x8000 | 1), struct.pack("=HH", size, 0x8000 | 2))
    return Layout(struct.Struct(f"> 20x {asked} {replies}"), heads, 20 + 2 * size)


LAYOUTS = {FAMILY_NUMBERS[4]: layout(4), FAMILY_NUMBERS[6]: layout(16)}


class Event(NamedTuple):
    """A flow that began, or one that ended, with what it carried from and to the client."""

    way: Way
    ended: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    name: int = 0
    """What the kernel calls it."""


def read_event(data: bytes) -> Event | None:
    """What a message of ctnetlink says of a flow, its bytes if it ended; None for a protocol without ports."""
    found = LAYOUTS.get(data[16])
    if found is None or len(data) < found.end:
        return None
    first, address, protocol, port, second, backend, backend_port = found.fields.unpack_from(data)
    if (first, second) != found.heads:
        return None
    way = (data[16], address, protocol, port, backend, backend_port)
    return Event(way, True, *counted(data, found.end)) if data[_KIND] == DELETED else Event(way)


def counted(data: bytes, offset: int) -> tuple[int, int, int]:
    """(bytes in, bytes out, name), 0 for what is not there. By what they begin with: half the time of a walk."""
    name, sums = data.find(ID_HEAD, offset), data.find(COUNTERS_HEADS[0], offset)
    number = int.from_bytes(data[name + 4 : name + 8], "big") if name > 0 else 0
    if sums < 0 or data[sums + COUNTERS_SIZE :][:4] != COUNTERS_HEADS[1]:
        return 0, 0, number
    bytes_in, bytes_out = _SUMS.unpack_from(data, sums)
    return bytes_in, bytes_out, number


class FlowEvents:
    """The socket, in the network namespace where it was made. NotPermittedError, NetlinkError."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._sock.bind((0, 0))
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM_BYTES)
            _attach(self._sock)
            self._sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GROUP_NEW)
        except OSError as error:
            self._sock.close()
            raise kernel_error(error.errno or errno.EIO) from error

    def __enter__(self) -> Self:
        """It is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def fileno(self) -> int:
        """For select(2)."""
        return self._sock.fileno()

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def tell_ends(self, wanted: bool) -> None:
        """Whether the ends of flows are told too, from now on."""
        change = NETLINK_ADD_MEMBERSHIP if wanted else NETLINK_DROP_MEMBERSHIP
        self._sock.setsockopt(SOL_NETLINK, change, GROUP_DESTROY)

    @property
    def lost(self) -> int:
        """Events that the kernel threw away for want of room, ever."""
        memory = self._sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
        return int.from_bytes(memory[4 * MEMINFO_DROPS :][:4], sys.byteorder)

    def read(self, most: int) -> tuple[list[Event], bool]:
        """At most so many of the events that wait, and whether there may be more."""
        events: list[Event] = []
        receive = self._sock.recv
        for _ in range(most):
            try:
                event = read_event(receive(EVENT_BYTES))
            except BlockingIOError:
                return events, False
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # told once when events are thrown away; `lost` counts them
                    raise
            else:
                if event is not None:
                    events.append(event)
        return events, True


def _attach(sock: socket.socket) -> None:
    """Let the kernel pass on what was translated alone: a program of classic BPF (linux/filter.h)."""
    program = (
        (LOAD, 0, 0, 20),  # A: where attributes begin
        (LOAD_X, 0, 0, CTA_STATUS),  # X: which one is wanted
        (LOAD_AT, 0, 0, FIND_ATTRIBUTE),  # A: where it is
        (A_TO_X, 0, 0, 0),
        (LOAD_AT_X, 0, 0, 4),  # A: its 32 bits
        (ANY_BIT, 0, 1, DST_NAT),
        (RETURN, 0, 0, 0xFFFFFFFF),
        (RETURN, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
