"""Workers that the program before this one left serving, in the same process: a reload starts the program anew.

Owns: how one program tells the next of them, and their end. Must not know why it comes.
"""

import os
import socket
import time
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

from svcnet.proxy.wire import send

VARIABLE = "_SVCNET_WORKERS"
"""PID:FD of each, with spaces between; FD is the daemon's end of its socket."""
STIR_IDLE_SECONDS, STIR_SECONDS, CALM_SECONDS = 1, 1.3, 60
"""After how much idleness a connection sends a probe (the kernel's least), when all have, and how often later."""
HANDSHAKE_SECONDS = 0.2
"""How long connections that are being opened get, before nobody listens."""
END_SECONDS = 0.01


class Kept(NamedTuple):
    """A worker, and the socket with whose end it ends."""

    pid: int
    control: socket.socket


class Left:
    """None, unless an earlier program left some. They are children of this process."""

    def __init__(self, kept: Iterable[Kept] = ()) -> None:
        self._kept = list(kept)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "Left":
        """Those that `pass_on` told of; nobody else is told."""
        kept = []
        for word in environ.pop(VARIABLE, "").split():
            pid, _, fd = word.partition(":")
            with suppress(OSError, ValueError):  # what is no socket is no worker's
                os.set_inheritable(int(fd), False)
                kept.append(Kept(int(pid), socket.socket(fileno=int(fd))))
        return cls(kept)

    def pass_on(self, environ: MutableMapping[str, str]) -> None:
        """Leave them to the next program of this process, which gets this environment."""
        for kept in self._kept:
            os.set_inheritable(kept.control.fileno(), True)
        environ[VARIABLE] = " ".join(f"{kept.pid}:{kept.control.fileno()}" for kept in self._kept)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """All of them."""
        return tuple(self._kept)

    def and_also(self, other: "Left") -> "Left":
        """Both."""
        return Left([*self.kept, *other.kept])

    def stir(self) -> None:
        """Let every connection send a packet, so that who has just begun to track them knows them all."""
        if self._kept:
            self._tell({"probe": STIR_IDLE_SECONDS})
            time.sleep(STIR_SECONDS)

    def drain(self) -> bool:
        """Accept no more; who is connected stays so. False when there are none."""
        if self._kept:
            time.sleep(HANDSHAKE_SECONDS)
            self._tell({"probe": CALM_SECONDS, "drain": True})
        return bool(self._kept)

    def serve(self) -> bool:
        """Whether any of them still has a connection, or accepts them."""
        for kept in [k for k in self._kept if _has_ended(k.pid)]:
            kept.control.close()
            self._kept.remove(kept)
        return bool(self._kept)

    def end(self) -> bool:
        """End them, and wait for that; whether there were any."""
        there = self.serve()
        for kept in self._kept:
            with suppress(OSError):
                kept.control.shutdown(socket.SHUT_RDWR)
        while self.serve():
            time.sleep(END_SECONDS)
        return there

    def _tell(self, message: dict[str, Any]) -> None:
        for kept in self._kept:
            with suppress(OSError):  # it has ended
                send(kept.control, message)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
