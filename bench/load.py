"""Every data path side by side: throughput, new connections, latency. Run by `bench/run.py [--quick]`.

Owns: the rounds and their order, the options, where the results go. A round measures path by path, and begins with
another path each time, so that what changes on the machine meanwhile meets them all. Progress goes to stderr.
"""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from svcnet.bench import client, plot, report
from svcnet.bench.paths import DIRECT, PATHS, Cores, Ground
from svcnet.bench.report import Round, percentile
from svcnet.lab import namespace
from svcnet.model.errors import SvcnetError

QUICK_SECONDS, QUICK_ROUNDS, QUICK_SIZES = 0.15, 6, (10, 14, 18, 22, 26)
SECONDS, ROUNDS, SIZES = 1.0, 7, (6, 10, 12, 14, 16, 18, 20, 22, 24, 26)
FOREVER_SECONDS = 60.0
BUSY_LOAD = 0.7
"""One-minute load average before the start from which on its user is warned."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Result = TypeVar("Result")


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The same names, from another one on with each turn."""
    at = turn % len(names)
    return [*names[at:], *names[:at]]


class Inside(Protocol):
    """Runs something in the network namespace of a path's minion."""

    def __call__(self, act: Callable[[], Result], /) -> Result:
        """Return act()."""
        ...


def measure(inside: Inside, address: client.Address, seconds: float, sizes: Sequence[int]) -> Round:
    """One round of one path. Each size of a reply gets half the time."""
    # First what does not count: caches, neighbours and a worker's code are warm after it.
    inside(partial(client.connect_seconds, address, seconds / 10))
    connect = inside(partial(client.connect_seconds, address, seconds))
    exchange = inside(partial(client.exchange_seconds, address, seconds))
    return Round(
        throughput=inside(partial(client.throughput, address, seconds)),
        connections=inside(partial(client.connections, address, seconds)),
        connect_p50=percentile(connect, 0.5),
        connect_p99=percentile(connect, 0.99),
        exchange_p50=percentile(exchange, 0.5),
        exchange_p99=percentile(exchange, 0.99),
        payload=tuple((size, inside(partial(client.payload, address, size, seconds / 2))) for size in sizes),
    )


def rounds(ground: Ground, turns: int, seconds: float, sizes: Sequence[int]) -> dict[str, list[Round]]:
    """Measure; a path that fails is left out from then on, with its earlier rounds."""
    results: dict[str, list[Round]] = {name: [] for name in ground.names if name not in ground.left_out}
    for turn in range(turns):
        _tell(f"round {turn + 1} of {turns}:")
        for name in rotated(list(results), turn):
            _tell(f" {name}")
            try:
                measured = measure(partial(ground.inside, name), ground.address(name), seconds, sizes)
            except (OSError, ValueError) as error:
                why = f"no answer in {client.PATIENCE_SECONDS} s" if isinstance(error, BlockingIOError) else error
                ground.left_out[name] = f"failed in round {turn + 1}: {why}"
                del results[name]
                _tell(" (failed)")
            else:
                results[name].append(measured)
        _tell("\n")
        if DIRECT not in results:
            raise SvcnetError(f"direct: {ground.left_out[DIRECT]}")
    return results


def parser() -> argparse.ArgumentParser:
    """The options of this suite."""
    made = argparse.ArgumentParser(prog="bench/run.py", description="The load suite: every data path side by side.")
    made.add_argument("--quick", action="store_true", help="shorter and fewer rounds: under a minute in all")
    made.add_argument("--seconds", type=_seconds, help=f"of each figure ({SECONDS}; quick {QUICK_SECONDS})")
    made.add_argument("--rounds", type=count, help=f"({ROUNDS}; quick {QUICK_ROUNDS})")
    made.add_argument(
        "--paths", type=_names, default=list(PATHS), help=f"({','.join(PATHS)}); direct always comes along"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    made.add_argument(
        "--plot",
        nargs="?",
        const="-",
        metavar="FILE.svg",
        help="throughput by the size of a reply; without FILE as bars on stdout",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    options = parser().parse_args(arguments)
    return outcome(lambda: _run(options))


def outcome(run: Callable[[], int | None]) -> int:
    """Run a suite that needs namespaces; its exit code, also when it fails or a signal ends it."""
    heed_signals()
    try:
        namespace.require_privilege()
        return run() or 0
    except SvcnetError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nbench: interrupted; everything is taken down", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    turns = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    sizes = QUICK_SIZES if options.quick else SIZES
    allowed = sorted(os.sched_getaffinity(0))
    cores = Cores(paths=allowed[0], load=allowed[-1])
    load, _, _ = os.getloadavg()
    _tell(f"starting {', '.join(options.paths)}; each figure takes {seconds:g} s\n")
    if load > BUSY_LOAD:
        _tell(f"the machine is busy (load average {load:.1f}): expect wide spreads\n")
    os.sched_setaffinity(0, {cores.load})
    try:
        with Ground(options.paths, cores) as ground:
            results = rounds(ground, turns, seconds, sizes)
    finally:
        os.sched_setaffinity(0, allowed)
    print(report.table(results, ground.left_out))
    series = {name: report.payloads(found) for name, found in results.items()}
    if options.plot == "-":
        print(f"\n{plot.bars(series)}")
    elif options.plot:
        Path(options.plot).write_text(plot.svg(series), encoding="utf-8")
    if options.json:
        run = {"seconds": seconds, "rounds": turns, "cores": cores._asdict(), "machine": _machine(len(allowed), load)}
        options.json.write_text(json.dumps(report.as_json(results, ground.left_out, run), indent=2) + "\n")
    return 0 if len(results) > 1 or len(options.paths) == 1 else 1


def _machine(cpus: int, load: float) -> dict[str, Any]:
    return {"cpus": cpus, "load_before": load, "kernel": platform.release(), "python": platform.python_version()}


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= FOREVER_SECONDS:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0 and at most {FOREVER_SECONDS:.0f}")
    return value


def count(text: str) -> int:
    """1 to 100, as an option's value. argparse.ArgumentTypeError."""
    value = int(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to 100")
    return value


def _names(text: str) -> list[str]:
    asked = text.split(",")
    unknown = [name for name in asked if name not in PATHS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: expected some of {', '.join(PATHS)}")
    return [name for name in PATHS if name == DIRECT or name in asked]


def heed_signals() -> None:
    """Let the first signal that asks for an end raise KeyboardInterrupt, and no other one disturb what follows."""
    for number in ENDING:
        signal.signal(number, _interrupted)


def _interrupted(*_: object) -> None:
    for number in ENDING:  # once: what is made is taken down in peace
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
