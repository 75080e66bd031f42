"""How long a connect takes through the virtual IP of one of many services, to a connect without any rules.

Run by `bench/run.py --suite connect [--sizes N,N…] [--paths P,P…]`. Only connect(2) is timed: the first packet of a
connection is the one that rules are looked through for. The asked service is the last of them. Two things to compare
with: a minion without rules, whose kernel does not track connections, and the server's own address beside the rules.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from socket import socket
from statistics import median
from typing import NamedTuple

from svcnet.bench import client, load
from svcnet.bench.paths import DIRECT, PATHS, Cores, Ground
from svcnet.bench.report import Ratio, percentile

SIZES = (1, 1_000, 10_000)
MOST_SERVICES = 60_000
KERNEL_PATHS = ("nftables", "iptables-nft", "iptables-legacy")
SECONDS, ROUNDS = 0.5, 9


class Figures(NamedTuple):
    """Of one path in one round, in seconds; `own`: to the server's own address, from the same minion."""

    p50: float
    p99: float
    own_p50: float
    own_p99: float


Rounds = Mapping[str, Sequence[Figures]]


def handshakes(address: client.Address, seconds: float) -> list[float]:
    """Seconds of each connect, one after the other; each connection then says a byte, gets one, and closes."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or (len(times) < client.MOST and time.perf_counter() < deadline):
        with closing(socket()) as one:
            one.settimeout(None)  # with a time limit Python would make three calls of it
            begin = time.perf_counter()
            one.connect(address)
            times.append(time.perf_counter() - begin)
            one.send(b"\0")
            one.recv(1)
    return times


def measure(ground: Ground, turns: int, seconds: float) -> dict[str, list[Figures]]:
    """Every path in each round, beginning with another one each time."""
    results: dict[str, list[Figures]] = {name: [] for name in ground.names if name not in ground.left_out}
    for turn in range(turns):
        for name in load.rotated(list(results), turn):
            found: list[float] = []
            for address in (ground.address(name), ground.address(DIRECT)):
                ground.inside(name, partial(handshakes, address, seconds / 10))  # caches and neighbours are warm then
                times = ground.inside(name, partial(handshakes, address, seconds))
                found += [percentile(times, 0.5), percentile(times, 0.99)]
            results[name].append(Figures(*found))
    return results


def ratio(mine: Sequence[float], its: Sequence[float]) -> Ratio:
    """Of each round to the same round of another path."""
    each = [a / b for a, b in zip(mine, its, strict=True)]
    return Ratio(median(each), min(each), max(each))


def lines(services: int, results: Rounds) -> list[str]:
    """A row a path: microseconds, and ratios of the same round: to direct, and to the server's own address."""
    base = results[DIRECT]
    found = []
    for name, rounds in results.items():
        columns = [f"{services:8}  {name:16}"]
        for k in range(2):
            mine, own, its = ([r[at] for r in some] for some, at in ((rounds, k), (rounds, k + 2), (base, k)))
            compared = ("1", "1") if name == DIRECT else (str(ratio(mine, its)), str(ratio(mine, own)))
            columns.append(f"{1e6 * median(mine):7.1f}  {compared[0]:17}  {compared[1]:17}")
        found.append("  ".join(columns).rstrip())
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="bench/run.py --suite connect")
    made.add_argument("--sizes", type=_sizes, default=list(SIZES), help=f"services ({','.join(map(str, SIZES))})")
    made.add_argument("--paths", type=_names, default=list(KERNEL_PATHS), help=f"({','.join(KERNEL_PATHS)})")
    made.add_argument("--rounds", type=load.count, default=ROUNDS, help=f"({ROUNDS})")
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"of each path in each round ({SECONDS})")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the exit code."""
    options = parser().parse_args(arguments)
    return load.outcome(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    cores = Cores(paths=allowed[0], load=allowed[-1])
    print(
        f"connect, medians of {options.rounds} interleaved rounds; ratio to direct in the same round (lowest-highest)"
    )
    columns = "     µs  to direct          to own address   "
    print(f"services  path              p50{columns[3:]}   p99{columns[3:]}".rstrip(), flush=True)
    os.sched_setaffinity(0, {cores.load})
    try:
        for services in options.sizes:
            with Ground([DIRECT, *options.paths], cores, services) as ground:
                results = measure(ground, options.rounds, options.seconds)
            print("\n".join(lines(services, results)), flush=True)
            for name, why in ground.left_out.items():
                print(f"left out: {name} with {services} services: {why}", flush=True)
    finally:
        os.sched_setaffinity(0, allowed)


def _sizes(text: str) -> list[int]:
    sizes = [int(n) for n in text.split(",")]
    if not all(0 < n <= MOST_SERVICES for n in sizes):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 1 to {MOST_SERVICES}")
    return sizes


def _names(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := [name for name in asked if name not in PATHS or name == DIRECT]:
        expected = ", ".join(name for name in PATHS if name != DIRECT)
        raise argparse.ArgumentTypeError(f"{unknown[0]}: expected some of {expected}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
