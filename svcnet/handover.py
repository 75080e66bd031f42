"""Where a worker process is found by a program that did not start it: the next daemon, after ours was killed or left.

Owns: the abstract unix sockets, their names, and who may use them. Such names belong to a network namespace, exactly as
the ports do that the worker holds, and nothing of them stays when it ends (unix(7)). Must not know what is said there.

They have no permissions: both ends ask the kernel who the other is (SO_PEERCRED), and talk to root and to their own
user alone.
"""

import os
import secrets
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PREFIX = "svcnet-worker"
ANSWER_SECONDS = 5.0
"""A worker that says nothing for so long hangs."""
_UCRED = struct.Struct("iII")
_ACCEPTS = "00010000"
"""__SO_ACCEPTCON among the flags of /proc/net/unix (proc(5))."""
_BACKLOG = 16


class Found(NamedTuple):
    """A worker, by its pid (0: of a pid namespace that can't be seen from here), and a connection to it."""

    pid: int
    connection: socket.socket


def listen(kind: str) -> socket.socket:
    """Let this process be found, as a worker of a kind. OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The number is for who reads /proc/net/unix; of pid namespaces that share a network two may have the same.
        sock.bind(f"\0{PREFIX}/{kind}/{os.getpid()}-{secrets.token_hex(4)}")
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def accept(listener: socket.socket) -> socket.socket | None:
    """The next who found this process and may; its calls wait for ANSWER_SECONDS at most. None: nobody."""
    with suppress(OSError):
        connection = listener.accept()[0]
        if _credentials(connection)[1] in _ours():
            connection.settimeout(ANSWER_SECONDS)
            return connection
        connection.close()
    return None


def find(kind: str) -> Iterator[Found]:
    """Every worker of a kind in this network namespace, whoever started it."""
    for name in _names(kind):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(f"\0{name}")
            pid, uid = _credentials(connection)
        except OSError:  # it has just ended
            connection.close()
            continue
        if uid in _ours():
            yield Found(pid, connection)
        else:
            connection.close()


def has_ended(found: Found) -> bool:
    """Whether a worker is gone; what it said is left to be read."""
    reap(found, os.WNOHANG)
    pending = select.poll()
    pending.register(found.connection, select.POLLIN)
    if not pending.poll(0):  # recv would wait: the socket has a timeout
        return False
    try:
        return found.connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def reap(found: Found, how: int) -> None:
    """Leave no zombie of one that is a child of ours, as after a reload, which is the same process. `how`: its options.

    To waitpid(2) a pid of 0 is any child: of one that can't be seen nothing is asked, as that would be another's code.
    """
    if found.pid:
        with suppress(OSError):
            os.waitpid(found.pid, how)


def _names(kind: str) -> list[str]:
    try:
        lines = Path("/proc/thread-self/net/unix").read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []
    rows = (line.split(maxsplit=7) for line in lines)
    begin = f"@{PREFIX}/{kind}/"
    return sorted({row[7][1:] for row in rows if len(row) == 8 and row[3] == _ACCEPTS and row[7].startswith(begin)})


def _credentials(connection: socket.socket) -> tuple[int, int]:
    """Pid and user of the other end."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def _ours() -> set[int]:
    return {0, os.geteuid()}
