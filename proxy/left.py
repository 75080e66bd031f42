"""Workers that another program left serving, or still leads: one that a take-over, a reload or a crash ended.

Owns: how they are found, what they hand over, and their end. Must not know why somebody takes their place.

They serve until they are told to `drain`, which is only done when others do; until then whoever took copies of their
listeners can die, and nothing has happened (heirs.py has the worker's side).
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from svcnet import handover
from svcnet.model.frontend import Frontend
from svcnet.proxy.heirs import KIND
from svcnet.wire import Inbox, send

log = logging.getLogger(__name__)

STIR_IDLE_SECONDS, STIR_SECONDS, CALM_SECONDS = 1, 1.3, 60
"""After how much idleness a connection sends a probe (the kernel's least), when all have, and how often later."""
HANDSHAKE_SECONDS = 0.2
"""How long connections that are being opened get, before nobody listens."""
END_SECONDS = 0.01

Listeners = dict[Frontend, list[socket.socket]]


class Kept:
    """One worker. OSError when it does not answer."""

    def __init__(self, found: handover.Found) -> None:
        self._found = found
        self.pid, self._socket = found
        self._inbox = Inbox()
        self._asked = 0
        self.is_orphan = bool(self._next()[0].get("orphan"))

    def give(self) -> list[int]:
        """Copies of its listeners: file descriptors."""
        send(self._socket, {"give": True})
        fds: list[int] = []
        while True:
            message, more = self._next()
            fds += more
            if "done" in message:
                return fds

    def tell(self, message: dict[str, Any]) -> None:
        """Tell it something, and wait until it is done."""
        self._asked += 1
        send(self._socket, {**message, "ack": self._asked})
        while self._next()[0].get("ack") != self._asked:
            pass

    def has_ended(self) -> bool:
        """Whether it is gone."""
        return handover.has_ended(self._found)

    def forget(self) -> None:
        """Have nothing to do with it any more."""
        self._socket.close()

    def _next(self) -> tuple[dict[str, Any], list[int]]:
        while (got := self._inbox.take()) is None:
            if not self._inbox.receive(self._socket):
                raise ConnectionResetError
        return got


class Left:
    """None, unless `find` finds some."""

    def __init__(self, kept: Iterable[Kept] = ()) -> None:
        self._kept = list(kept)
        self._lock = threading.Lock()
        self.is_lent = False
        """Another daemon leads them yet: `end` lets them be."""

    def find(self, *, orphans: bool) -> "Left":
        """Know all of this network namespace; `orphans`: only those that nobody leads."""
        known = {kept.pid for kept in self._kept}
        for found in handover.find(KIND):
            try:
                kept = Kept(found) if not found.pid or found.pid not in known else None
            except OSError as error:
                log.warning("a proxy worker of another program says nothing pid=%s why=%s", found.pid, error)
                kept = None
            if kept is not None and (kept.is_orphan or not orphans):
                log.info("found a proxy worker of another program pid=%s orphan=%s", kept.pid, kept.is_orphan)
                self._kept.append(kept)
            else:
                found.connection.close()
        return self

    def listeners(self) -> Listeners:
        """Copies of what they listen on; of one that several have, one copy."""
        found: Listeners = {}
        seen: set[int] = set()
        for kept in self._kept:
            try:
                given = kept.give()
            except OSError as error:
                log.warning("a proxy worker gives nothing pid=%s why=%s", kept.pid, error)
                continue
            for fd in given:
                sock = socket.socket(fileno=fd)
                inode = os.fstat(fd).st_ino
                front = None if inode in seen else _frontend(sock)
                if front is None:
                    sock.close()
                else:
                    seen.add(inode)
                    found.setdefault(front, []).append(sock)
        return found

    def pause(self) -> None:
        """Let them accept nothing, until `drain` or the end of this process."""
        self._tell({"pause": True})

    def stir(self) -> None:
        """Let every connection send a packet, so that who has just begun to track them knows them all."""
        if self._kept:
            self._tell({"probe": STIR_IDLE_SECONDS})
            time.sleep(STIR_SECONDS)

    def drain(self, handshake_seconds: float = 0.0) -> bool:
        """Accept no more; who is connected stays so. False when there are none."""
        if self._kept:
            time.sleep(handshake_seconds)
            self._tell({"probe": CALM_SECONDS, "drain": True})
        return bool(self._kept)

    def drain_after_handshakes(self) -> bool:
        """The same where the next connections go another way already."""
        return self.drain(HANDSHAKE_SECONDS)

    def serve(self) -> bool:
        """Whether any of them still has a connection, or accepts them."""
        with self._lock:
            for kept in [k for k in self._kept if k.has_ended()]:
                kept.forget()
                self._kept.remove(kept)
            return bool(self._kept)

    def end(self) -> bool:
        """End them, and wait for that; whether there were any."""
        if self.is_lent:
            return False
        there = self.serve()
        for kept in tuple(self._kept):
            try:
                kept.tell({"end": True})
            except TimeoutError:
                with suppress(OSError):
                    os.kill(kept.pid, signal.SIGKILL) if kept.pid else None
            except OSError:  # it has ended
                continue
        while self.serve():
            time.sleep(END_SECONDS)
        return there

    def _tell(self, message: dict[str, Any]) -> None:
        for kept in tuple(self._kept):
            try:
                kept.tell(message)
            except OSError as error:
                if not kept.has_ended():
                    log.warning("a proxy worker says nothing pid=%s why=%s", kept.pid, error)


def _frontend(sock: socket.socket) -> Frontend | None:
    """Where it listens."""
    protocol = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}.get(sock.type)
    try:
        address, port = sock.getsockname()[:2]
    except (OSError, ValueError):
        return None
    version = {socket.AF_INET: 4, socket.AF_INET6: 6}.get(sock.family)
    return Frontend(version, address, protocol, port) if protocol and version and port else None
