"""A service manager's end of sd_notify.

Owns: the socket of $NOTIFY_SOCKET and what is sent to it.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UCRED = struct.Struct("iII")


@contextmanager
def service_manager(directory: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """$NOTIFY_SOCKET, and the lines that were sent to it, once the block has ended."""
    told: list[str] = []
    with notices(directory) as (environ, heard):
        yield environ, told
    told += [line for _, lines in heard for line in lines]


@contextmanager
def notices(directory: Path) -> Iterator[tuple[dict[str, str], list[tuple[int, list[str]]]]]:
    """The same by message, each with the pid that the kernel says sent it (unix(7), SCM_CREDENTIALS)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.bind(str(directory / "notify"))
        manager.setblocking(False)
        heard: list[tuple[int, list[str]]] = []
        yield {"NOTIFY_SOCKET": str(directory / "notify")}, heard
        while True:
            try:
                data, more, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(_UCRED.size))
            except BlockingIOError:
                return
            heard.append((_UCRED.unpack(more[0][2])[0], data.decode().splitlines()))
