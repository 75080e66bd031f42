"""The far ends of the suite `proxy`, from Python's side: far.c compiled, its server started, its client asked.

Owns: those processes, and what they say. Must not know what is between them.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from svcnet.model.errors import SvcnetError

SOURCE = Path(__file__).resolve().with_name("far.c")
SERVER = "127.0.0.1"
ECHO, SHORT, OUT, IN, UDP = range(701, 706)
"""Ports of the server: messages come back, one answer and a close, bytes for ever, a sink, datagrams come back."""
END_SECONDS = 10.0


class Heard(NamedTuple):
    """What a client saw: units (bytes, connections, messages or datagrams), seconds, and how many failed."""

    units: int
    seconds: float
    p50: float
    p99: float
    highest: float
    failures: int

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds


class Far:
    """A compiled far.c, bound to one CPU."""

    def __init__(self, directory: Path, cpu: int) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise SvcnetError("a C compiler is needed for the far ends (Debian: gcc libc6-dev)")
        program = directory / "far"
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SvcnetError(f"far.c does not compile: {done.stderr.strip()}")
        self._argv = ["taskset", "--cpu-list", str(cpu), str(program)]

    def ask(self, kind: str, address: str, port: int, number: int, seconds: float) -> Heard:
        """Let `number` connections at a time do it. SvcnetError: it could not."""
        arguments = [kind, address, str(port), str(number), str(seconds)]
        done = subprocess.run([*self._argv, *arguments], capture_output=True, text=True, check=False)
        words = done.stdout.split()
        if done.returncode or len(words) != len(Heard._fields):
            raise SvcnetError(f"{kind} at {address}:{port}: {done.stderr.strip() or done.returncode}")
        units, took, p50, p99, highest, failures = words
        return Heard(int(units), float(took), float(p50), float(p99), float(highest), int(failures))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The server is up."""
        with self._until_ready(["serve", SERVER]):
            yield

    @contextmanager
    def holding(self, address: str, port: int, number: int) -> Iterator[None]:
        """So many connections are open, each after a byte there and back. SvcnetError."""
        with self._until_ready(["idle", address, str(port), str(number), "0"]):
            yield

    @contextmanager
    def _until_ready(self, arguments: Sequence[str]) -> Iterator[None]:
        process = subprocess.Popen(
            [*self._argv, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise SvcnetError(f"far {' '.join(arguments)}: it did not get ready")
            yield
        finally:
            process.stdin.close()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
