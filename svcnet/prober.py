"""Makes the health checks that are due. Shell (asyncio).

Owns: the connections of checks. What is due and what an answer means is svcnet/health.py's; what becomes of an endpoint
that fails is the tracker's, which hears of it as it hears of records.
"""

import asyncio
import errno
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import svcnet
from svcnet.health import Schedule
from svcnet.http_probe import PASSING, request, status_of
from svcnet.model.check import Probe
from svcnet.model.errors import SvcnetError, UnmadeError
from svcnet.model.event import Verdict
from svcnet.model.meta import Key
from svcnet.model.snapshot import Delta, LeftOut, ServedPort, Snapshot
from svcnet.script import Scripts

log = logging.getLogger(__name__)

SPEAK_SECONDS = 10.0
"""How often other minions hear that this one is alive; its words last three times as long."""
MOST_AT_ONCE = 100
"""Checks in flight; others wait."""
RECEIVED_BYTES = 16 << 10
"""At a time."""
INTRODUCTIONS = {"v1": b"PROXY UNKNOWN\r\n", "v2": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"}
"""PROXY headers of who speaks for himself: an unknown connection; LOCAL (HAProxy, proxy-protocol.txt, 2.1 and 2.2)."""
OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
"""Errors that say something of this minion, and nothing of who is asked: no descriptor, memory, or port was left."""


class Speaker(Protocol):
    """Who tells the other minions (svcnet.store.etcd_health.Speaker). Calls block."""

    def say(self, failing: Mapping[tuple[Key, str, int], str]) -> None:
        """Which of our own endpoints fail, and why."""
        ...

    def close(self) -> None:
        """Give the connection up."""
        ...


class Prober:
    """`svcnet.parts.Follower`; `run` makes the checks. `tell` hears what they change, `on_state` what /status says."""

    def __init__(
        self,
        ports_of: Callable[[Key], tuple[ServedPort, ...]],
        tell: Callable[[Iterable[Verdict]], None],
        on_state: Callable[[str], None],
        speaker: Speaker | None = None,
        scripts: Path | None = None,
    ) -> None:
        """`scripts`: the directory of those that checks may name."""
        self._ports_of, self._tell, self._on_state = ports_of, tell, on_state
        self._scripts = Scripts(scripts)
        self._schedule = Schedule()
        self._chance: Iterator[float] = iter(random.random, None)
        self._wake = asyncio.Event()
        self._speaker = speaker
        self._failing: dict[tuple[Key, str, int], str] = {}
        """What other minions are to know."""
        self._unsaid = asyncio.Event()
        self.passed = self.failed = 0
        """Checks that were made."""
        self._trouble = ""
        """Why the last one could not be."""
        self._bugs: set[type[Exception]] = set()
        """Exceptions that nobody expected, of each kind the first is logged."""

    @property
    def failing(self) -> int:
        """How many checks have taken an endpoint out."""
        return self._schedule.failing

    def left_out(self) -> tuple[LeftOut, ...]:
        """Services whose checks can't be made, as their script can't be run."""
        unmade = self._scripts.unmade
        if not unmade:
            return ()
        asked = list(self._schedule.of_scripts())
        for name in unmade.keys() - {name for _, name in asked}:
            self._scripts.forget(name)
        found = [(service, unmade[name]) for service, name in asked if name in unmade]
        return tuple(
            LeftOut(f"svcnet.dev/health of {key.namespace}/{key.name}", f"{why}; its endpoints are not checked")
            for key, why in sorted(found)
        )

    def publish(self, _snapshot: Snapshot, delta: Delta) -> None:
        """Take a change in. O(changed)."""
        concerned = {
            Key("Service", port.key.namespace, port.key.service)
            for port in (*delta.added, *delta.removed, *(p for pair in delta.changed for p in pair))
            if port.probes
        }
        for service in concerned:
            probes = frozenset(probe for port in self._ports_of(service) for probe in port.probes)
            known = self._schedule.follow(service, probes, time.monotonic(), self._chance)
            if known:
                self._pass_on(known, {(probe.address, probe.port) for probe in probes if probe.own})
        if concerned:
            self._say()
            self._wake.set()

    async def run(self) -> None:
        """Check for ever."""
        room = asyncio.Semaphore(MOST_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._speaker is not None:
                    tasks.create_task(self._speak(self._speaker))
                while True:
                    await self._rest()
                    for probe in self._schedule.due(time.monotonic()):
                        if probe.check.script:  # which has to wait for others of its kind alone
                            tasks.create_task(self._check(probe))
                            continue
                        await room.acquire()
                        tasks.create_task(self._check(probe, room))
        finally:
            self._scripts.close()

    async def _speak(self, speaker: Speaker) -> None:
        """Tell the other minions, and that this one is alive."""
        told = ""
        try:
            while True:
                self._unsaid.clear()
                try:
                    await asyncio.to_thread(speaker.say, dict(self._failing))
                    told = ""
                except SvcnetError as error:  # tried again
                    if str(error) != told:
                        told = str(error)
                        log.warning("other minions do not hear of failing checks why=%s", told)
                with suppress(TimeoutError):
                    async with asyncio.timeout(SPEAK_SECONDS):  # wait_for (3.11) may lose a cancellation to the event
                        await self._unsaid.wait()
        finally:
            speaker.close()

    def _pass_on(self, verdicts: Sequence[Verdict], own: Container[tuple[str, int]]) -> None:
        self._tell(verdicts)
        for service, address, port, why in ((v.service, v.address, v.port, v.why) for v in verdicts):
            if why and (address, port) in own:
                self._failing[service, address, port] = why
            else:
                self._failing.pop((service, address, port), None)
        self._unsaid.set()

    async def _rest(self) -> None:
        """Until a check is due."""
        at = self._schedule.next_at()
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):  # as in _speak
                await self._wake.wait()

    async def _check(self, probe: Probe, room: asyncio.Semaphore | None = None) -> None:
        try:
            why = await self._ask(probe)
        except UnmadeError as error:
            if not probe.check.script and self._trouble != str(error):
                self._trouble = str(error)
                log.warning("health checks can't be made, what they said last stands why=%s", error)
            self._miss(probe)
            return
        except Exception as error:  # a bug, which shall not end the checks of all others
            if type(error) not in self._bugs:
                self._bugs.add(type(error))
                log.exception("health checks: endpoint=%s:%s can't be checked", probe.address, probe.port)
            self._miss(probe)
            return
        finally:
            if room is not None:
                room.release()
        self._trouble = ""
        if why:
            self.failed += 1
        else:
            self.passed += 1
        verdicts = self._schedule.told(probe, why, time.monotonic(), self._chance)
        self._wake.set()
        if verdicts:
            log.warning("health %s endpoint=%s:%s %s", "fails" if why else "passes", probe.address, probe.port, why)
            self._say()
            self._pass_on(verdicts, {(probe.address, probe.port)} if probe.own else set())

    def _miss(self, probe: Probe) -> None:
        self._schedule.missed(probe, time.monotonic(), self._chance)
        self._wake.set()

    async def _ask(self, probe: Probe) -> str:
        """Why an endpoint fails, or "". UnmadeError."""
        if probe.check.script:
            return await self._scripts.ask(probe, self._schedule.services(probe))
        try:
            async with asyncio.timeout(probe.check.timeout_seconds):
                return await _asked(probe)
        except TimeoutError:
            return "no answer in time"
        except OSError as error:
            return _reason(error)

    def _say(self) -> None:
        number, out = len(self._schedule), self._schedule.failing
        self._on_state(f"running: {number} checks, {out} failing" if number else "off: no service asks for checks")


def _reason(error: OSError) -> str:
    why = os.strerror(error.errno).lower() if error.errno else str(error)
    if error.errno in OURS:
        raise UnmadeError(why) from error
    return why


async def _asked(probe: Probe) -> str:
    """What an endpoint says to a check; "": it passes. OSError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in probe.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        await loop.sock_connect(sock, (probe.address, probe.port))
        said = INTRODUCTIONS.get(probe.check.introduction, b"")
        if probe.check.path:
            said += request(probe, f"svcnet/{svcnet.__version__}")
        if said:
            await loop.sock_sendall(sock, said)
        return await _answer(loop, sock) if probe.check.path else ""


async def _answer(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> str:
    heard, status = b"", None
    while status is None:
        more = await loop.sock_recv(sock, RECEIVED_BYTES)
        heard += more
        try:
            status = status_of(heard)
        except ValueError as error:
            return f"no HTTP answer: {error}"
        if not more and status is None:
            return "no HTTP answer: it ended too soon"
    return "" if status in PASSING else f"HTTP {status}"
