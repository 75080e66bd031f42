"""Throughput by the size of a reply, a line a path, as SVG or as text bars. Pure.

Owns: the drawing. Both axes are logarithmic: sizes and rates span four orders of magnitude.
"""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from svcnet.bench.report import MIB, size_text

Series = Mapping[str, Sequence[tuple[int, float]]]
"""Path → (log2 of a reply's bytes, bytes per second)."""

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 140, 44, 60
FONT = 'font-family="sans-serif" font-size="12"'
BAR_CELLS = 40
# Told apart by those who see no red or no green as well (Okabe and Ito).
COLOURS = ("#000000", "#0072b2", "#009e73", "#56b4e9", "#d55e00", "#cc79a7", "#e69f00")
TITLE = "Throughput by the size of a reply, a new connection each"


def svg(series: Series) -> str:
    """A whole SVG document. ValueError without a point."""
    place = _Place(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f"<title>{escape(TITLE)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{escape(TITLE)}</text>',
        *place.grid(),
    ]
    labels = _apart([(place.y(points[-1][1]), name) for name, points in series.items()])
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{place.x(size):.1f},{place.y(rate):.1f}" for size, rate in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{place.x(s):.1f}" cy="{place.y(r):.1f}" r="3" fill="{colour}"/>' for s, r in points]
        parts.append(_text(WIDTH - RIGHT + 10, labels[name] + 4, name, fill=colour))
    return "\n".join([*parts, "</svg>", ""])


def bars(series: Series) -> str:
    """The same for a terminal: a bar as long as the rate, on one linear scale for each size."""
    width = max(map(len, series))
    lines = [TITLE]
    for column, (size, _) in enumerate(next(iter(series.values()))):
        lines += ["", size_text(size)]
        most = max(points[column][1] for points in series.values())
        for name, points in series.items():
            rate = points[column][1]
            bar = "█" * max(1, round(rate / most * BAR_CELLS))
            lines.append(f"  {name:{width}} {bar:{BAR_CELLS}} {rate / MIB:.4g} MiB/s")
    return "\n".join(lines)


class _Place:
    """Where a size and a rate are on the paper."""

    def __init__(self, series: Series) -> None:
        rates = [rate for points in series.values() for _, rate in points]
        self._sizes = sorted({size for points in series.values() for size, _ in points})
        self._low = math.floor(math.log10(min(rates)))
        self._high = max(self._low + 1, math.ceil(math.log10(max(rates))))

    def x(self, size: int) -> float:
        span = max(1, self._sizes[-1] - self._sizes[0])
        return LEFT + (WIDTH - LEFT - RIGHT) * (size - self._sizes[0]) / span

    def y(self, rate: float) -> float:
        share = (math.log10(rate) - self._low) / (self._high - self._low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def grid(self) -> list[str]:
        parts = []
        for power in range(self._low, self._high + 1):
            y = self.y(10**power)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d0d0d0"/>')
            parts.append(_text(LEFT - 8, y + 4, _rate_text(power), anchor="end"))
        for size in self._sizes:
            x = self.x(size)
            parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e8e8e8"/>')
            parts.append(_text(x, HEIGHT - BOTTOM + 18, size_text(size), anchor="middle"))
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(_text(middle, HEIGHT - 16, "size of a reply (logarithmic)", anchor="middle"))
        return parts


def _rate_text(power: int) -> str:
    unit, rest = divmod(power, 3)
    return f"{10**rest} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}/s"


def _apart(wanted: Sequence[tuple[float, str]], step: float = 15) -> dict[str, float]:
    """Name → height: as wanted, but no two on top of each other."""
    found: dict[str, float] = {}
    last = -math.inf
    for y, name in sorted(wanted):
        last = max(y, last + step)
        found[name] = last
    return found


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#000000") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
