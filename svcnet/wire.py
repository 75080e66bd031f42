"""What the daemon and a worker say to each other, over a stream socket.

Owns: the frames. Each is its length (4 bytes, network order), how many file descriptors come with it (1 byte), then
JSON. Descriptors travel with the first byte of their frame (SCM_RIGHTS), and the kernel keeps their order.
"""

import errno
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

FDS_A_FRAME = 200
"""The kernel takes 253 at most (SCM_MAX_FD)."""
_HEAD = struct.Struct("!IB")
_CHUNK = 1 << 18


def encode(message: dict[str, Any], fds: int = 0) -> bytes:
    """One frame, of a message that `fds` file descriptors belong to."""
    text = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(len(text), fds) + text


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message, whole, over a blocking socket. OSError."""
    data = encode(message, len(fds))
    sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
    sock.sendall(data[sent:])


class Inbox:
    """Frames as they come in."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._fds: deque[int] = deque()

    def receive(self, sock: socket.socket) -> bool:
        """Read once; False at the end of the stream. BlockingIOError: nothing is there; OSError: it is broken."""
        data, fds, flags, _ = socket.recv_fds(sock, _CHUNK, FDS_A_FRAME)
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EMFILE, "file descriptors were lost: this process has as many as it may")
        self._bytes += data
        self._fds += fds
        return bool(data)

    def take(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next whole message with its file descriptors. ValueError for one that is no JSON; it is passed over."""
        if len(self._bytes) < _HEAD.size:
            return None
        length, fds = _HEAD.unpack_from(self._bytes)
        end = _HEAD.size + length
        if len(self._bytes) < end:
            return None
        text = bytes(self._bytes[_HEAD.size : end])
        del self._bytes[:end]
        given = [self._fds.popleft() for _ in range(fds)]
        try:
            message: dict[str, Any] = json.loads(text)
        except ValueError:
            for fd in given:
                os.close(fd)
            raise
        return message, given
