"""What the rounds of the load suite say: medians, ratios to direct with their spread, as a table and as JSON. Pure.

Owns: the arithmetic and the text. Must not know how anything was measured.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from svcnet.bench.paths import DIRECT

MIB = 1 << 20


class Round(NamedTuple):
    """One round of one path: bytes per second, connections per second, seconds; `payload` is (log2 of bytes, B/s)."""

    throughput: float
    connections: float
    connect_p50: float
    connect_p99: float
    exchange_p50: float
    exchange_p99: float
    payload: tuple[tuple[int, float], ...]


Rounds = Mapping[str, Sequence[Round]]


class Ratio(NamedTuple):
    """Of each round to the same round of another path: the median, and the spread of the rounds."""

    middle: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


class Column(NamedTuple):
    """A figure of the table; `factor` makes the unit of the title."""

    title: str
    read: Callable[[Round], float]
    factor: float
    compared: bool


RATES = (
    Column("MiB/s", lambda r: r.throughput, 1 / MIB, True),
    Column("connections/s", lambda r: r.connections, 1, True),
)
LATENCIES = (
    Column("connect p99 µs", lambda r: r.connect_p99, 1e6, False),
    Column("p50 µs", lambda r: r.connect_p50, 1e6, True),
    Column("keep-alive p99 µs", lambda r: r.exchange_p99, 1e6, False),
    Column("p50 µs", lambda r: r.exchange_p50, 1e6, True),
)
COMPARED = "to direct"


def percentile(times: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them are. ValueError when there are none."""
    if not times:
        raise ValueError("nothing was measured")
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def median(rounds: Sequence[Round], read: Callable[[Round], float]) -> float:
    """Of a figure over the rounds."""
    return statistics.median(map(read, rounds))


def ratio(rounds: Sequence[Round], base: Sequence[Round], read: Callable[[Round], float]) -> Ratio:
    """Of a figure to that of `base`, round by round."""
    each = [read(mine) / read(its) for mine, its in zip(rounds, base, strict=False)]
    return Ratio(statistics.median(each), min(each), max(each))


def payloads(rounds: Sequence[Round]) -> list[tuple[int, float]]:
    """(log2 of bytes, median bytes per second) for each size of a reply."""
    sizes = [size for size, _ in rounds[0].payload]
    return [(size, statistics.median(dict(r.payload)[size] for r in rounds)) for size in sizes]


def size_text(exponent: int) -> str:
    """2^exponent bytes, as people say it."""
    unit, rest = divmod(exponent, 10)
    return f"{1 << rest} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def table(results: Rounds, left_out: Mapping[str, str]) -> str:
    """Everything for a terminal."""
    count = len(results[DIRECT])
    head = (
        f"medians of {count} interleaved round{'s' * (count > 1)}; {COMPARED}: ratio in the same round (lowest-highest)"
    )
    blocks = [head]
    for figures in (_figures(results, RATES), _figures(results, LATENCIES), _payload_figures(results)):
        blocks += ["", *_aligned(figures)]
    if left_out:
        blocks += ["", *(f"left out: {name}: {why}" for name, why in left_out.items())]
    return "\n".join(blocks)


def as_json(results: Rounds, left_out: Mapping[str, str], run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything for a program: bytes per second, seconds, and each round as it was. `run`: what was asked for."""
    return {
        "run": dict(run),
        "paths": {name: _path_json(rounds, results[DIRECT]) for name, rounds in results.items()},
        "left_out": dict(left_out),
    }


def _path_json(rounds: Sequence[Round], base: Sequence[Round]) -> dict[str, Any]:
    fields = [field for field in Round._fields if field != "payload"]
    reads = {field: _reader(field) for field in fields}
    return {
        "median": {field: median(rounds, read) for field, read in reads.items()},
        "ratio_to_direct": {field: ratio(rounds, base, read)._asdict() for field, read in reads.items()},
        "payload": _payload_json(payloads(rounds)),
        "rounds": [{**{f: read(r) for f, read in reads.items()}, "payload": _payload_json(r.payload)} for r in rounds],
    }


def _payload_json(points: Iterable[tuple[int, float]]) -> list[dict[str, float]]:
    return [{"bytes": 1 << size, "bytes_per_second": rate} for size, rate in points]


def _reader(field: str) -> Callable[[Round], float]:
    return lambda r: float(getattr(r, field))


def _figures(results: Rounds, columns: Sequence[Column]) -> list[list[str]]:
    head = ["path"]
    for column in columns:
        head += [column.title, COMPARED] if column.compared else [column.title]
    lines = [head]
    for name, rounds in results.items():
        line = [name]
        for column in columns:
            line.append(f"{median(rounds, column.read) * column.factor:.0f}")
            if column.compared:
                line.append(str(ratio(rounds, results[DIRECT], column.read)) if name != DIRECT else "1")
        lines.append(line)
    return lines


def _payload_figures(results: Rounds) -> list[list[str]]:
    sizes = [size_text(size) for size, _ in payloads(results[DIRECT])]
    lines = [["MiB/s by size", *sizes]]
    for name, rounds in results.items():
        lines.append(
            [name, *(f"{rate / MIB:.0f}" if rate >= 100 * MIB else f"{rate / MIB:.1f}" for _, rate in payloads(rounds))]
        )
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
