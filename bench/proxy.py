"""The userspace proxy beside HAProxy, HAProxy with splice, and nginx stream, on one CPU each.

Run by `bench/run.py --suite proxy [--rounds R] [--seconds S] [--idle N] [--figures NAME,…]`, in an empty network
namespace. All proxies are up at the same time, on the first CPU; server and client (far.c) are on the last. A round
asks one after the other for each figure, and begins with another one each time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from svcnet.bench import load
from svcnet.bench.far import ECHO, IN, OUT, SHORT, UDP, Far
from svcnet.bench.proxies import DEAD, HEDGED, HOLE, PROXIES, SILENT, Proxy, address
from svcnet.model.errors import SvcnetError
from svcnet.proxy.listening import raise_limit

GIB = 1 << 30
IDLE, SCALE = 8000, 10_000
OURS, BASES = ("svcnet", "svcnet-full"), ("haproxy", "haproxy-splice", "nginx")
SETTLE_SECONDS = 0.3
ASKER = "192.0.2.2"
SETTINGS = (("net/ipv4/ip_local_port_range", "1024 65535"), ("net/ipv4/tcp_tw_reuse", "1"))
"""Tens of thousands of connections to one address: ports must suffice, and closed ones make room."""


class Figure(NamedTuple):
    """What is asked: far.c's kind, port, so many at a time. `unit` of the rate, and how many units it has."""

    title: str
    kind: str
    port: int
    number: int
    unit: str
    size: float = 1
    late: bool = False
    """Whether latency is what it is about, not the rate."""


CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
UNPACED = ("cubic", "reno")
"""What is preferred: bbr paces by timers, which on loopback doubles the CPU a byte of every proxy and has a rate depend
on who else wants the CPU."""
GBIT = 1e9 / 8
FIGURES = {
    "down1": Figure("bulk down, 1 connection", "down", OUT, 1, "Gbit/s", GBIT),
    "up1": Figure("bulk up, 1 connection", "up", IN, 1, "Gbit/s", GBIT),
    "down64": Figure("bulk down, 64 connections", "down", OUT, 64, "Gbit/s", GBIT),
    "up64": Figure("bulk up, 64 connections", "up", IN, 64, "Gbit/s", GBIT),
    "conn": Figure("new connections, 64 at a time", "conn", SHORT, 64, "1/s"),
    "keep": Figure("messages on 64 connections", "keep", ECHO, 64, "1/s"),
    "udp": Figure("UDP, 64 flows x 8 ahead", "udp", UDP, 64, "1/s"),
    "udp1": Figure("UDP, 1 flow x 8 ahead", "udp", UDP, 1, "1/s"),
    "dead": Figure("connect, one of two endpoints refuses", "conn", DEAD, 1, "1/s", late=True),
    "silent": Figure("connect, one of two endpoints is silent", "conn", SILENT, 8, "1/s", late=True),
    "hedged": Figure("connect, one of two is silent, ours with hedge: 50ms", "conn", HEDGED, 8, "1/s", late=True),
}


class Measured(NamedTuple):
    """One proxy in one round. Units a second; CPU seconds a unit; seconds; failures."""

    rate: float
    cpu: float
    p50: float
    p99: float
    highest: float
    failures: int


Results = dict[str, dict[str, list[Measured]]]
"""By figure, then by proxy."""


def measure(far: Far, figure: Figure, proxy: Proxy, seconds: float) -> Measured:
    """Ask one proxy."""
    before = proxy.cpu_seconds()
    heard = far.ask(figure.kind, proxy.address, figure.port, figure.number, seconds)
    cpu = proxy.cpu_seconds() - before
    return Measured(heard.rate, cpu / max(heard.units, 1), heard.p50, heard.p99, heard.highest, heard.failures)


def ratio(mine: Sequence[Measured], base: Sequence[Measured], read: Callable[[Measured], float]) -> str:
    """Of a figure to that of `base` in the same round: median (lowest-highest)."""
    each = [read(one) / read(other) for one, other in zip(mine, base, strict=True) if read(other)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})" if each else "-"


def table(figure: Figure, rounds: Mapping[str, Sequence[Measured]]) -> Iterator[str]:
    """Lines: medians, and the ratio to each base."""
    bulk = figure.unit == "Gbit/s"
    bases = [name for name in BASES if name in rounds]
    yield f"{figure.title}:"
    heads = "".join(f"{'to ' + base:>24}" for base in bases)
    cost = "CPU s/GiB" if bulk else "CPU µs"
    yield f"  {'':16}{figure.unit:>10}{heads}{cost:>11}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}"
    for name, each in rounds.items():
        read: Callable[[Measured], float] = (lambda m: m.p99) if figure.late else (lambda m: m.rate)
        rate = statistics.median(m.rate for m in each) / figure.size
        cells = [f"{rate:>10.1f}" if bulk else f"{rate:>10.0f}"]
        cells += [f"{ratio(each, rounds[base], read) if name != base else '1':>24}" for base in bases]
        cpu = statistics.median(m.cpu for m in each) * (GIB if bulk else 1e6)
        cells.append(f"{cpu:>11.3f}" if bulk else f"{cpu:>11.1f}")
        timed = figure.kind in {"conn", "keep"}
        cells += [f"{statistics.median(p) * 1e3:>9.2f}" if timed else f"{'-':>9}" for p in _percentiles(each)]
        yield f"  {name:16}{''.join(cells)}{sum(m.failures for m in each):>8}"
    if figure.late:
        yield "  (ratios are those of p99)"
    also: dict[str, Callable[[Measured], float]] = {"CPU": lambda m: m.cpu}
    if figure.kind in {"conn", "keep"} and not figure.late:
        also["p99"] = lambda m: m.p99
    for what, read in also.items():
        for name in (one for one in OURS if one in rounds):
            yield f"  {what} of {name} to " + ", ".join(f"{b}: {ratio(rounds[name], rounds[b], read)}" for b in bases)


