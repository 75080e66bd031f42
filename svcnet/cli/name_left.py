"""DNS sockets and workers that the program before this one left, in the same process: a reload starts the program anew.

Owns: how one program tells the next of them, and their end. Must not know why it comes.
"""

import json
import os
import signal
import socket
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import NamedTuple

from svcnet.option_kind import Listen

VARIABLE = "_SVCNET_DNS"
"""JSON: {"sockets": [[HOST, PORT, [[FD, …] of each worker]], …], "workers": [[PID, FD of its feed], …]}."""

Sets = tuple[tuple[socket.socket, ...], ...]
"""The sockets on one address, one set a worker."""


class Kept(NamedTuple):
    """A worker that answers until its feed ends, and what it was asked by then."""

    pid: int
    feed: socket.socket


class NameLeft:
    """Empty, unless an earlier program left something. The workers are children of this process."""

    def __init__(self, sockets: Iterable[tuple[Listen, Sets]] = (), workers: Iterable[Kept] = ()) -> None:
        self._sockets = dict(sockets)
        self._workers = list(workers)
        self._retired: list[int] = []

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "NameLeft":
        """What `pass_on` told of; nobody else is told."""
        said = json.loads(environ.pop(VARIABLE, "{}"))
        sockets = [(Listen(host, port), _opened(sets)) for host, port, sets in said.get("sockets", ())]
        return cls(sockets, [Kept(pid, _taken(fd)) for pid, fd in said.get("workers", ())])

    def keep(self, sockets: Iterable[tuple[Listen, Sets]], workers: Iterable[Kept]) -> None:
        """Take these, for the next program."""
        self._sockets |= dict(sockets)
        self._workers += workers

    def pass_on(self, environ: MutableMapping[str, str]) -> None:
        """Leave all to the next program of this process, which gets this environment."""
        sets = [[*listen, [[_given(one) for one in each] for each in sets]] for listen, sets in self._sockets.items()]
        workers = [[kept.pid, _given(kept.feed)] for kept in self._workers]
        if sets or workers:
            environ[VARIABLE] = json.dumps({"sockets": sets, "workers": workers})

    def take(self, listens: Iterable[Listen], workers: int) -> dict[Listen, Sets]:
        """Return the sockets of those of these addresses that have them for so many workers.

        What is wanted by none is closed, and who answers on it ends: it could be in the way of others.
        """
        found = {one: self._sockets.pop(one) for one in listens if len(self._sockets.get(one, ())) == workers}
        if self._sockets:
            self.end()
        return found

    def serves(self) -> bool:
        """Whether a worker answers."""
        return bool(self._workers)

    def retire(self) -> None:
        """Let the workers end when what they were asked is answered."""
        for kept in self._workers:
            kept.feed.close()
        self._retired += [kept.pid for kept in self._workers]
        self._workers.clear()

    def reap(self) -> bool:
        """Whether some of those that were retired have not ended yet."""
        self._retired = [pid for pid in self._retired if not _has_ended(pid)]
        return bool(self._retired)

    def end(self) -> None:
        """End all now."""
        for one in (s for sets in self._sockets.values() for each in sets for s in each):
            one.close()
        self._sockets.clear()
        self.retire()
        for pid in self._retired:
            with suppress(OSError):  # it has ended
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._retired.clear()


def _opened(sets: Iterable[Iterable[int]]) -> Sets:
    return tuple(tuple(_taken(fd) for fd in each) for each in sets)


def _taken(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _given(one: socket.socket) -> int:
    os.set_inheritable(one.fileno(), True)
    return one.fileno()


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
