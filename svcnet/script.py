"""Runs the operator's own health checks: executables of one directory, which records name and nothing more. Shell.

Owns: the choice of the file, and its process. A record says which file of a directory that it doesn't choose: no path,
no argument, no variable. Address, port and service of the endpoint are what the script is told. Must not know what
becomes of an answer.
"""

import asyncio
import logging
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from svcnet.model.check import Probe
from svcnet.model.errors import UnmadeError
from svcnet.model.meta import Key

log = logging.getLogger(__name__)

MOST_AT_ONCE = 8
"""Scripts that run; others wait for their turn."""
MOST_SERVICES = 64
"""So many are named to a script, of those that share its answer."""
LINE_BYTES = 200
"""Of what a script says, in `/status` and logs."""
PACE_SECONDS = 0.005
"""A script that writes on and on is read once in this time, a pipe full: 13 MB/s."""
CLOSE_SECONDS = 0.5
"""At the end killed processes are waited for so long: one that hangs in the kernel may not keep the daemon."""
_READ_BYTES = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII).fullmatch
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Scripts:
    """Those of a directory; None: there are none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory and directory.absolute()  # scripts run in /
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._running: set[_Run] = set()
        self.unmade: dict[str, str] = {}
        """Those that can't be run, and why: each is logged once."""

    async def ask(self, probe: Probe, services: Iterable[Key]) -> str:
        """Run the one that a probe names; why its endpoint fails, or "". UnmadeError: it can't be run."""
        name = probe.check.script
        await self._room.acquire()
        try:
            run = _Run(self._command(probe), _environment(probe, services), self._gone)
        except UnmadeError as error:
            self._room.release()
            if self.unmade.get(name) != str(error):
                self.unmade[name] = str(error)
                log.warning("health checks can't be made, what they said last stands why=%s", error)
            raise
        self._running.add(run)
        self.unmade.pop(name, None)
        try:
            async with asyncio.timeout(probe.check.timeout_seconds):
                await run.exited
        except TimeoutError:
            return "no answer in time"
        finally:
            run.kill()
        return run.why

    def forget(self, name: str) -> None:
        """No check names it any more."""
        self.unmade.pop(name, None)

    def close(self) -> None:
        """End those that run."""
        for run in tuple(self._running):
            run.close()
        self._running.clear()

    def _gone(self, run: "_Run") -> None:
        """A process has ended: only then another one has its place, as one may hang in the kernel."""
        self._running.discard(run)
        self._room.release()

    def _command(self, probe: Probe) -> Sequence[str]:
        name = probe.check.script
        if self._directory is None:
            raise UnmadeError(f"script:{name}: none is run here, expected --health-scripts DIR")
        if _NAME(name) is None:  # the codec lets none through
            raise UnmadeError(f"script:{name!r}: expected the name of a file in {self._directory}")
        path = self._directory / name
        try:
            mode, around = path.stat().st_mode, self._directory.stat().st_mode
        except OSError as error:
            raise UnmadeError(f"script:{name}: {path}: {_text(error)}") from error
        if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
            raise UnmadeError(f"script:{name}: {path} is not executable, expected a file with mode 0755")
        for where, bits in ((path, mode), (self._directory, around)):  # be it sticky: anybody could put others there
            if bits & stat.S_IWOTH:
                raise UnmadeError(f"script:{name}: everybody may write to {where}, expected mode 0755")
        return str(path), probe.address, str(probe.port)


class _Run:
    """One process, of a group of its own. `on_gone` is called once, when it has ended; its group goes with it."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], on_gone: Callable[["_Run"], None]
    ) -> None:
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self.why = ""
        """Of one that has exited: why the endpoint fails."""
        self._said, self._read, self._is_gone = b"", 0, False
        nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=nothing, stdout=nothing, stderr=pipe, env=environment, cwd="/", start_new_session=True
            )
        except OSError as error:
            raise UnmadeError(f"script:{Path(command[0]).name}: it, or its interpreter: {_text(error)}") from error
        assert self._process.stderr is not None
        self._errors = self._process.stderr
        try:
            self._handle = os.pidfd_open(self._process.pid)
        except OSError as error:
            self.kill()
            self._process.wait()
            self._errors.close()
            raise UnmadeError(f"script:{Path(command[0]).name}: {_text(error)}") from error
        os.set_blocking(self._errors.fileno(), False)
        self._loop.add_reader(self._handle, self._on_exit)
        self._listen()

    def kill(self) -> None:
        """End it, with those that it has begun, if it has not ended."""
        if not self._is_gone:
            with suppress(OSError):  # a group of another user's processes alone
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """The same, for good: nobody waits any more."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        self._forget()

    def _on_exit(self) -> None:
        self.kill()  # whom it left behind; it is not waited for yet, so that the number of its group is nobody else's
        self._on_text()
        code = self._process.wait()
        self._forget()
        self.why = _why(code, self._said)
        if not self.exited.done():
            self.exited.set_result(None)
        self._on_gone(self)

    def _forget(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._loop.remove_reader(self._handle)
            self._loop.remove_reader(self._errors.fileno())
            os.close(self._handle)
            self._errors.close()

    def _listen(self) -> None:
        if not self._is_gone:
            self._loop.add_reader(self._errors.fileno(), self._on_text)

    def _on_text(self) -> None:
        try:
            data = os.read(self._errors.fileno(), _READ_BYTES)
        except OSError:
            return
        self._said += data[: LINE_BYTES - len(self._said)]
        self._read += len(data)
        if not data or self._read > _READ_BYTES:
            self._loop.remove_reader(self._errors.fileno())
        if data and self._read > _READ_BYTES:
            self._loop.call_later(PACE_SECONDS, self._listen)


def _environment(probe: Probe, services: Iterable[Key]) -> dict[str, str]:
    """All that a script finds there: nothing of the daemon's own, which may have passwords."""
    named = [f"{service.namespace}/{service.name}" for service in islice(services, MOST_SERVICES)]
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "ENDPOINT_ADDRESS": probe.address,
        "ENDPOINT_PORT": str(probe.port),
        "ENDPOINT_SERVICES": " ".join(named),
    }


def _why(code: int, said: bytes) -> str:
    """In a line, of an exit code (negative: a signal) and of what was said."""
    if not code:
        return ""
    text = said.decode(errors="replace").strip().partition("\n")[0].strip()
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line or (f"exit code {code}" if code > 0 else f"ended by signal {-code}")


def _text(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