def _percentiles(each: Sequence[Measured]) -> tuple[list[float], list[float]]:
    return [m.p50 for m in each], [m.p99 for m in each]


def memory(far: Far, proxy: Proxy, number: int) -> tuple[float, float]:
    """MiB at rest, and MiB more for each 10,000 idle connections."""
    base = proxy.memory()
    with far.holding(proxy.address, ECHO, number):
        time.sleep(SETTLE_SECONDS)
        held = proxy.memory()
    return base / (1 << 20), (held - base) / (1 << 20) * SCALE / number


class Ground:
    """The namespace's settings, the server, and the proxies that can be started; gone when left."""

    def __init__(self, stack: ExitStack) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[-1]})
        raise_limit()
        _prepare()
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-proxy-")))
        self.far = Far(root, cpus[-1])
        stack.enter_context(self.far.serving())
        self.left_out: dict[str, str] = {}
        self.proxies: list[Proxy] = []
        for name, start in PROXIES.items():
            try:
                self.proxies.append(stack.enter_context(start(name, address(name), cpus[0], root)))
            except SvcnetError as error:
                self.left_out[name] = str(error)


def _prepare() -> None:
    """The namespace: addresses on lo, a device that swallows what it is given, ports by the ten thousand."""
    lines = ["link set lo up", "link add hole type veth peer name bottom", "link set hole up", "link set bottom up"]
    lines.append(f"addr add {ASKER}/32 dev hole")
    lines.append(f"route add {HOLE.address}/32 dev hole src {ASKER}")
    lines.append(f"neigh add {HOLE.address} lladdr 02:00:00:00:00:01 dev hole")
    done = subprocess.run(("ip", "-batch", "-"), input="\n".join(lines), text=True, capture_output=True, check=False)
    if done.returncode:
        raise SvcnetError(f"ip: {done.stderr.strip()}")
    for name, value in SETTINGS:
        Path("/proc/sys", name).write_text(value)
    for name in UNPACED:  # a namespace may have only what net.ipv4.tcp_allowed_congestion_control names
        with suppress(OSError):
            CONGESTION.write_text(name)
            return


def run(options: argparse.Namespace) -> None:
    """Measure, and print."""
    with ExitStack() as stack:
        ground = Ground(stack)
        results: Results = {name: {proxy.name: [] for proxy in ground.proxies} for name in options.figures}
        for turn in range(options.rounds):
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
            for name in options.figures:
                _ask_all(ground, FIGURES[name], results[name], turn, options.seconds)
        print(
            f"medians of {options.rounds} interleaved rounds of {options.seconds:g} s; ratios in the same round "
            f"(lowest-highest); CPU is the proxy process's own; congestion control: {CONGESTION.read_text().strip()}"
        )
        for name in options.figures:
            print()
            print("\n".join(table(FIGURES[name], {k: v for k, v in results[name].items() if v})))
        if options.idle:
            print(f"\nmemory (Pss), {options.idle} idle connections:")
            for proxy in ground.proxies:
                base, more = memory(ground.far, proxy, options.idle)
                print(f"  {proxy.name:16}{base:>8.1f} MiB at rest, {more:>6.1f} MiB per {SCALE} connections")
        for name, why in ground.left_out.items():
            print(f"left out: {name}: {why}")


def _ask_all(ground: Ground, figure: Figure, results: dict[str, list[Measured]], turn: int, seconds: float) -> None:
    by_name = {proxy.name: proxy for proxy in ground.proxies if proxy.udp or figure.kind != "udp"}
    for name in load.rotated(list(by_name), turn):
        results[name].append(measure(ground.far, figure, by_name[name], seconds))


def _names(text: str) -> list[str]:
    asked = text.split(",")
    unknown = [name for name in asked if name not in FIGURES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: expected some of {', '.join(FIGURES)}")
    return asked


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="bench/run.py --suite proxy", allow_abbrev=False)
    parser.add_argument("--rounds", type=load.count, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--idle", type=int, default=IDLE)
    parser.add_argument("--figures", type=_names, default=list(FIGURES), metavar="NAME,…")
    options = parser.parse_args()
    return load.outcome(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
