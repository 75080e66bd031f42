"""A client in a process of its own that asks /healthz every 10 ms: how long the control process is deaf under a load.

`python -m svcnet.bench.health PORT` asks until its standard input ends, and prints what it saw as one line of JSON.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
EVERY_SECONDS = 0.01


class Heard(NamedTuple):
    """Answers in seconds, sorted; `refused` connections; when the first answer came, in seconds from the start."""

    answers: tuple[float, ...]
    refused: int
    first: float

    def __str__(self) -> str:
        """One phrase for the report."""
        if not self.answers:
            return f"no answer ({self.refused} refused)"
        p50, p99 = (self.answers[int(len(self.answers) * q)] * 1000 for q in (0.5, 0.99))
        worst, count = self.answers[-1] * 1000, len(self.answers)
        return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {worst:.1f} ms ({count} answers, {self.refused} refused)"


class Asking:
    """What `asking` yields: `heard` is there once it has ended."""

    heard = Heard((), 0, 0.0)


@contextlib.contextmanager
def asking(port: int) -> Iterator[Asking]:
    """Ask 127.0.0.1:port all the while."""
    found = Asking()
    command = [sys.executable, "-m", "svcnet.bench.health", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield found
    finally:
        out, _ = process.communicate(timeout=60)
    answers, refused, first = json.loads(out)
    found.heard = Heard(tuple(answers), refused, first)


def ask(port: int) -> bool:
    """Whether it answered 200. OSError: refused."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(REQUEST)
        data = b""
        while more := connection.recv(4096):
            data += more
    return data.startswith(b"HTTP/1.1 200")


def main() -> None:
    """Ask until the other side has heard enough."""
    port = int(sys.argv[1])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    answers: list[float] = []
    refused, first, start = 0, 0.0, time.perf_counter()
    while not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
        begin = time.perf_counter()
        try:
            well = ask(port)
        except OSError:
            refused += 1
            continue
        end = time.perf_counter()
        first = first or end - start
        answers.append(end - begin)
        if not well:
            raise SystemExit("bench: /healthz answered something else than 200")
    print(json.dumps([sorted(answers), refused, first]))


if __name__ == "__main__":
    main()
