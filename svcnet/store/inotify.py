"""Linux inotify(7), as a file descriptor that an event loop can wait for.

Owns: the system calls and the parsing of what they return. Must not know: records, what a path means.
Directly on libc: a polling or debouncing library between costs 2 to 100 ms a change, this one nothing.
"""

import ctypes
import os
import struct
from fcntl import ioctl
from termios import FIONREAD
from typing import NamedTuple

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
ATTRIB, DELETE_SELF, MOVE_SELF = 0x4, 0x400, 0x800
UNMOUNT, Q_OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
ONLYDIR, ISDIR = 0x1000000, 0x40000000

_HEAD = struct.Struct("iIII")
_BUFFER = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class Notice(NamedTuple):
    """struct inotify_event: which watch, what, the two halves of a rename share `cookie`, the name below the watch."""

    wd: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One inotify instance. Errors: OSError, as the kernel says."""

    def __init__(self) -> None:
        self.fd: int = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")

    def add(self, path: str, mask: int) -> int:
        """Watch a path; return its watch descriptor (the same one for the same inode)."""
        return _checked(_libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(mask)), path)

    def remove(self, wd: int) -> None:
        """End a watch; one that the kernel has ended already is no error."""
        _libc.inotify_rm_watch(self.fd, wd)

    def read(self) -> list[Notice]:
        """Return all that is readable now, in order."""
        notices: list[Notice] = []
        while True:
            try:
                data = os.read(self.fd, _BUFFER)
            except BlockingIOError:
                return notices
            notices += parse(data)
            # The kernel fills the buffer unless the queue is empty; 4 KiB is more than its largest event.
            if len(data) < _BUFFER - 4096:
                return notices

    def pending(self) -> int:
        """Return how many bytes wait to be read."""
        return int.from_bytes(ioctl(self.fd, FIONREAD, bytes(4)), "little")

    def close(self) -> None:
        """End all watches."""
        os.close(self.fd)


def parse(data: bytes) -> list[Notice]:
    """Return the events of one read(2)."""
    notices = []
    at = 0
    while at < len(data):
        wd, mask, cookie, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + length].rstrip(b"\0")
        notices.append(Notice(wd, mask, cookie, os.fsdecode(name)))
        at += length
    return notices


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result
