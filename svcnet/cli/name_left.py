"""DNS workers that another program left answering, or still feeds: one that a take-over, a reload or a crash ended.

Owns: how they are found, the copies of their sockets, and their end. Must not know why somebody takes their place.

They answer until they are told to retire, or ended; until then whoever took copies can die, and nothing has happened.
"""

import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterable
from contextlib import suppress

from svcnet import handover
from svcnet.dns.heirs import KIND
from svcnet.option_kind import Listen
from svcnet.wire import Inbox, send

log = logging.getLogger(__name__)

Pair = tuple[socket.socket, ...]
Sets = tuple[Pair, ...]
"""The sockets on one address, one set a worker: UDP, TCP, and so on if there are more than workers."""


class NameLeft:
    """None, unless `find` finds some."""

    def __init__(self) -> None:
        self._workers: list[handover.Found] = []
        self._retired: list[handover.Found] = []
        self._sockets: dict[Listen, list[socket.socket]] = {}
        self._seen: set[int] = set()

    def find(self, owner: str, listens: Iterable[Listen], *, orphans: bool = False) -> "NameLeft":
        """Know those of `owner`, and of others the orphans that have one of these addresses; `orphans`: only such."""
        wanted = {_plain(listen) for listen in listens}
        for found in handover.find(KIND):
            inbox = Inbox()
            try:
                while (got := inbox.take()) is None:
                    if not inbox.receive(found.connection):
                        raise ConnectionResetError
            except OSError as error:
                log.warning("a DNS worker of another program says nothing pid=%s why=%s", found.pid, error)
                found.connection.close()
                continue
            sockets = [socket.socket(fileno=fd) for fd in got[1]]
            places = [_place(one) for one in sockets]
            orphan = bool(got[0].get("orphan"))
            if (got[0].get("owner") == owner and (orphan or not orphans)) or (orphan and wanted & set(places)):
                log.info("found a DNS worker of another program pid=%s", found.pid)
                self._workers.append(found)
                self._have(sockets, places)
            else:
                for one in (*sockets, found.connection):
                    one.close()
        return self

    def take(self, listens: Iterable[Listen], workers: int) -> dict[Listen, Sets]:
        """Return the sockets of those of these addresses that have any, for so many workers: () is one without.

        What is wanted by none stays (`has_unwanted`): it could be in the way of others.
        """
        found = {}
        for listen in listens:
            mine = self._sockets.pop(_plain(listen), None)
            if mine is not None:
                found[listen] = _dealt(mine, workers)
        return found

    @property
    def has_unwanted(self) -> bool:
        """Whether there are sockets that nobody took."""
        return bool(self._sockets)

    def serves(self) -> bool:
        """Whether a worker answers."""
        return bool(self._workers)

    def retire(self) -> None:
        """Let the workers end when what they were asked is answered."""
        for found in self._workers:
            with suppress(OSError):  # it has ended
                send(found.connection, {"retire": True})
        self._retired += self._workers
        self._workers.clear()
        self._close()

    def reap(self) -> bool:
        """Whether some of those that were retired have not ended yet."""
        for found in [f for f in self._retired if handover.has_ended(f)]:
            found.connection.close()
            self._retired.remove(found)
        return bool(self._retired)

    def end(self) -> bool:
        """End all now; whether there were any."""
        self._retired += self._workers
        self._workers.clear()
        there = self.reap()
        for found in self._retired:
            with suppress(OSError):  # it has ended
                if found.pid:
                    os.kill(found.pid, signal.SIGKILL)
                found.connection.settimeout(handover.ANSWER_SECONDS)
                while found.connection.recv(1 << 16):  # until its end
                    pass
            found.connection.close()
            handover.reap(found, 0)
        self._retired.clear()
        self._close()
        return there

    def _have(self, sockets: Iterable[socket.socket], places: Iterable[Listen]) -> None:
        for one, place in zip(sockets, places, strict=True):
            inode = os.fstat(one.fileno()).st_ino
            if inode in self._seen:  # two workers have it
                one.close()
            else:
                self._seen.add(inode)
                self._sockets.setdefault(place, []).append(one)

    def _close(self) -> None:
        for one in (s for sockets in self._sockets.values() for s in sockets):
            one.close()
        self._sockets.clear()


def _dealt(sockets: Iterable[socket.socket], workers: int) -> Sets:
    by_kind: dict[int, list[socket.socket]] = {}
    for one in sockets:
        by_kind.setdefault(one.type, []).append(one)
    return tuple(tuple(s for kind in by_kind.values() for s in kind[number::workers]) for number in range(workers))


def _place(one: socket.socket) -> Listen:
    try:
        return _plain(Listen(*one.getsockname()[:2]))
    except (OSError, TypeError, ValueError):
        return Listen("", 0)


def _plain(listen: Listen) -> Listen:
    """An address as others write it too."""
    with suppress(ValueError):
        return Listen(str(ipaddress.ip_address(listen.host)), listen.port)
    return listen
