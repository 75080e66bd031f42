"""A service manager's end of sd_notify.

Owns: the socket of $NOTIFY_SOCKET and what is sent to it.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def service_manager(directory: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """$NOTIFY_SOCKET, and the lines that were sent to it, once the block has ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.setblocking(False)
        told: list[str] = []
        yield {"NOTIFY_SOCKET": str(directory / "notify")}, told
        while True:
            try:
                told += manager.recv(4096).decode().splitlines()
            except BlockingIOError:
                return
