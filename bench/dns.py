"""DNS beside dnsmasq, Knot and NSD: queries a second on one CPU, CPU time a query, latency at a fixed rate, memory.

Run by `bench/run.py --suite dns [--services N] [--rounds R] [--seconds S] [--rate Q] [--names KIND] [--edns]`, in an
empty network namespace. Servers are on the first CPU, dnsperf on the last; a round measures one after the other. Ours
is measured at rest, while services change, and while all are loaded anew: who tells them is on dnsperf's CPU, so
dnsmasq is measured beside the same telling too, and each row is compared to dnsmasq's of its kind.
"""

import argparse
import contextlib
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from svcnet.bench import load
from svcnet.bench.name_servers import (
    ECHO,
    HOST,
    ZONES,
    Server,
    address,
    entry,
    found,
    ours,
    running,
    until_answer,
    whole,
)
from svcnet.bench.report import percentile
from svcnet.feed import Change, encode
from svcnet.model.errors import SvcnetError

BASE, OWN = "dnsmasq", "svcnet"
QUERIES = 50_000
MISSES = 10
"""One query of so many is for a name that is not there."""
CLIENTS, OUTSTANDING = 10, 100
CHANGES_A_SECOND = 200
SINGLE_CHANGES = 3000
ALONE_CHANGES = 600
SINK_BYTES = 1 << 15
"""A socket has room for it."""
CHANGES, LOAD = "changes", "load"
RECORDS = 100_000
RECORDS_A_SERVICE = 3
LOAD_AFTER_SECONDS = 0.2
SEED = 1


Tell = Callable[[Iterable[bytes]], None]


class Measured(NamedTuple):
    """One server in one round. Queries a second; the others in seconds; `lost`: share without an answer."""

    rate: float
    cpu: float
    p50: float
    p99: float
    p999: float
    lost: float


class Row(NamedTuple):
    """A server, and what is told meanwhile: to it, or, beside another's, to nobody."""

    name: str
    server: Server
    meanwhile: str = ""


