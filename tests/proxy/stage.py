"""A worker process with listeners on loopback, and backends that do as a test says.

Owns: the sockets of a test, closed at its end. Must not know what is tried.
"""

import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from operator import add
from pathlib import Path
from typing import Any, Self

import pytest

from svcnet.model.frontend import Frontend
from svcnet.model.terms import USUAL, Terms
from svcnet.proxy import child
from svcnet.proxy.child import Child, Message
from svcnet.proxy.counts import CELLS
from svcnet.proxy.ledger import Ledger
from svcnet.proxy.row import Backend, Choice, Rule, Service
from tests.harness.until import until

PATIENCE_SECONDS = 30.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
HOST = "127.0.0.1"


class Stage:
    """Use as a context."""

    def __init__(self, log_every: int = 0) -> None:
        self._stack = ExitStack()
        self._idents = 0
        self._kept: list[socket.socket] = []
        self.ledger = Ledger(1)
        self.proxies: set[int] = set()
        """Others that have conversations on this stage."""
        self._sums: dict[Frontend, list[int]] = {}
        self.child = Child(0, threading.RLock(), lambda _number: self._greeting(log_every))

    def _greeting(self, log_every: int) -> list[Message]:
        return [({"counts": True}, [self.ledger.block(0)]), ({"log": log_every}, ())]

    def __enter__(self) -> Self:
        # One that is slow, as the machine is busy, does not hang.
        patient = self._stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("CONFIRM_SECONDS", "START_SECONDS"):
            patient.setattr(child, name, PATIENCE_SECONDS)
        self.child.start()
        self._stack.callback(self.ledger.close)
        self._stack.callback(self.child.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close it in the end."""
        sock.settimeout(PATIENCE_SECONDS)
        self._kept.append(sock)
        return self._stack.enter_context(sock)

    def hang_up(self) -> None:
        """Close all clients, backends and listeners; the worker has its own of these."""
        for sock in self._kept:
            sock.close()

    def tell(self, message: dict[str, Any], fds: Iterable[int] = ()) -> None:
        """Tell the worker, and wait until it is so."""
        while not self.child.confirm():  # it is just being started
            threading.Event().wait(0.005)
        self.child.tell([(message, list(fds))])
        assert self.child.confirm()

    def stop(self) -> None:
        """Let the worker do nothing from now on; `go_on` lets it again."""
        os.kill(self.child.pid, signal.SIGSTOP)
        until(lambda: state(self.child.pid) == "T")

    def rest(self) -> None:
        """Wait until the worker, and any other proxy, has done all that there was to do."""
        until(self.child.confirm)  # a stage for another proxy alone may come so far before its worker runs
        # Whatever happens on a socket of theirs wakes them at once: they run, or would.
        until(lambda: all(state(pid) == "S" for pid in (self.child.pid, *self.proxies)))

    def go_on(self) -> None:
        """Let the worker find all that happened meanwhile at once."""
        os.kill(self.child.pid, signal.SIGCONT)

    def frontend(
        self,
        *backends: Backend,
        protocol: str = "tcp",
        weights: Mapping[Backend, int] | None = None,
        choice: Choice = Choice.TURN,
        terms: Terms = USUAL,
        listener: socket.socket | None = None,
        name: str = "",
    ) -> int:
        """Open a frontend to these backends; its number. Its address: `self.address(number)`."""
        self._idents += 1
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        if listener is None:
            listener = self._listener(kind, (HOST, 0))
        self.listeners = getattr(self, "listeners", {}) | {self._idents: listener}
        rule = leading_to(self._idents, *backends, weights=weights, choice=choice, terms=terms, name=name)
        slots = self._slots(self._idents, backends)
        self.tell({"put": [[self._idents, protocol, True, False, rule, *slots]]}, [listener.fileno()])
        return self._idents

    def _listener(self, kind: int, where: tuple[str, int]) -> socket.socket:
        listener = self.keep(socket.socket(socket.AF_INET, kind))
        if kind == socket.SOCK_STREAM:  # others may still be connected from there
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        if kind == socket.SOCK_STREAM:
            listener.listen(4096)
        return listener

    def update(self, ident: int, *backends: Backend, protocol: str = "tcp", terms: Terms = USUAL) -> None:
        """Other backends, or other terms."""
        self.tell({"put": [self.row(ident, *backends, protocol=protocol, terms=terms)]})

    def row(
        self, ident: int, *backends: Backend, protocol: str = "tcp", terms: Terms = USUAL, fresh: bool = False
    ) -> list[Any]:
        """What tells of other backends, or other terms; `fresh`: with a listener."""
        rule = leading_to(ident, *backends, terms=terms)
        return [ident, protocol, fresh, False, rule, *self._slots(ident, backends)]

    def _slots(self, ident: int, backends: Iterable[Backend]) -> list[Any]:
        slots = self.ledger.assign(self._front(ident), backends)
        own = slots.pop(None)
        return [own, [[*backend, slot] for backend, slot in slots.items() if backend is not None]]

    def _front(self, ident: int) -> Frontend:
        return Frontend(4, HOST, "tcp", ident)

    def counted(self, ident: int, field: int) -> int:
        """What the worker counted for a frontend so far, in one cell (svcnet/proxy/counts.py)."""
        for one in self.ledger.take():
            sums = self._sums.setdefault(one.front, [0] * len(one.cells))
            sums[:] = map(add, sums, one.cells)
        return self._sums.get(self._front(ident), [0] * CELLS)[field]

    def drop(self, ident: int) -> None:
        """Close a frontend, in both processes."""
        self.listeners[ident].close()
        self.tell({"drop": [ident]})

    def reopen(self, ident: int, *backends: Backend, terms: Terms = USUAL) -> None:
        """Close a frontend and open it again, as when its last backend goes and others come; no time passes between."""
        row = self.row(ident, *backends, terms=terms, fresh=True)
        self.tell({"drop": [ident], "put": [row]}, [self.listeners[ident].fileno()])

    def happened(self, what: str) -> int:
        """What the worker counted for all frontends together."""
        assert self.child.confirm()
        return self.child.counters[what]

    def silent(self) -> Backend:
        """A backend that does not answer a dial: its queue is full."""
        _, backend = self.server(backlog=0)
        for _ in range(3):
            filler = self.keep(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(backend)
        return backend

    def address(self, ident: int) -> tuple[str, int]:
        """Where clients connect."""
        host, port = self.listeners[ident].getsockname()
        return host, port

    def client(self, ident: int) -> socket.socket:
        """A connected client."""
        return self.keep(socket.create_connection(self.address(ident), PATIENCE_SECONDS))

    def server(self, kind: int = socket.SOCK_STREAM, backlog: int = 128) -> tuple[socket.socket, Backend]:
        """A listening backend; the test accepts."""
        sock = self.keep(socket.socket(socket.AF_INET, kind))
        sock.bind((HOST, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
        return sock, Backend(*sock.getsockname())

    def dead(self, kind: int = socket.SOCK_STREAM) -> Backend:
        """A backend that refuses: its port stays taken, by a socket that does not listen."""
        sock = self.keep(socket.socket(socket.AF_INET, kind))
        sock.bind((HOST, 0))
        backend = Backend(*sock.getsockname())
        if kind == socket.SOCK_DGRAM:
            sock.connect((HOST, 9))  # datagrams of others are refused
        return backend

    def accept(self, server: socket.socket) -> socket.socket:
        """The next connection that reached a backend."""
        return self.keep(server.accept()[0])


def leading_to(
    ident: int,
    *backends: Backend,
    weights: Mapping[Backend, int] | None = None,
    choice: Choice = Choice.TURN,
    terms: Terms = USUAL,
    name: str = "",
) -> list[Any]:
    """A rule as it is told to a worker."""
    weighted = dict.fromkeys(backends, 1) | dict(weights or {})
    return Rule(Service(name or f"service {ident}", weighted, choice=choice, terms=terms)).encoded()


def read_all(sock: socket.socket) -> bytes:
    """Until FIN; ConnectionResetError at a reset."""
    parts = []
    while data := sock.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Send a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


def state(pid: int) -> str:
    """Of a process, as proc(5) has it: R runs or would, S waits for something, T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def file_limit() -> int:
    """How many file descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
