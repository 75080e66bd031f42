"""Netlink as bytes: attributes, one nfnetlink socket, batches and dumps.

Owns: message framing (include/uapi/linux/netlink.h, nfnetlink.h). Knows no table, no map and no service.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

from svcnet.model.errors import KernelError, NotPermittedError

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_CREATE, NLM_F_EXCL = 0x400, 0x200
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
BATCH_BEGIN, BATCH_END = 0x10, 0x11
NLA_F_NESTED = 0x8000
SEND_BUFFER_BYTES = 64 << 20

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes. At most 65,531 bytes of payload (its length is 16 bit)."""
    size = 4 + len(payload)
    return _ATTR.pack(size, kind) + payload + b"\0" * (-size & 3)


def nest(kind: int, payload: bytes) -> bytes:
    """One attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, payload)


def text(kind: int, value: str) -> bytes:
    """One zero-ended string attribute."""
    return attr(kind, value.encode() + b"\0")


def attributes(data: bytes | memoryview, offset: int = 0) -> Iterator[tuple[int, memoryview]]:
    """Yield (kind without flags, payload) of a run of attributes."""
    view = memoryview(data)
    while offset + 4 <= len(view):
        size, kind = _ATTR.unpack_from(view, offset)
        if size < 4:
            return
        yield kind & 0x3FFF, view[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def message(kind: int, flags: int, family: int, payload: bytes, seq: int = 0, res_id: int = 0) -> bytes:
    """One nfnetlink message: header, nfgenmsg (family, version 0, resource id big endian), payload."""
    body = struct.pack("=BB", family, 0) + struct.pack(">H", res_id) + payload
    return _HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | flags, seq, 0) + body


class Socket:
    """A netlink socket to netfilter, in the network namespace where it was made."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._sock.bind((0, 0))
        for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE: a full load is megabytes in one message
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, option, SEND_BUFFER_BYTES)
            except PermissionError:
                break
        self._seq = 0

    def __enter__(self) -> Self:
        """Nothing to do: it is open."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()

    def request(self, payload: bytes, seq: int) -> None:
        """Send messages of which the one numbered `seq` asks for an acknowledgement; raise the first error.

        The kernel works inside the send, so every answer is there when it returns.
        """
        self._send(payload)
        while True:
            for kind, _flags, number, body in self._receive():
                if kind != NLMSG_ERROR:
                    continue
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    self._drain()
                    raise kernel_error(code)
                if number == seq:
                    return

    def ask(self, kind: int, family: int, payload: bytes = b"") -> bytes:
        """Send a request that has one message as its answer; return that (after nfgenmsg)."""
        self._seq += 1
        self._send(message(kind, 0, family, payload, self._seq))
        while True:
            for what, _flags, number, body in self._receive():
                if number == self._seq and what == NLMSG_ERROR:
                    raise kernel_error(-struct.unpack_from("=i", body)[0])
                if number == self._seq:
                    return bytes(body[4:])

    def dump(self, kind: int, family: int, payload: bytes = b"") -> Iterator[memoryview]:
        """Yield the payload (after nfgenmsg) of each message of a dump; an interrupted dump raises KernelError."""
        self._seq += 1
        seq = self._seq
        self._send(message(kind, NLM_F_DUMP, family, payload, seq))
        while True:
            for what, flags, number, body in self._receive():
                if number != seq:
                    continue
                if what == NLMSG_DONE:
                    return
                if what == NLMSG_ERROR:
                    raise kernel_error(-struct.unpack_from("=i", body)[0])
                if flags & NLM_F_DUMP_INTR:
                    self._drain()
                    raise kernel_error(errno.EINTR)
                yield body[4:]

    def _send(self, payload: bytes) -> None:
        try:
            self._sock.sendto(payload, (0, 0))
        except OSError as error:
            raise kernel_error(error.errno or errno.EIO) from error

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        try:
            data = self._sock.recv(1 << 20)
        except OSError as error:
            raise kernel_error(error.errno or errno.EIO) from error
        view, offset = memoryview(data), 0
        while offset + 16 <= len(view):
            size, kind, flags, seq, _pid = _HEADER.unpack_from(view, offset)
            if size < 16:
                return
            yield kind, flags, seq, view[offset + 16 : offset + size]
            offset += (size + 3) & ~3

    def _drain(self) -> None:
        """Throw away what is left of an answer, so that the next request reads its own."""
        self._sock.setblocking(False)
        try:
            while True:
                self._sock.recv(1 << 20)
        except OSError:
            pass
        finally:
            self._sock.setblocking(True)


class NetlinkError(KernelError):
    """An errno from the kernel."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the kernel answered {errno.errorcode.get(code, code)}: {os.strerror(code)}")
        self.code = code


class MendedError(NetlinkError):
    """A commit failed as somebody else had changed some of its keys; put right, it went through. All is in force."""

    def __init__(self, code: int, keys: int) -> None:
        super().__init__(code)
        self.keys = keys
        self.args = (f"{self.args[0]}; mended keys that somebody else had changed: {keys}",)


def kernel_error(code: int) -> Exception:
    """The exception for an errno: NotPermittedError for EPERM, else NetlinkError."""
    if code == errno.EPERM:
        return NotPermittedError("programming netfilter needs CAP_NET_ADMIN (run as root)")
    return NetlinkError(code)