class Sink:
    """Where frames go that nobody takes in: a socket whose other end is read at once."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()

    def tell(self, frames: Iterable[bytes]) -> None:
        """Write and read them, as much as a server is sent."""
        for frame in frames:
            for at in range(0, len(frame), SINK_BYTES):
                self._here.sendall(frame[at : at + SINK_BYTES])
                self._there.recv(SINK_BYTES)

    def close(self) -> None:
        """Both ends."""
        self._here.close()
        self._there.close()


class Upset:
    """What happens to ours while it is asked: services that change one by one, or all in one load.

    Whoever tells shares dnsperf's CPU, where it delays answers on their way. So others are measured beside the same
    telling, into a sink; and all is encoded before.
    """

    def __init__(self, services: int, sink: Sink) -> None:
        self._services = services
        self._sink = sink
        self._wholes = [whole(services, moved, 1) for moved in (True, False)]
        self._random = random.Random(SEED)
        self._moved = False
        self._rev = 1

    @contextlib.contextmanager
    def happening(self, row: Row, seconds: float) -> Iterator[None]:
        """While the body runs, which takes so long."""
        if not row.meanwhile:
            yield
            return
        tell = self._sink.tell if row.server.feed is None else row.server.tell
        over = threading.Event()
        if row.meanwhile == LOAD:
            act = partial(self._load, tell, self._wholes[self._moved], over)
            self._moved ^= row.server.feed is not None
        else:
            act = partial(paced, tell, list(self.changes(int(seconds * CHANGES_A_SECOND))), over)
        thread = threading.Thread(target=act)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            if row.server.feed is not None:
                self.settle(row.server)

    def changes(self, number: int) -> Iterator[bytes]:
        """Yield frames of one changed service each; never the last one, which tells when all are taken in."""
        for _ in range(number):
            yield self._frame(self._random.randint(1, max(self._services - 1, 1)), self._random.random() < 0.5)

    def settle(self, server: Server) -> None:
        """Wait until ours has taken in what it was told."""
        last = self._services
        for moved in (not self._moved, self._moved):
            server.tell((self._frame(last, moved),))
            until_answer(server, last, address(last, moved))

    def _frame(self, i: int, moved: bool) -> bytes:
        self._rev += 1
        return encode(Change(self._rev, (entry(i, moved),)))

    def _load(self, tell: Tell, frames: Iterable[bytes], over: threading.Event) -> None:
        over.wait(LOAD_AFTER_SECONDS)
        tell(frames)


def paced(tell: Tell, frames: Iterable[bytes], over: threading.Event) -> None:
    """Send frames, CHANGES_A_SECOND."""
    due = time.monotonic()
    for frame in frames:
        if over.wait(max(due - time.monotonic(), 0)):
            return
        tell((frame,))
        due += 1 / CHANGES_A_SECOND


def questions(services: int, zone: str) -> str:
    """What dnsperf asks: addresses of services at random, and names that are not there."""
    draw = random.Random(SEED)
    lines = []
    for n in range(QUERIES):
        i = draw.randint(1, services)
        lines.append(f"{'no' if n % MISSES == 0 else 's'}{i}.default.{zone} A\n")
    return "".join(lines)


class Asker:
    """dnsperf with these questions."""

    def __init__(self, file: Path, cpu: int, edns: bool) -> None:
        program = found("dnsperf")
        if program is None:
            raise SvcnetError("dnsperf is not installed (Debian: dnsperf)")
        fixed = ["-d", str(file), "-s", HOST, "-c", str(CLIENTS), "-T", "1", "-q", str(OUTSTANDING), "-t", "1"]
        self._argv = ["taskset", "--cpu-list", str(cpu), program, *fixed, *(["-e"] if edns else [])]

    def run(self, port: int, *options: str) -> str:
        """What it prints. SvcnetError: it failed."""
        # A file: through a pipe each line of `-v` would have us run on its CPU, hundreds of times a second.
        with tempfile.TemporaryFile("w+") as out:
            command = [*self._argv, "-p", str(port), *options]
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SvcnetError(f"dnsperf: {done.stderr.strip()}")
            out.seek(0)
            return out.read()


def measure(asker: Asker, row: Row, upset: Upset, seconds: float, rate: int) -> Measured:
    """Ask as fast as it answers, then at a rate."""
    server = row.server
    asker.run(server.port, "-n", "1")  # what a load before it made old is asked for once
    with upset.happening(row, seconds):
        before = server.cpu_seconds()
        told = asker.run(server.port, "-l", str(seconds))
        cpu = server.cpu_seconds() - before
    with upset.happening(row, seconds):
        slowly = asker.run(server.port, "-l", str(seconds), "-Q", str(rate), "-v")
    done = number(r"Queries completed: +(\d+)", told)
    lost = number(r"Queries lost: +(\d+)", told) + number(r"Queries lost: +(\d+)", slowly)
    sent = number(r"Queries sent: +(\d+)", told) + number(r"Queries sent: +(\d+)", slowly)
    waits = sorted(map(float, re.findall(r"^> \w+ .* ([\d.]+)$", slowly, re.MULTILINE)))
    p50, p99, p999 = (percentile(waits, share) for share in (0.5, 0.99, 0.999))
    return Measured(
        number(r"Queries per second: +([\d.]+)", told),
        cpu / max(done, 1),
        p50,
        p99,
        p999,
        lost / max(sent, 1),
    )


def number(pattern: str, text: str) -> float:
    """The number that dnsperf has behind some words. SvcnetError: it has none."""
    match = re.search(pattern, text)
    if match is None:
        raise SvcnetError(f"dnsperf did not say {pattern}")
    return float(match[1])


def single_change(server: Server, upset: Upset, services: int) -> tuple[float, float]:
    """CPU seconds of one changed service in a frame of its own, with nothing else to do.

    Of those that come CHANGES_A_SECOND, each for itself; of as many at once as the socket has room for.
    """
    costs = []
    for number in (ALONE_CHANGES, SINGLE_CHANGES):
        frames = list(upset.changes(number))
        before = server.cpu_seconds()
        if number == ALONE_CHANGES:
            paced(server.tell, frames, threading.Event())
        else:
            server.tell(frames)
        upset.settle(server)
        costs.append((server.cpu_seconds() - before) / number)
    server.tell(whole(services, rev=1))
    until_answer(server, services, address(services))
    return costs[0], costs[1]


def table(results: dict[str, list[Measured]], memory: dict[str, float]) -> Iterator[str]:
    """Lines: medians, and in each round the ratio to dnsmasq."""
    yield (
        f"{'server':16}{'queries/s':>10}{'ratio':>20}{'CPU µs/q':>10}{'ratio':>20}"
        + "".join(f"{title:>9}" for title in ("p50 µs", "p99 µs", "p99.9 µs"))
        + f"{'p99 ratio':>20}{'lost %':>8}{'MiB':>7}"
    )
    for name, rounds in results.items():
        base = results.get(name.replace(OWN, BASE) if OWN in name else BASE)
        cells = [f"{name:16}{_median(rounds, 'rate'):>10.0f}{_ratio(rounds, base, 'rate'):>20}"]
        cells.append(f"{_median(rounds, 'cpu') * 1e6:>10.2f}{_ratio(rounds, base, 'cpu'):>20}")
        cells += [f"{_median(rounds, field) * 1e6:>9.0f}" for field in ("p50", "p99", "p999")]
        lost = statistics.mean(one.lost for one in rounds) * 100
        yield "".join(cells) + f"{_ratio(rounds, base, 'p99'):>20}{lost:>8.2f}{memory[name]:>7.0f}"


def _median(rounds: Sequence[Measured], field: str) -> float:
    return statistics.median(float(getattr(one, field)) for one in rounds)


def _ratio(rounds: Sequence[Measured], base: Sequence[Measured] | None, field: str) -> str:
    """Median of the ratios, lowest and highest."""
    if base is None:
        return "-"
    each = [getattr(a, field) / getattr(b, field) for a, b in zip(rounds, base, strict=False)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def run(options: argparse.Namespace) -> None:
    """Measure and print. SvcnetError."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[-1]})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-dns-")))
        file = directory / "questions"
        zone = ZONES[options.names]
        file.write_text(questions(options.services, zone))
        asker = Asker(file, allowed[-1], options.edns)
        sink = stack.enter_context(contextlib.closing(Sink()))
        upset = Upset(options.services, sink)
        with running(directory, options.services, allowed[0], zone) as (servers, left_out):
            rows = [Row(server.name, server) for server in servers]
            change = single_change(servers[-1], upset, options.services)
            both = [server for server in servers if server.name == BASE or server.feed is not None]
            rows += [Row(f"{server.name}, {what}", server, what) for what in (CHANGES, LOAD) for server in both]
            results = _rounds(asker, rows, upset, options)
            memory = {row.name: row.server.memory_mib() for row in rows}
        services = RECORDS // RECORDS_A_SERVICE + 1
        with ours(whole(services), allowed[0], services) as big:
            loaded = big.memory_mib()
            file.write_text("".join(f"s{i}.default.{zone} A\n" for i in range(1, services + 1)))
            asker.run(big.port, "-n", "1")
            asked = big.memory_mib()
    _print(results, memory, left_out, options)
    print(
        f"one changed service of {options.services}: {change[0] * 1e6:.0f} µs of worker time, {CHANGES_A_SECOND} a "
        f"second; {change[1] * 1e6:.0f} µs of {SINGLE_CHANGES} at once"
    )
    print(f"{services} services: {loaded:.0f} MiB in a worker, {asked:.0f} MiB when each was asked for")


