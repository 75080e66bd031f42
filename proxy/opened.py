"""The sockets of one frontend in the daemon, one a worker: whom they let in, and which of them a client comes to.

Owns: both, over the life of the sockets. Must not know what becomes of a client.

Sockets that were taken over still serve for another program: nothing is changed about them, and none is put beside
them, before `settle`. There may be more of them than workers: then some workers have several.
"""

import socket
from collections.abc import Iterable, Sequence

from svcnet.model.frontend import Frontend
from svcnet.proxy.admission import NOBODY, Admission, admission, admit
from svcnet.proxy.listening import bind_listener, close_listener, open_listener, prepare_listener, waiting
from svcnet.proxy.row import Choice, Rule
from svcnet.proxy.steering import spread, steer


class Opened:
    """`ident` is the number of its first socket between daemon and workers; those of the others follow.

    OSError if it can't be opened; with sockets that were `taken` over it is, and `settle` has to come.
    """

    def __init__(
        self,
        ident: int,
        frontend: Frontend,
        workers: int,
        rule: Rule,
        pods: Iterable[str],
        taken: Sequence[socket.socket] = (),
    ) -> None:
        self.ident = ident
        self._frontend = frontend
        self._family = frontend.family
        self._admission: Admission = admission(rule, pods)
        self._is_steered = False
        self._rule = rule
        self._unbound: list[socket.socket] = []
        self._is_settled = not taken
        self._workers = workers
        if taken:
            self.sockets = list(taken)
            for _ in range(len(taken), workers):
                self._unbound.append(prepare_listener(frontend, shared=True))
                self.sockets.append(self._unbound[-1])
            return
        self.sockets = [open_listener(frontend, self._admission, shared=workers > 1)]
        try:
            for _ in range(1, workers):
                self.sockets.append(open_listener(frontend, self._admission, shared=True))
            self._steer(rule)
        except BaseException:
            self.close()
            raise

    @property
    def idents(self) -> range:
        """The numbers of its sockets."""
        return range(self.ident, self.ident + len(self.sockets))

    def of(self, worker: int) -> Sequence[tuple[int, socket.socket]]:
        """The sockets of one worker, with their numbers."""
        return list(zip(self.idents, self.sockets, strict=True))[worker :: self._workers]

    def settle(self) -> None:
        """Sockets that were taken over are ours alone from now on. OSError: nobody comes in."""
        if self._is_settled:
            return
        self._is_settled = True
        try:
            for sock in self.sockets if self._unbound else ():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for sock in self._unbound:
                bind_listener(sock, self._frontend, self._admission)
            self._unbound = []
            spread(self.sockets)
            self._admit(self._admission)
            self._steer(self._rule)
        except OSError:
            self._admit(NOBODY)
            raise

    @property
    def is_filtered(self) -> bool:
        """Whether not everybody is let in."""
        return bool(self._admission)

    def obey(self, rule: Rule, pods: Iterable[str]) -> None:
        """Another rule. OSError: nobody comes in, rather than those whom the last one let in."""
        wanted = admission(rule, pods)
        self._rule = rule
        if not self._is_settled:
            self._admission = wanted
            return
        try:
            if wanted != self._admission:
                self._admit(wanted)
            self._steer(rule)
        except OSError:
            self._admit(NOBODY)
            raise

    @property
    def waiting(self) -> int:
        """How many clients no worker has accepted yet."""
        return sum(map(waiting, self.sockets))

    def close(self) -> None:
        """Refuse from now on."""
        for sock in self.sockets:
            close_listener(sock)

    def _admit(self, wanted: Admission) -> None:
        for sock in self.sockets:
            admit(sock, wanted, self._family)
        self._admission = wanted

    def _steer(self, rule: Rule) -> None:
        wanted = rule.service.choice is Choice.AFFINITY and len(self.sockets) > 1
        if wanted and not self._is_steered:
            steer(self.sockets, self._family)
        elif self._is_steered and not wanted:
            spread(self.sockets)
        self._is_steered = wanted
