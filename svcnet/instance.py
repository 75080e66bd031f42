"""One daemon a state directory, and one data path a network namespace.

Owns: the two claims. Both are released by the kernel when the process ends, however it ends; neither leaves anything to
clean up. Must not know what is claimed for.
"""

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from svcnet.model.errors import NotPermittedError, SvcnetError

LOCK = "lock"
"""Below the state directory: flock'ed by its daemon, whose pid it holds."""

DATA_PATH_NAME = "\0svcnet-proxy"
"""Abstract unix socket: such names belong to a network namespace, exactly as far as a data path reaches (unix(7))."""

_BACKLOG = 4096
"""Nobody accepts: each refused daemon leaves a closed connection in the queue, and learns our pid while it has room."""

_UCRED = struct.Struct("iII")


class StateClaim:
    """The lock on a state directory, held until `release` or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        """Take it, making the directory if need be.

        SvcnetError (exit 1) names the pid of the daemon that has it, NotPermittedError the directory.
        """
        path = state_dir / LOCK
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise NotPermittedError(f"{path}: {error.strerror}, expected a --state-dir that can be written") from error
        except OSError as error:
            raise SvcnetError(f"{path}: {error.strerror}, expected a --state-dir that can be written") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise SvcnetError(f"svcnet-proxy runs already with --state-dir {state_dir}: pid {holder}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it up. The file stays: removing it would let two daemons lock two files of one name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DataPathClaim:
    """The right to a data path in this network namespace, held until `release` or the end of the process."""

    def __init__(self, name: str = DATA_PATH_NAME) -> None:
        """Take it. SvcnetError (exit 1) names the pid of the process that has it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(name)
        except OSError as error:
            self._socket.close()
            raise SvcnetError(
                f"svcnet-proxy has a data path in this network namespace already: pid {_holder(name)}"
            ) from error
        self._socket.listen(_BACKLOG)

    def release(self) -> None:
        """Give it up."""
        self._socket.close()


def _holder(name: str) -> str:
    """Return who listens there, as text; a process of another pid namespace can't be named."""
    pid = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.setblocking(False)
        probe.connect(name)
        pid = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[0]
    return str(pid) if pid else "unknown"