def _rounds(asker: Asker, rows: Sequence[Row], upset: Upset, options: argparse.Namespace) -> dict[str, list[Measured]]:
    by_name = {row.name: row for row in rows}
    results: dict[str, list[Measured]] = {name: [] for name in by_name}
    for turn in range(options.rounds):
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
        for name in load.rotated(list(by_name), turn):
            results[name].append(measure(asker, by_name[name], upset, options.seconds, options.rate))
    return results


def _print(
    results: dict[str, list[Measured]], memory: dict[str, float], left_out: dict[str, str], options: argparse.Namespace
) -> None:
    kind = "with" if options.edns else "without"
    print(
        f"{options.services} services below {ZONES[options.names]}, A {kind} EDNS, {100 - 100 // MISSES} % hits; "
        f"latency at {options.rate}/s; "
        f"medians of {options.rounds} interleaved rounds; ratio to {BASE} in the same round (lowest-highest)"
    )
    print(f"changes: {CHANGES_A_SECOND} services a second; load: all services with new addresses, once a figure")
    print(f"{ECHO}: datagrams taken and sent as ours are, and not looked at")
    print(
        f"{BASE}, changes and load: the same is told to a sink on dnsperf's CPU; compared to {BASE} at rest, ours to "
        f"{BASE}'s of the same kind"
    )
    print("\n".join(table(results, memory)))
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="bench/run.py --suite dns", allow_abbrev=False)
    parser.add_argument("--services", type=load.count, default=10_000)
    parser.add_argument("--rounds", type=load.count, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rate", type=load.count, default=15_000)
    parser.add_argument("--names", choices=ZONES, default="specification")
    parser.add_argument("--edns", action="store_true")
    options = parser.parse_args()
    return load.outcome(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
