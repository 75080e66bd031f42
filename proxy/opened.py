"""The sockets of one frontend in the daemon, one a worker: whom they let in, and which of them a client comes to.

Owns: both, over the life of the sockets. Must not know what becomes of a client.
"""

from collections.abc import Iterable

from svcnet.model.frontend import Frontend
from svcnet.proxy.admission import NOBODY, Admission, admission, admit
from svcnet.proxy.listening import close_listener, open_listener, waiting
from svcnet.proxy.row import Choice, Rule
from svcnet.proxy.steering import spread, steer


class Opened:
    """`ident` is the frontend's number between daemon and workers. OSError if it can't be opened."""

    def __init__(self, ident: int, frontend: Frontend, workers: int, rule: Rule, pods: Iterable[str]) -> None:
        self.ident = ident
        self._family = frontend.family
        self._admission: Admission = admission(rule, pods)
        self._is_steered = False
        self.sockets = [open_listener(frontend, self._admission, shared=workers > 1)]
        try:
            for _ in range(1, workers):
                self.sockets.append(open_listener(frontend, self._admission, shared=True))
            self._steer(rule)
        except BaseException:
            self.close()
            raise

    @property
    def is_filtered(self) -> bool:
        """Whether not everybody is let in."""
        return bool(self._admission)

    def obey(self, rule: Rule, pods: Iterable[str]) -> None:
        """Another rule. OSError: nobody comes in, rather than those whom the last one let in."""
        wanted = admission(rule, pods)
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
