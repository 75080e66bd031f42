"""The userspace proxy as a whole, from the daemon's side: rows in; route, listeners and workers follow.

Owns: which listeners are open, what each worker has been told, which frontends can't be served and why. Must not know
records or kernel rules; carries no byte.
"""

import logging
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from svcnet.model.frontend import Frontend
from svcnet.proxy import route
from svcnet.proxy.child import Child, Message
from svcnet.proxy.left import Left
from svcnet.proxy.listening import close_listener, most_listeners, open_listener, raise_limit, why_not
from svcnet.proxy.route import Network
from svcnet.proxy.row import Weights
from svcnet.proxy.wire import FDS_A_FRAME

log = logging.getLogger(__name__)

PROTOCOLS = {"tcp", "udp"}
RETRY_SECONDS = 5.0
"""How often a frontend that could not be opened is tried again; with every change too."""


class Opened(NamedTuple):
    """A frontend's number between daemon and workers, and its sockets, one a worker."""

    ident: int
    sockets: tuple[socket.socket, ...]


class Userspace:
    """Nothing happens before the first `sync`. Errors: KernelError, NotPermittedError."""

    def __init__(self, networks: Sequence[Network], workers: int = 1) -> None:
        self._networks = networks
        self._lock = threading.RLock()
        self._rows: dict[Frontend, Weights] = {}
        self._open: dict[Frontend, Opened] = {}
        self._failed: dict[Frontend, str] = {}
        self._idents = 0
        self._most = most_listeners(workers)
        self._children = tuple(Child(number, self._lock, self._everything) for number in range(workers))
        self._stopping = threading.Event()
        self._retrying: threading.Thread | None = None

    @property
    def most_frontends(self) -> int:
        """How many frontends can be served, by the limit on file descriptors."""
        return self._most

    @property
    def workers(self) -> tuple[Child, ...]:
        """The worker processes."""
        return self._children

    @property
    def failed(self) -> Mapping[Frontend, str]:
        """The frontends that are not served, and why."""
        with self._lock:
            return dict(self._failed)

    @property
    def rows(self) -> Mapping[Frontend, Weights]:
        """What was asked for last; frontends without a backend are in none."""
        return self._rows

    def sync(self, wanted: Mapping[Frontend, Weights]) -> None:
        """Serve exactly these. Starts the workers the first time."""
        route.add(self._networks)
        if self._retrying is None:
            raise_limit()
            self._retrying = threading.Thread(target=self._retry, name="proxy-retry", daemon=True)
            self._retrying.start()
            for child in self._children:
                child.start()
        gone = dict.fromkeys(self._rows.keys() - wanted.keys())
        self.apply({**gone, **{f: w for f, w in wanted.items() if self._rows.get(f) != w}})

    def apply(self, changes: Mapping[Frontend, Weights | None]) -> int:
        """Serve these too, or (None, or no backend) no more; return how many frontends were told to the workers.

        When it returns the workers act on it; one that is just being started will.
        """
        with self._lock:
            drops = [ident for f, weights in changes.items() if not weights and (ident := self._forget(f)) is not None]
            puts = [(f, self._keep(f, weights)) for f, weights in changes.items() if weights]
            puts += [(f, True) for f in tuple(self._failed) if f not in changes and self._try_open(f)]
            told = [(f, fresh) for f, fresh in puts if f in self._open]
            for number, child in enumerate(self._children):
                child.tell(self._messages(number, told, drops))
        if drops or told:
            for child in self._children:
                child.confirm()
        return len(drops) + len(told)

    def leave(self) -> Left:
        """Let the workers serve on, with their listeners, for the next program of this process, which comes at once."""
        self._stopping.set()
        started = self._children if self._retrying is not None else ()
        return Left(kept for child in started if (kept := child.leave()) is not None)

    def stop(self) -> None:
        """End the workers and close the listeners; the route stays."""
        self._stopping.set()
        for child in self._children if self._retrying is not None else ():
            child.stop()
        with self._lock:
            for opened in self._open.values():
                for sock in opened.sockets:
                    close_listener(sock)
            self._open.clear()
            self._rows.clear()
        if self._retrying is not None:
            self._retrying.join()

    def _keep(self, frontend: Frontend, weights: Weights) -> bool:
        """Remember a row; whether its listener is new."""
        self._rows[frontend] = weights
        return frontend not in self._open and self._try_open(frontend)

    def _forget(self, frontend: Frontend) -> int | None:
        """Refuse from now on; the number that workers know it by."""
        self._rows.pop(frontend, None)
        self._failed.pop(frontend, None)
        opened = self._open.pop(frontend, None)
        if opened is None:
            return None
        for sock in opened.sockets:
            close_listener(sock)
        return opened.ident

    def _try_open(self, frontend: Frontend) -> bool:
        why = self._open_it(frontend)
        if why and self._failed.get(frontend) != why:
            log.warning("not served frontend=%s why=%s", frontend, why)
        if why:
            self._failed[frontend] = why
            return False
        self._failed.pop(frontend, None)
        return True

    def _open_it(self, frontend: Frontend) -> str:
        """Open a frontend; why it can't be, or ""."""
        if frontend.protocol not in PROTOCOLS:
            return f"the userspace proxy has no {frontend.protocol.upper()}: a kernel path is needed"
        if len(self._open) >= self._most:
            return f"the limit of {self._most} ports, which follows from that of open files (ulimit -Hn), is reached"
        sockets: list[socket.socket] = []
        try:
            sockets.extend(open_listener(frontend, shared=len(self._children) > 1) for _ in self._children)
        except OSError as error:
            for sock in sockets:
                sock.close()
            return why_not(error)
        self._idents += 1
        self._open[frontend] = Opened(self._idents, tuple(sockets))
        return ""

    def _everything(self, number: int) -> Sequence[Message]:
        """What a new worker is told."""
        return self._messages(number, [(frontend, True) for frontend in self._open], [])

    def _messages(self, number: int, puts: Sequence[tuple[Frontend, bool]], drops: Sequence[int]) -> list[Message]:
        messages: list[Message] = [({"drop": drops}, ())] if drops else []
        for batch in _batches(puts):
            fds = [self._open[f].sockets[number].fileno() for f, fresh in batch if fresh]
            messages.append(({"put": [self._row(f, fresh) for f, fresh in batch]}, fds))
        return messages

    def _row(self, frontend: Frontend, fresh: bool) -> list[Any]:
        targets = [(*backend, weight) for backend, weight in self._rows[frontend].items()]
        return [self._open[frontend].ident, frontend.protocol, targets, fresh]

    def _retry(self) -> None:
        while not self._stopping.wait(RETRY_SECONDS):
            if self._failed:
                self.apply({})


def _batches(puts: Sequence[tuple[Frontend, bool]]) -> Iterable[Sequence[tuple[Frontend, bool]]]:
    return (puts[i : i + FDS_A_FRAME] for i in range(0, len(puts), FDS_A_FRAME))
