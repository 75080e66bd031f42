"""The worker of the userspace path is killed under load: how long until a new connection is answered, and what fails.

Run by `bench/run.py --suite worker [--kills N]`. One client connects, sends a byte, gets one and closes, all the time;
every kill is a SIGKILL of the worker that runs then.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from svcnet.bench import client, load
from svcnet.bench.paths import Cores, Ground
from svcnet.bench.report import percentile
from svcnet.lab import namespace
from svcnet.model.errors import SvcnetError

PATH = "userspace"
PAUSE_SECONDS = 1.2
"""Before each kill; a worker that lived for less than a second may be replaced later and later, to spare the CPU."""
AFTER_SECONDS = 0.5
KILLS = 10


class Try(NamedTuple):
    """One connection: when it began and ended, on perf_counter's scale, and whether the byte came back."""

    begin: float
    end: float
    answered: bool


class Outcome(NamedTuple):
    """Of one kill. `gap_seconds`: from the kill to the first answer to a connection that began after it."""

    gap_seconds: float
    cut: int
    failed: int


def outcome(killed: float, tries: Sequence[Try]) -> Outcome:
    """What a kill did; `cut` were under way then, `failed` began later. SvcnetError when none was answered any more."""
    later = [one for one in tries if one.begin > killed]
    answered = [one.end for one in later if one.answered]
    if not answered:
        raise SvcnetError("no connection was answered after the worker was killed")
    cut = sum(one.begin <= killed < one.end and not one.answered for one in tries)
    return Outcome(min(answered) - killed, cut, sum(not one.answered for one in later))


def children(pid: int) -> list[int]:
    """Process ids of a process's children that are no spares, whichever thread started them."""
    lists = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    found = (int(child) for some in lists for child in some)
    return sorted(child for child in found if Path(f"/proc/{child}/comm").read_text().strip() != "proxy-spare")


def kill_once(address: client.Address, daemon: int) -> Outcome:
    """Connect all the time, and kill the daemon's worker meanwhile."""
    victims = children(daemon)
    if not victims:
        raise SvcnetError("the daemon has no worker")
    tries: list[Try] = []
    killed: list[float] = []
    # Of another thread: wherever the client's connection is just then.
    timer = threading.Timer(PAUSE_SECONDS, _kill, (victims, killed))
    timer.start()
    while not killed or time.perf_counter() - killed[0] < AFTER_SECONDS:
        tries.append(_try(address))
    timer.join()
    return outcome(killed[0], tries)


def _kill(pids: Sequence[int], killed: list[float]) -> None:
    killed.append(time.perf_counter())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _try(address: client.Address) -> Try:
    begin = time.perf_counter()
    try:
        client.once(address)
    except OSError:
        return Try(begin, time.perf_counter(), answered=False)
    return Try(begin, time.perf_counter(), answered=True)


def run(kills: int) -> list[Outcome]:
    """Bring the path up, and kill its worker so often. SvcnetError."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[-1]})
    with Ground([PATH], Cores(allowed[0], allowed[-1])) as ground:
        if PATH in ground.left_out:
            raise SvcnetError(f"{PATH}: {ground.left_out[PATH]}")
        act = partial(kill_once, ground.address(PATH), ground.pid(PATH))
        return [ground.inside(PATH, act) for _ in range(kills)]


def main() -> int:
    """Print the figures; the exit code."""
    parser = argparse.ArgumentParser(prog="bench/run.py --suite worker")
    parser.add_argument("--kills", type=load.count, default=KILLS)
    options = parser.parse_args()
    load.heed_signals()
    try:
        namespace.require_privilege()
        outcomes = run(options.kills)
    except SvcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    gaps = [one.gap_seconds * 1000 for one in outcomes]
    print(f"worker killed {len(outcomes)} times under one client that never stops")
    print(f"  kill to first answer    p50 {percentile(gaps, 0.5):.0f} ms, highest {max(gaps):.0f} ms")
    print(f"  connections cut by it   {sum(one.cut for one in outcomes)}")
    print(f"  later ones that failed  {sum(one.failed for one in outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
