"""A data path that takes another's place: its own rules first, then the other's go, so that no connect fails.

Owns: the order. Must not know any path by name.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from svcnet.cli.drain import Drain
from svcnet.iptables.desired import Desired, Treatment
from svcnet.model.errors import SvcnetError
from svcnet.model.frontend import Frontend
from svcnet.plan import Plan

log = logging.getLogger(__name__)


class Successor(Protocol):
    """What a data path can do."""

    name: str

    def look(self, desired: Desired) -> Desired:
        """What is in force, changing nothing."""
        ...

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Read everything back and make it equal."""
        ...

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        ...

    def changed_by_others(self) -> bool:
        """Whether it is time to `sync`."""
        ...


class Predecessor(NamedTuple):
    """What another mode may have left: its rules, in words, and how to take them away (False: there were none)."""

    what: str
    remove: Callable[[], bool]
    silence: Callable[[], bool] | None = None
    """Take no new connection, where those that are open need its rules; False: there were none. None: they don't."""
    is_used: Callable[[], bool] = lambda: False
    """Whether connections are open that need them."""


class Steps(NamedTuple):
    """What is done once, around the first sync. One that fails is tried again with the next sync."""

    before: Sequence[Callable[[], object]] = ()
    after: Sequence[Callable[[], object]] = ()
    last: Sequence[Callable[[], object]] = ()
    """When nobody new is led to what was in force before."""


NO_STEPS = Steps()


class Succession:
    """`path`, and the end of all others after its first sync."""

    def __init__(self, path: Successor, predecessors: Sequence[Predecessor], steps: Steps = NO_STEPS) -> None:
        self.name = path.name
        self._path = path
        self._left = list(predecessors)
        self._before, self._after, self._last = map(list, steps)

    def look(self, desired: Desired) -> Desired:
        """What is in force of `path`; changes nothing."""
        return self._path.look(desired)

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Make the kernel equal to `desired`; then it has no rules of other paths."""
        _carry_out(self._before)
        plan = self._path.sync(desired)
        _carry_out(self._after)
        self._left = [other for other in self._left if not self._end(other)]
        _carry_out(self._last)
        return plan

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        return self._path.apply(plan)

    def changed_by_others(self) -> bool:
        """Whether it is time to `sync`."""
        return self._path.changed_by_others()

    def _end(self, other: Predecessor) -> bool:
        """Whether it is gone. What can't be removed now is tried again with the next sync, and disturbs no packet."""
        try:
            if other.silence is not None:
                if other.silence():
                    log.info(
                        "silenced what=%s: it goes with its last connection as=%s is in force", other.what, self.name
                    )
                    Drain(other.what, other.is_used, other.remove).start()
                return True
            removed = other.remove()
        except SvcnetError as error:
            log.warning("left what=%s why=%s", other.what, error)
            return False
        if removed:
            log.info("removed what=%s as=%s is in force", other.what, self.name)
        return True


def _carry_out(steps: list[Callable[[], object]]) -> None:
    while steps:
        steps[0]()
        del steps[0]
