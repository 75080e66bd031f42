"""One daemon takes another's place while both run (`--takeover`): the order of it, from the new one's side.

Owns: the conversation over the control socket; predecessor.py has the other end. Must not know what a listener is for:
those of services come from the workers themselves (proxy/left.py, name_left.py), which outlive their daemon.

    new: takeover  →  old: who it is                            nothing has changed
    new: rest      →  old: it changes nothing in the kernel any more, until the connection ends
                      new: first sync; its workers are told everything, and accept nobody
    new: go        →  old: its HTTP listeners; it writes nothing any more, gives its claims up and lets its workers be
                      new: takes the claims; its workers accept, then those of the old one drain
    new: done      →  old: answers no more HTTP, and ends       from here on the new one is the daemon

Whenever the new one ends before `go`, its connection does too, and its workers: the old one goes on. If it ends before
`done`, the old one starts again, as after a crash. If the old one ends, the new one is the daemon at once.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

from svcnet.cli.control import EndedError, Line, NoDaemonError
from svcnet.cli.data_path import Chosen, Handing
from svcnet.cli.inherited import inherited as own_children
from svcnet.cli.name_left import NameLeft
from svcnet.cli.name_service import owner
from svcnet.cli.vet import vet
from svcnet.config import Config
from svcnet.instance import DataPathClaim, StateClaim
from svcnet.model.errors import ConfigError, SvcnetError
from svcnet.proxy.left import Left
from svcnet.status.inherited import Inherited

log = logging.getLogger(__name__)

COMMAND, REST, GO, DONE = "takeover", "rest", "go", "done"
VERSION = 1
"""Of the conversation, and of what workers say to heirs."""
END_SECONDS = 30.0
"""So long the old one may take to give up its claims."""
DEAD_SECONDS = 5.0
"""The same once it has hung up: it is dead, or has another opinion."""
LOOK_SECONDS = 0.01
WAKE_SECONDS = 0.5

Claims = list[StateClaim | DataPathClaim]


class Takeover:
    """The new daemon's side. `rest`, `go` and `finish` may be called in a thread."""

    def __init__(
        self, line: Line, pid: int, options: Config, left: Left, inherited: Inherited, deadline: float
    ) -> None:
        self.pid = pid
        self._deadline = deadline
        self.claims: Claims = []
        self.is_done = self._has_gone = self._is_alone = False
        self._failure = ""
        self._line, self._options, self._left, self._inherited = line, options, left, inherited

    @classmethod
    def begin(cls, options: Config, left: Left, inherited: Inherited) -> "Takeover | None":
        """Greet the daemon that runs; None when none does. Nothing has changed by that.

        SvcnetError: it can't be taken over from, and why. ConfigError: not with these options.
        """
        deadline = time.monotonic() + options.takeover_seconds
        try:
            line = Line(options.state_dir, options.takeover_seconds)
        except NoDaemonError:
            return None
        old = line.ask(COMMAND, version=VERSION, seconds=options.takeover_seconds)
        pid = int(old["pid"])
        mine = [str(cidr) for cidr in options.service_cidr]
        if old["service_cidr"] != mine:
            raise ConfigError(
                f"--service-cidr {','.join(mine)}: pid {pid}, which --takeover would follow, has "
                f"{','.join(old['service_cidr'])}, expected the same"
            )
        if old["network_namespace"] != network_namespace():
            raise SvcnetError(f"--takeover: pid {pid} runs in another network namespace")
        left.is_lent = True
        return cls(line, pid, options, left, inherited, deadline)

    @property
    def seconds(self) -> float:
        """How much time is left."""
        return max(0.0, self._deadline - time.monotonic())

    def rest(self) -> None:
        """Have the old one change nothing any more."""
        self._ask(REST)

    def go(self) -> None:
        """Have the old one give up its claims, and take them. SvcnetError."""
        if not self._has_gone and not self.is_done:
            said = self._ask(GO)
            self._has_gone = True
            while said.get("more"):
                said = self._line.more()
            self._inherited.add(self._line.given)
            self._line.given = []
            log.info("taking over from pid=%s", self.pid)
        if not self.is_done:
            self._take(END_SECONDS)

    async def wait(self, ready: asyncio.Event, why: Callable[[], str]) -> None:
        """Return when `ready` is set. SvcnetError: it won't be, or it takes too long; `why` has what is known of it."""
        while not ready.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAKE_SECONDS):
                    await ready.wait()
                return
            late = not self.seconds and not self._is_alone
            if late or self._failure:
                self._line.hang_up()
                what = f"not ready within {self._options.takeover_seconds} s: {why()}" if late else self._failure
                raise SvcnetError(f"--takeover: {what}; pid {self.pid} goes on")

    def finish(self) -> None:
        """Have the old one answer no more, and end."""
        with contextlib.suppress(SvcnetError):  # it has ended
            self._line.ask(DONE)
        self._line.close()

    def _ask(self, command: str) -> dict[str, Any]:
        """Say something. When the old one is dead its place is taken here and now."""
        if self.is_done:
            return {}
        try:
            return self._line.ask(command, seconds=self.seconds)
        except EndedError as error:
            self._succeed(error)
            return {}
        except SvcnetError as error:
            self._failure = str(error)
            raise

    def _succeed(self, error: EndedError) -> None:
        try:
            self._take(DEAD_SECONDS)
        except SvcnetError:
            self._failure = str(error)
            raise error from None
        self._is_alone = True
        log.warning("pid=%s, which was to be followed, is dead: taking its place", self.pid)

    def _take(self, seconds: float) -> None:
        """Take the claims."""
        deadline = time.monotonic() + seconds
        wanted: list[Callable[[], StateClaim | DataPathClaim]] = [
            lambda: StateClaim(self._options.state_dir),
            DataPathClaim,
        ]
        for claim in wanted[len(self.claims) : 1 if self._options.mode == "none" else 2]:
            self.claims.append(_patiently(claim, deadline))
        self._left.is_lent = False
        self.is_done = True


