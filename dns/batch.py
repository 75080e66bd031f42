"""Many datagrams by one system call: recvmmsg(2), sendmmsg(2) through ctypes. Shell.

Owns: the memory that both calls work in. Must not know what is in the packets.

Ids are taken apart from the rest where they come in, and put before the replies where these go out: so the rest of a
packet is ready to be looked up, and what is found is ready to be sent, without being copied together.
"""

import ctypes
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, repeat
from typing import Any, Literal

SIZE = 64
"""Datagrams taken at once."""
ID_BYTES = 2
SHORT_BYTES = 128
"""What nearly every query has room in; the rest of a longer one comes in elsewhere."""
LONGEST_BYTES = 4096
_NAME_BYTES = 28
_REPLY_BYTES = 256
"""What nearly every reply has room in, each in a place that the kernel knows already."""
_OUT_BYTES = 1 << 17
_CONTROL_BYTES = 40
"""Room for one IP_PKTINFO or IPV6_PKTINFO."""
_WORD = ctypes.sizeof(ctypes.c_size_t)
_CODE: Literal["Q", "I"] = "Q" if _WORD == 8 else "I"


class _Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """A struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("parts", ctypes.c_void_p),
        ("number", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """A struct mmsghdr."""

    _fields_ = (("header", _Header), ("received", ctypes.c_uint32))


Client = tuple[Any, ...]
Calls = tuple[Callable[..., int], Callable[..., int]]


def calls() -> Calls | None:
    """The two functions of the C library; None: it lacks one."""
    try:
        library = ctypes.CDLL(None)
        receive, send = library.recvmmsg, library.sendmmsg
    except (OSError, AttributeError):
        return None
    return receive, send


class Batch:
    """Datagrams of one socket. `control`: each comes with the address that it was sent to, its reply goes from it."""

    def __init__(self, bound: socket.socket, functions: Calls, control: bool) -> None:
        receive, self._send = functions
        self._handle = ctypes.c_int(bound.fileno())
        self._six = bound.family == socket.AF_INET6
        self._control = control
        self._memory: list[bytearray] = []
        self._short, short = self._room(SIZE * SHORT_BYTES)
        self._long, long = self._room(SIZE * (LONGEST_BYTES - SHORT_BYTES))
        self._names, names = self._room(SIZE * _NAME_BYTES)
        self._controls, controls = self._room(SIZE * _CONTROL_BYTES)
        self._out, self._out_at = self._room(_OUT_BYTES)
        self._coming, coming = self._room(SIZE * ctypes.sizeof(_Message))
        self._going, going = self._room(SIZE * ctypes.sizeof(_Message))
        in_parts, in_at = self._room(SIZE * 2 * ctypes.sizeof(_Part))
        out_parts, out_at = self._room(SIZE * 2 * ctypes.sizeof(_Part))
        # Arguments that are C's already: to make them of Python's costs half as much as the call.
        self._receive = partial(receive, self._handle, ctypes.c_void_p(coming), _SIZE, _DONTWAIT, None)
        self._going_at = [ctypes.c_void_p(going + n * ctypes.sizeof(_Message)) for n in range(SIZE)]
        name_size = _NAME_BYTES if self._six else 16
        control_size = (_CONTROL_BYTES if self._six else 32) if control else 0
        for n in range(SIZE):
            name, told = names + n * _NAME_BYTES, controls + n * _CONTROL_BYTES if control else None
            for headers, parts in ((self._coming, in_at), (self._going, out_at)):
                at = parts + n * 2 * ctypes.sizeof(_Part)
                _place(headers, n, _Message(_Header(name, name_size, at, 2, told, control_size)))
            _place(in_parts, 2 * n, _Part(short + n * SHORT_BYTES, SHORT_BYTES))
            _place(in_parts, 2 * n + 1, _Part(long + n * (LONGEST_BYTES - SHORT_BYTES), LONGEST_BYTES - SHORT_BYTES))
            _place(out_parts, 2 * n, _Part(short + n * SHORT_BYTES, ID_BYTES))
        self._sizes = memoryview(self._coming).cast("I")[_Message.received.offset // 4 :: ctypes.sizeof(_Message) // 4]
        self._control_sizes = memoryview(self._coming).cast(_CODE)[
            _Header.control_size.offset // _WORD :: ctypes.sizeof(_Message) // _WORD
        ]
        self._full = array(_CODE, repeat(control_size, SIZE))
        self._bases = memoryview(out_parts).cast(_CODE)[2::4]
        self._places = array(_CODE, range(self._out_at, self._out_at + SIZE * _REPLY_BYTES, _REPLY_BYTES))
        self._bases[:] = self._places
        self._lengths = memoryview(out_parts).cast(_CODE)[3::4]
        self._out_view, self._short_view = memoryview(self._out), memoryview(self._short)

    def receive(self) -> list[bytes]:
        """Take what is there, up to SIZE; return each packet without its first ID_BYTES."""
        if self._control:
            self._control_sizes[:] = self._full  # the kernel writes there how much it used
        number = self._receive()
        if number <= 0:  # nothing there; or an error of something sent before
            return []
        sizes = self._sizes[:number].tolist()
        data = self._short_view[: number * SHORT_BYTES].tobytes()
        packets = [data[at + ID_BYTES : at + size] for at, size in zip(_BEGINS, sizes, strict=False)]
        if max(sizes) > SHORT_BYTES:
            for n, size in enumerate(sizes):
                if size > SHORT_BYTES:
                    at = n * (LONGEST_BYTES - SHORT_BYTES)
                    head = data[_RESTS[n] : _BEGINS[n] + SHORT_BYTES]
                    packets[n] = head + bytes(self._long[at : at + size - SHORT_BYTES])
        return packets

    def whole(self, n: int, rest: bytes) -> bytes:
        """Return packet n of those received last, whose rest this is."""
        size = min(self._sizes[n], ID_BYTES)
        return bytes(self._short[n * SHORT_BYTES : n * SHORT_BYTES + size]) + rest

    def client(self, n: int) -> Client:
        """Return who sent packet n, as socket.recvfrom would."""
        name = bytes(self._names[n * _NAME_BYTES : (n + 1) * _NAME_BYTES])
        port = int.from_bytes(name[2:4])
        if not self._six:
            return socket.inet_ntop(socket.AF_INET, name[4:8]), port
        address, scope = socket.inet_ntop(socket.AF_INET6, name[8:24]), int.from_bytes(name[24:28], sys.byteorder)
        return address, port, int.from_bytes(name[4:8]), scope

    def control(self, n: int) -> list[tuple[int, int, bytes]]:
        """Return what the kernel said of packet n, as socket.recvmsg would."""
        if not self._control:
            return []
        data = bytes(self._controls[n * _CONTROL_BYTES : (n + 1) * _CONTROL_BYTES])
        size = int.from_bytes(data[:_WORD], sys.byteorder)
        level, kind = (int.from_bytes(data[_WORD + at : _WORD + at + 4], sys.byteorder) for at in (0, 4))
        return [(level, kind, data[_WORD + 8 : size])]

    def send(self, replies: Sequence[bytes | None]) -> int:
        """Send a reply, without its id, to each packet received last; None: none. Return how many could not be sent."""
        if all(replies):
            return self._send_run(0, replies)  # type: ignore[arg-type]  # that none is None was just seen
        lost = first = 0
        run: list[bytes] = []
        for n, reply in enumerate((*replies, None)):
            if reply is not None:
                run.append(reply)
                continue
            lost += self._send_run(first, run)
            first, run = n + 1, []
        return lost

    def _send_run(self, first: int, replies: Sequence[bytes]) -> int:
        if not replies:
            return 0
        lengths = list(map(len, replies))
        end = first + len(lengths)
        if max(lengths) > _REPLY_BYTES:
            return self._send_long(first, replies)
        _PACKERS[len(lengths)].pack_into(self._out, first * _REPLY_BYTES, *replies)
        self._lengths[first:end] = array(_CODE, lengths)
        return self._send_all(first, end)

    def _send_long(self, first: int, replies: Sequence[bytes]) -> int:
        """The same with replies of any length, one behind the other."""
        data = b"".join(replies)
        if len(data) > _OUT_BYTES:
            half = len(replies) // 2
            return self._send_run(first, replies[:half]) + self._send_run(first + half, replies[half:])
        end = first + len(replies)
        self._out_view[: len(data)] = data
        lengths = array(_CODE, map(len, replies))
        self._bases[first:end] = array(_CODE, accumulate(lengths[:-1], initial=self._out_at))
        self._lengths[first:end] = lengths
        lost = self._send_all(first, end)
        self._bases[first:end] = self._places[first:end]
        return lost

    def _send_all(self, first: int, end: int) -> int:
        lost = 0
        while first < end:
            sent = self._send(self._handle, self._going_at[first], _NUMBERS[end - first], _DONTWAIT)
            if sent <= 0:  # the first of them can't be sent: a full buffer loses it, as the wire may
                lost += 1
            first += max(sent, 1)
        return lost

    def _room(self, size: int) -> tuple[bytearray, int]:
        """Memory that stays where it is, and where that is."""
        room = bytearray(size)
        self._memory.append(room)
        return room, ctypes.addressof((ctypes.c_char * size).from_buffer(room))


def _place(room: bytearray, n: int, what: ctypes.Structure) -> None:
    size = ctypes.sizeof(what)
    room[n * size : (n + 1) * size] = bytes(what)


_SIZE, _DONTWAIT = ctypes.c_uint(SIZE), ctypes.c_int(socket.MSG_DONTWAIT)
_NUMBERS = [ctypes.c_uint(n) for n in range(SIZE + 1)]
_PACKERS = [struct.Struct(f"{_REPLY_BYTES}s" * n) for n in range(SIZE + 1)]
_BEGINS = range(0, SIZE * SHORT_BYTES, SHORT_BYTES)
_RESTS = range(ID_BYTES, SIZE * SHORT_BYTES, SHORT_BYTES)
