"""One daemon takes another's place while both run (`--takeover`): the order of it, from both sides.

Owns: the conversation over the control socket. Must not know what a listener is: sockets come from the workers
themselves (proxy/left.py, name_left.py), which outlive their daemon.

    new: takeover  →  old: who it is                            nothing has changed
    new: rest      →  old: it changes nothing in the kernel any more, until the connection ends
                      new: first sync; its workers are told everything, and accept nobody
    new: go        →  old: lets its workers be, and ends        from here on the new one is the daemon
                      new: takes the claims; its workers accept, then those of the old one drain

Whenever the new one ends before `go`, its connection does too, and its workers: the old one goes on.
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

import msgspec

from svcnet.agent import Agent
from svcnet.cli.control import Line, NoDaemonError, answer
from svcnet.cli.data_path import Chosen, Handing
from svcnet.cli.name_left import NameLeft
from svcnet.cli.vet import vet
from svcnet.config import Config
from svcnet.instance import DataPathClaim, StateClaim
from svcnet.model.errors import ConfigError, SvcnetError
from svcnet.proxy.left import Left

log = logging.getLogger(__name__)

COMMAND, REST, GO = "takeover", "rest", "go"
VERSION = 1
"""Of the conversation, and of what workers say to heirs."""
READY_SECONDS = 60.0
"""A daemon that is not ready by then lets the old one be."""
REST_SECONDS = 60.0
"""So long the old one keeps still."""
END_SECONDS = 30.0
"""So long it may take to end."""
LOOK_SECONDS = 0.01

Claims = list[StateClaim | DataPathClaim]


class Takeover:
    """The new daemon's side. Its methods may be called in a thread."""

    def __init__(self, line: Line, pid: int, options: Config, left: Left) -> None:
        self.pid = pid
        self.claims: Claims = []
        self.is_done = self._has_gone = False
        self._line, self._options, self._left = line, options, left

    @classmethod
    def begin(cls, options: Config, left: Left) -> "Takeover | None":
        """Greet the daemon that runs; None when none does. Nothing has changed by that.

        SvcnetError: it can't be taken over from, and why. ConfigError: not with these options.
        """
        try:
            line = Line(options.state_dir)
        except NoDaemonError:
            return None
        old = line.ask(COMMAND, version=VERSION)
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
        return cls(line, pid, options, left)

    def rest(self) -> None:
        """Have the old one change nothing any more."""
        self._line.ask(REST)

    def go(self) -> None:
        """Have the old one end, and take its claims. SvcnetError."""
        if not self._has_gone:
            self._line.ask(GO)
            self._has_gone = True
            log.info("taking over from pid=%s", self.pid)
        deadline = time.monotonic() + END_SECONDS
        wanted: list[Callable[[], StateClaim | DataPathClaim]] = [
            lambda: StateClaim(self._options.state_dir),
            DataPathClaim,
        ]
        for claim in wanted[len(self.claims) : 1 if self._options.mode == "none" else 2]:
            self.claims.append(_patiently(claim, deadline))
        self._left.is_lent = False
        self.is_done = True
        self._line.close()


def prepare(options: Config) -> tuple[Takeover | None, Chosen, Claims]:
    """Whom to take over from, by which data path, and our claims: those come with the take-over, if there is one."""
    left = Left()
    takeover = Takeover.begin(options, left) if options.takeover else None
    left.find(orphans=takeover is None)
    if takeover is not None:
        return takeover, vet(options, left, Handing(takeover.rest, takeover.go)), takeover.claims
    if options.takeover:
        log.info("--takeover: no svcnet-proxy runs with %s: an ordinary start", options.state_dir)
    chosen = vet(options, left)
    return None, chosen, _claim(options, chosen)


def _claim(options: Config, chosen: Chosen) -> Claims:
    """Given up when the process ends, not before."""
    claims: Claims = [StateClaim(options.state_dir)]
    return [*claims, DataPathClaim()] if chosen.path else claims


class Before(NamedTuple):
    """What was here before this program, and serves until it does."""

    names: NameLeft
    takeover: Takeover | None
    children: tuple[int, ...] = ()
    """Pids that are this process' children already."""


class After(Enum):
    """What comes after a run."""

    STOP = auto()
    AGAIN = auto()
    """Another start of the program."""
    LEAVE = auto()
    """Another daemon, which is there."""


class Predecessor:
    """The old daemon's side."""

    def __init__(self, options: Config, agent: Agent, leave: Callable[[], None]) -> None:
        self._options, self._agent, self._leave = options, agent, leave
        self._is_busy = False

    async def converse(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """With one that wants to take over, until it has or is gone."""
        if request.get("version") != VERSION or self._is_busy:
            why = "another does it already" if self._is_busy else f"this version takes {VERSION}"
            writer.write(answer({"message": f"--takeover: version {request.get('version')}: {why}"}, ok=False))
            return
        self._is_busy = True
        try:
            writer.write(answer(self._about(), ok=True))
            if await _command(reader) == REST:
                await self._rest(reader, writer)
        finally:
            self._is_busy = False

    def _about(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "service_cidr": [str(cidr) for cidr in self._options.service_cidr],
            "network_namespace": network_namespace(),
        }

    async def _rest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._agent.at_rest():
            log.info("another daemon is about to take over")
            writer.write(answer({}, ok=True))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REST_SECONDS):
                    if await _command(reader) == GO:
                        self._leave()
                        writer.write(answer({}, ok=True))
                        await writer.drain()
                        return
        log.warning("the daemon that wanted to take over is gone: going on")


async def _command(reader: asyncio.StreamReader) -> str:
    """The next one; "" at the end."""
    line = await reader.readline()
    try:
        return str(msgspec.json.decode(line, type=dict[str, Any]).get("command"))
    except msgspec.DecodeError:
        return ""


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
