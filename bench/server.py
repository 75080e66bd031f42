"""The server of the load suite: `python -m svcnet.bench.server NAMESPACE…` answers every byte k with 2^k bytes.

Owns: one epoll loop with a listener in every namespace. Says `ready` on stdout; ends when its stdin does, so never
later than who started it. Must not know what is between it and a client.
"""

import os
import select
import socket
import sys
from collections.abc import Sequence

from svcnet.bench.world import TARGET_PORT
from svcnet.lab import namespace

BACKLOG = 1024
CHUNK = 1 << 20
COPIED = 1 << 16
"""Answers up to this size are sent from memory, larger ones by sendfile(2), as servers do."""
MOST = 30
"""Highest k that is answered: a connection that asks for more is closed."""


def listener(port: int) -> socket.socket:
    """A socket that listens on every IPv4 address of the caller's namespace."""
    sock = socket.create_server(("", port), backlog=BACKLOG)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits this
    return sock


class Server:
    """Serves from `run` until `until` is readable."""

    def __init__(self, listeners: Sequence[socket.socket], until: int) -> None:
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._until = until
        self._epoll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._left: dict[int, int] = {}
        self._zeros = memoryview(bytes(COPIED))
        self._file = os.memfd_create("answers")
        os.truncate(self._file, CHUNK)
        for fd in (until, *self._listeners):
            self._epoll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Answer."""
        while True:
            for fd, events in self._epoll.poll():
                if fd == self._until:
                    return
                if fd in self._listeners:
                    self._accept(self._listeners[fd])
                elif fd in self._open:
                    self._serve(fd, events)

    def close(self) -> None:
        """Close everything."""
        for sock in (*self._open.values(), *self._listeners.values()):
            sock.close()
        self._epoll.close()
        os.close(self._file)

    def _accept(self, door: socket.socket) -> None:
        try:
            sock, _ = door.accept()
        except OSError:
            return  # the client gave up, or there are no descriptors: the next turn sees
        sock.setblocking(False)
        self._open[sock.fileno()] = sock
        self._left[sock.fileno()] = 0
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _serve(self, fd: int, events: int) -> None:
        sock = self._open[fd]
        try:
            if not events & select.EPOLLOUT:
                asked = sock.recv(64)
                if not asked or max(asked) > MOST:
                    self._drop(fd)
                    return
                self._left[fd] += sum(1 << k for k in asked)
            waited = self._left[fd]
            self._send(fd, sock)
        except BlockingIOError:
            return
        except OSError:
            self._drop(fd)
            return
        if self._left[fd]:
            self._epoll.modify(fd, select.EPOLLOUT)
        elif waited and events & select.EPOLLOUT:
            self._epoll.modify(fd, select.EPOLLIN)

    def _send(self, fd: int, sock: socket.socket) -> None:
        """Send until the socket takes no more."""
        while left := self._left[fd]:
            try:
                if left <= COPIED:
                    self._left[fd] -= sock.send(self._zeros[:left])
                else:
                    self._left[fd] -= os.sendfile(fd, self._file, 0, min(left, CHUNK))
            except BlockingIOError:
                return

    def _drop(self, fd: int) -> None:
        del self._left[fd]
        self._open.pop(fd).close()


def main() -> None:
    """Entry point."""
    server = Server([namespace.inside(name, lambda: listener(TARGET_PORT)) for name in sys.argv[1:]], 0)
    print("ready", flush=True)
    server.run()


if __name__ == "__main__":
    main()
