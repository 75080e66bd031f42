"""The userspace proxy as a whole, from the daemon's side: rows in; route, listeners and workers follow.

Owns: which listeners are open, what each worker has been told, which frontends can't be served and why. Must not know
records or kernel rules; carries no byte.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from svcnet.endpoints import Networks
from svcnet.model.frontend import Frontend
from svcnet.proxy import route
from svcnet.proxy.child import Child, Message
from svcnet.proxy.ledger import Ledger
from svcnet.proxy.left import HANDSHAKE_SECONDS, Left, Listeners
from svcnet.proxy.listening import TAKEN, most_listeners, raise_limit, why_not
from svcnet.proxy.opened import Opened
from svcnet.proxy.outside import Outside
from svcnet.proxy.route import Network
from svcnet.proxy.row import Rule
from svcnet.wire import FDS_A_FRAME

log = logging.getLogger(__name__)

PROTOCOLS = {"tcp", "udp"}
RETRY_SECONDS = 5.0
"""How often a frontend that could not be opened is tried again; with every change too."""


class Userspace:
    """Nothing happens before the first `sync`.

    `pods`: networks of clients that have the short way (row.Reach). `log_every`: one connection of so many is logged;
    0: none. `own`: where frontends outside of the networks may be; None: anywhere. `left`: workers whose listeners are
    taken over; as long as they serve, ours don't, until `begin`. Errors: KernelError, NotPermittedError.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        workers: int = 1,
        pods: Iterable[str] = (),
        own: frozenset[str] | None = None,
        log_every: int = 0,
        left: Left | None = None,
    ) -> None:
        self._left = left or Left()
        self._taken: Listeners = {}
        self._begun: Literal["", "waits", "stays"] = ""
        self._networks = networks
        self._pods = tuple(pods)
        self._log_every = log_every
        self._inside = Networks(networks)
        self._is_beside = own is not None
        """Others choose the ports, and have another one where one is taken."""
        self._outside = Outside(networks, own)
        self._addresses: Counter[str] = Counter()
        """Those outside of the networks, with how many frontends each has."""
        self._lock = threading.RLock()
        self._rows: dict[Frontend, Rule] = {}
        self._open: dict[Frontend, Opened] = {}
        self._failed: dict[Frontend, str] = {}
        self._idents = 0
        self._most = most_listeners(workers)
        self.ledger = Ledger(workers)
        """What the workers count."""
        self._children = tuple(Child(number, self._lock, self._everything) for number in range(workers))
        self._stopping = threading.Event()
        self._retrying: threading.Thread | None = None

    @property
    def most_frontends(self) -> int:
        """How many frontends can be served, by the limit on file descriptors."""
        return self._most

    @property
    def listeners(self) -> int:
        """How many frontends have one."""
        return len(self._open)

    @property
    def most_connections(self) -> int:
        """How many all workers can have, as far as they have said."""
        return sum(child.counters.get("most_connections", 0) for child in self._children)

    @property
    def worker_starts(self) -> int:
        """How many worker processes began to serve."""
        return sum(child.starts for child in self._children)

    @property
    def faults(self) -> int:
        """How many exceptions nobody expected in worker processes."""
        return sum(child.faults for child in self._children)

    @property
    def workers(self) -> tuple[Child, ...]:
        """The worker processes."""
        return self._children

    @property
    def follows(self) -> bool:
        """Whether workers of another program serve, or served until others did."""
        return self._left.serve()

    @property
    def is_ahead(self) -> bool:
        """Whether another daemon still leads those whose place ours are to take."""
        return self._left.is_lent

    @property
    def failed(self) -> Mapping[Frontend, str]:
        """The frontends that are not served, and why."""
        with self._lock:
            lost = self._outside.failed
            return {f: lost[f.address] for f in self._rows if f.address in lost} | self._failed

    def why_not(self, front: Frontend) -> str:
        """Why one that was asked for is not served; "" if it is."""
        with self._lock:
            return self._failed.get(front) or self._outside.failed.get(front.address, "")

    def waiting(self, front: Frontend) -> int:
        """How many clients of a frontend no worker has accepted yet."""
        with self._lock:
            opened = self._open.get(front)
            return opened.waiting if opened is not None else 0

    @property
    def rows(self) -> Mapping[Frontend, Rule]:
        """What was asked for last."""
        return self._rows

    @property
    def outside(self) -> Iterable[str]:
        """The addresses outside of the networks."""
        return self._addresses.keys()

    def routes_are_there(self) -> bool:
        """Whether all addresses are this machine's."""
        with self._lock:
            return route.is_there(self._networks) and self._outside.is_there()

    def sync(self, wanted: Mapping[Frontend, Rule]) -> None:
        """Serve exactly these. Starts the workers the first time."""
        if self._networks:
            route.add(self._networks)
        with self._lock:
            self._outside.read()
        if self._retrying is None:
            raise_limit()
            if not self._begun:
                self._taken = self._left.listeners()
                self._begun = "waits" if self._left.serve() else ""
            self._retrying = threading.Thread(target=self._retry, name="proxy-retry", daemon=True)
            self._retrying.start()
            for child in self._children:
                child.start()
        gone = dict.fromkeys(self._rows.keys() - wanted.keys())
        self.apply({**gone, **{f: rule for f, rule in wanted.items() if self._rows.get(f) != rule}})

    def apply(self, changes: Mapping[Frontend, Rule | None]) -> int:
        """Serve these too, or (None) no more; return how many frontends were told to the workers.

        When it returns the workers act on it; one that is just being started will.
        """
        with self._lock:
            self._count(changes)
            quiet = (f for f, rule in changes.items() if rule is None or not rule.listens)
            drops = [ident for f in quiet for ident in self._forget(f)]
            self._rows |= {f: rule for f, rule in changes.items() if rule is not None}
            puts = [(f, self._keep(f)) for f, rule in changes.items() if rule is not None and rule.listens]
            puts += [(f, True) for f in tuple(self._failed) if f not in changes and self._keep(f)]
            told = [(f, fresh) for f, fresh in puts if f in self._open]
            for number, child in enumerate(self._children):
                child.tell(self._messages(number, told, drops))
            self._outside.hold(self._addresses)
        if drops or told:
            for child in self._children:
                child.confirm()
            self.ledger.settle()
        return len(drops) + len(told)

    def begin(self) -> None:
        """After the first `sync`: serve, in place of those that were left, and whatever becomes of this process."""
        if self._open:
            self._left.pause()
        with self._lock:
            for front, opened in self._open.items():
                try:
                    opened.settle()
                except OSError as error:
                    self._fail(front, why_not(error))
            self._begun = "stays"
            for child in self._children:
                child.tell([({"serve": True, "stay": True}, ())])
        for child in self._children if self._left.serve() else ():
            child.confirm()

    def relieve(self) -> bool:
        """After `begin`, when nobody new is led elsewhere: those that were left serve who is connected, and end then.

        Return whether there were UDP sockets that nobody took over.
        """
        self._left.drain(HANDSHAKE_SECONDS if self._taken else 0.0)
        with self._lock:
            unused = [sock for socks in self._taken.values() for sock in socks]
            self._taken = {}
            for sock in unused:
                sock.close()
        return any(sock.type == socket.SOCK_DGRAM for sock in unused)

    def leave(self) -> None:
        """Let the workers serve on, with their listeners, for the next program: this one ends."""
        self._stopping.set()
        for child in self._children if self._retrying is not None else ():
            child.leave()

    def drain(self) -> None:
        """Take nobody new in; who is connected is served until that ends, also when this process has ended."""
        self._stopping.set()
        if self._retrying is not None:
            time.sleep(HANDSHAKE_SECONDS)
            for child in self._children:
                child.drain()
        self._left.drain()

    def stop(self) -> None:
        """End the workers, those that were left too, and close the listeners; the route stays."""
        self._stopping.set()
        self._left.end()
        for child in self._children if self._retrying is not None else ():
            child.stop()
        self.ledger.close()
        with self._lock:
            for opened in self._open.values():
                opened.close()
            self._open.clear()
            self._rows.clear()
        if self._retrying is not None:
            self._retrying.join()

    def _count(self, changes: Mapping[Frontend, Rule | None]) -> None:
        for front, rule in changes.items():
            more = (rule is not None) - (front in self._rows)
            if more and not self._inside.holding(front.address):
                self._addresses[front.address] += more
                if not self._addresses[front.address]:
                    del self._addresses[front.address]

    def _keep(self, frontend: Frontend) -> bool:
        """Have a listener for a row, that lets in whom it shall; whether it is new."""
        opened = self._open.get(frontend)
        if opened is None:
            return self._try_open(frontend)
        try:
            opened.obey(self._rows[frontend], self._pods)
        except OSError as error:
            self._fail(frontend, why_not(error))
        else:
            self._failed.pop(frontend, None)
        return False

    def _forget(self, frontend: Frontend) -> Iterable[int]:
        """Refuse from now on; the numbers that workers know it by."""
        self._rows.pop(frontend, None)
        self._failed.pop(frontend, None)
        opened = self._open.pop(frontend, None)
        if opened is None:
            return ()
        self.ledger.forget(frontend)
        opened.close()
        return opened.idents

    def _try_open(self, frontend: Frontend) -> bool:
        why = self._open_it(frontend)
        if why:
            self._fail(frontend, why)
            return False
        self._failed.pop(frontend, None)
        return True

    def _fail(self, frontend: Frontend, why: str) -> None:
        if self._failed.get(frontend) == why:
            return
        if why == TAKEN and self._is_beside:
            log.info("another port is tried, as this one is taken frontend=%s", frontend)
        else:
            log.warning("not served frontend=%s why=%s", frontend, why)
        self._failed[frontend] = why

    def _open_it(self, frontend: Frontend) -> str:
        """Open a frontend; why it can't be, or ""."""
        if frontend.protocol not in PROTOCOLS:
            return f"the userspace proxy has no {frontend.protocol.upper()}: a kernel path is needed"
        if len(self._open) >= self._most:
            return f"the limit of {self._most} ports, which follows from that of open files (ulimit -Hn), is reached"
        rule, workers = self._rows[frontend], len(self._children)
        taken = self._taken.pop(frontend, ())
        try:
            opened = self._open[frontend] = Opened(self._idents + 1, frontend, workers, rule, self._pods, taken)
        except OSError as error:
            return why_not(error)
        self._idents = opened.idents[-1]
        return ""

    def _everything(self, number: int) -> Sequence[Message]:
        """What a new worker is told."""
        first: list[Message] = [
            ({"counts": True}, [self.ledger.block(number)]),
            ({"pods": self._pods, "log": self._log_every}, ()),
        ]
        if self._begun:
            first.append(({"stay" if self._begun == "stays" else "wait": True}, ()))
        return [*first, *self._messages(number, [(frontend, True) for frontend in self._open], [])]

    def _messages(self, number: int, puts: Sequence[tuple[Frontend, bool]], drops: Sequence[int]) -> list[Message]:
        messages: list[Message] = [({"drop": drops}, ())] if drops else []
        doors = [(f, fresh, ident, sock) for f, fresh in puts for ident, sock in self._open[f].of(number)]
        for at in range(0, len(doors), FDS_A_FRAME):
            batch = doors[at : at + FDS_A_FRAME]
            fds = [sock.fileno() for _, fresh, _, sock in batch if fresh]
            messages.append(({"put": [self._row(number, f, ident, fresh) for f, fresh, ident, _ in batch]}, fds))
        return messages

    def _row(self, number: int, frontend: Frontend, ident: int, fresh: bool) -> list[Any]:
        opened, rule = self._open[frontend], self._rows[frontend]
        slots = self.ledger.assign(frontend, (*rule.service.targets, *rule.service.local))
        own, told = slots.pop(None), rule.share(number, len(self._children)).encoded()
        rows = [[*backend, slot] for backend, slot in slots.items() if backend is not None]
        return [ident, frontend.protocol, fresh, opened.is_filtered, told, own, rows]

    def _retry(self) -> None:
        while not self._stopping.wait(RETRY_SECONDS):
            if self._failed or self._outside.is_busy:
                self.apply({})