def prepare(options: Config) -> tuple[Chosen, "Before"]:
    """By which data path, and what was here before; our claims come with the take-over, if there is one."""
    children, left, inherited = own_children(), Left(), Inherited.from_environment(os.environ)
    takeover = Takeover.begin(options, left, inherited) if options.takeover else None
    left.find(orphans=takeover is None)
    if takeover is not None:
        chosen, claims = vet(options, left, Handing(takeover.rest, takeover.go)), takeover.claims
    else:
        if options.takeover:
            log.info("--takeover: no svcnet-proxy runs with %s: an ordinary start", options.state_dir)
        chosen = vet(options, left)
        claims = _claim(options, chosen)
    names = NameLeft().find(owner(options.state_dir), options.dns_listen)
    return chosen, Before(names, takeover, inherited, claims, children)


def _claim(options: Config, chosen: Chosen) -> Claims:
    """Given up when the process ends, not before."""
    claims: Claims = [StateClaim(options.state_dir)]
    return [*claims, DataPathClaim()] if chosen.path else claims


class Before(NamedTuple):
    """What was here before this program, and serves until it does."""

    names: NameLeft
    takeover: Takeover | None
    inherited: Inherited
    claims: Claims
    """To be there, or to come with the take-over; given up when the process ends, or another takes over."""
    children: tuple[int, ...] = ()
    """Pids that are this process' children already."""


class After(Enum):
    """What comes after a run."""

    STOP = auto()
    AGAIN = auto()
    """Another start of the program."""
    LEAVE = auto()
    """Another daemon, which is there."""


def _patiently(claim: Callable[[], Any], deadline: float) -> Any:
    """Claim as soon as who has it is gone."""
    while True:
        try:
            return claim()
        except SvcnetError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)


def network_namespace() -> str:
    """Which one this process is in."""
    return str(Path("/proc/self/ns/net").readlink())
