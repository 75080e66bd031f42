"""svcnet-proxy as a user runs it: a process, its log, its status port.

Owns: one run. Must not know what it is tested for.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.harness.until import PATIENCE_SECONDS, until

STATUS_PORT = 10256
ANSWER_SECONDS = 30.0

Result = TypeVar("Result")


class Inside(Protocol):
    """Runs something in the daemon's network namespace."""

    def __call__(self, act: Callable[[], Result], /) -> Result:
        """Return act()."""
        ...


class Daemon:
    """One process; `inside` runs a function in its network namespace."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, inside: Inside) -> None:
        self._process = process
        self._log = log
        self._inside = inside

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr and stdout so far."""
        return self._log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def until(self, look: Callable[[], Result]) -> Result:
        """Wait while it runs; an end of the process ends the waiting."""

        def why_not() -> str:
            assert self.runs, f"svcnet-proxy ended with {self._process.returncode}:\n{self.log}"
            return self.log

        return until(look, why_not)

    def get(self, path: str) -> tuple[int, str]:
        """(code, body) of the status server; (0, "") while it doesn't answer."""

        def ask() -> tuple[int, str]:
            connection = HTTPConnection("127.0.0.1", STATUS_PORT, timeout=ANSWER_SECONDS)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, HTTPException):
                return 0, ""
            finally:
                connection.close()

        return self._inside(ask)

    def status(self) -> dict[str, Any]:
        """`/status`, as soon as it answers."""
        body = self.until(lambda: self.get("/status")[1])
        report: dict[str, Any] = json.loads(body)
        return report

    def ready(self) -> "Daemon":
        """Wait until /readyz says 200."""
        self.until(lambda: self.get("/readyz")[0] == 200)
        return self

    def caught_up(self) -> "Daemon":
        """Wait until all that it has seen is applied."""
        self.ready()
        self.until(lambda: (s := self.status())["revision_applied"] == s["revision_seen"])
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.runs:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
