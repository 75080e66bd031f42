"""The daemon that another one takes over from (`--takeover`): its side of the conversation (takeover.py has the order).

Owns: what it promises meanwhile, and what becomes of it. Must not know how the other one gets ready.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from svcnet.agent import Agent
from svcnet.cli.control import answer
from svcnet.cli.takeover import DONE, GO, REST, VERSION, After, network_namespace
from svcnet.config import Config
from svcnet.wire import FDS_A_FRAME

log = logging.getLogger(__name__)

MARGIN_SECONDS = 1.0
"""The new one gives up by itself when it is not ready in time. One that does not, so much later, hangs."""
_UCRED = struct.Struct("iII")


class Predecessor:
    """`leave`: begin to end. `listeners`: what the other one gets. `fall_silent`: answer nobody new there."""

    def __init__(
        self,
        options: Config,
        agent: Agent,
        leave: Callable[[], None],
        listeners: Callable[[], Iterable[socket.socket]],
        fall_silent: Callable[[], Awaitable[None]],
    ) -> None:
        self._options, self._agent, self._leave = options, agent, leave
        self._listeners, self._fall_silent = listeners, fall_silent
        self._is_busy = False
        self._heir = 0
        """Pid of the daemon that has taken over."""
        self._reload: Callable[[], None] | None = None
        self._outcome = asyncio.get_running_loop().create_future()

    async def outcome(self) -> After:
        """After `leave`: LEAVE when the other one is the daemon, AGAIN when it came to nothing."""
        after: After = await self._outcome
        return after

    def postpone(self, reload: Callable[[], None]) -> bool:
        """Whether a reload has to wait as another daemon takes over; then whoever is the daemon after that does it."""
        if not self._is_busy:
            return False
        log.info("a reload waits for the end of a take-over")
        self._reload = reload
        self._pass_on()
        return True

    def _pass_on(self) -> None:
        if self._reload is not None and self._heir:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._heir, signal.SIGHUP)
            self._reload = None

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
            request = await _request(reader, request)
            if request.get("command") == REST:
                async with self._agent.at_rest():
                    await self._rest(request, reader, writer)
        except TimeoutError:
            log.warning("the daemon that wanted to take over hangs: going on")
            writer.write(answer({"message": "--takeover: not ready in time"}, ok=False))
        finally:
            if not self._outcome.done():
                self._is_busy = False
                reload, self._reload = self._reload, None
                if reload is not None:
                    reload()

    def _about(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "service_cidr": [str(cidr) for cidr in self._options.service_cidr],
            "network_namespace": network_namespace(),
        }

    async def _rest(self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        log.info("another daemon is about to take over")
        writer.write(answer({}, ok=True))
        request = await _request(reader, request)
        if request.get("command") != GO:
            log.warning("the daemon that wanted to take over is gone: going on")
            return
        await writer.drain()
        _give(writer, [one.fileno() for one in self._listeners()])
        self._leave()
        after = After.AGAIN
        try:
            after = await self._see(request, reader, writer)
        finally:
            self._outcome.set_result(after)

    async def _see(self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> After:
        """What becomes of one that has been told to go."""
        try:
            request = await _request(reader, request)
        except TimeoutError:
            pid = _peer(writer)
            log.warning("the daemon that took over hangs: ending it pid=%s", pid)
            if not pid:
                return After.LEAVE
            with contextlib.suppress(ProcessLookupError, ConnectionError):
                os.kill(pid, signal.SIGKILL)
                await reader.read()  # to its end
            request = {}
        if request.get("command") != DONE:
            log.warning("the daemon that took over is gone: starting again")
            return After.AGAIN
        self._heir = _peer(writer)
        self._pass_on()
        await self._fall_silent()
        writer.write(answer({}, ok=True))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return After.LEAVE


async def _request(reader: asyncio.StreamReader, before: dict[str, Any]) -> dict[str, Any]:
    """The next one; {} at the end. TimeoutError: it takes longer than the one `before` said that it may."""
    async with asyncio.timeout(float(before.get("seconds", 0)) + MARGIN_SECONDS):
        try:
            line = await reader.readline()
        except ConnectionError:
            return {}
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


def _give(writer: asyncio.StreamWriter, fds: list[int]) -> None:
    """Answer, with file descriptors; streams of asyncio have no way for them."""
    with writer.get_extra_info("socket").dup() as raw:
        for at in range(0, len(fds) or 1, FDS_A_FRAME):
            batch = fds[at : at + FDS_A_FRAME]
            line = answer({"more": at + len(batch) < len(fds)}, ok=True)
            try:
                socket.send_fds(raw, [line], batch) if batch else raw.send(line)
            except OSError as error:  # it is gone, which is seen soon, or the kernel has no room for them
                log.warning("listeners are not handed on why=%s", error)
                writer.write(answer({}, ok=True))
                return


def _peer(writer: asyncio.StreamWriter) -> int:
    """Its pid, from the kernel; 0: of a pid namespace that can't be seen from here."""
    pid: int = _UCRED.unpack(writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid
