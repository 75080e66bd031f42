"""Plain aligned tables for people; colour where a terminal shows it.

Owns: widths, and when there is colour: on a terminal, without NO_COLOR (no-color.org: set and not empty).
A line ends with its last character: no blanks after it, so that `cut` and `diff` are not surprised.
"""

import os
import sys
from collections.abc import Iterable, Sequence

import click

GAP = "   "
_BAD = frozenset({"NotReady", "Failed", "Terminating", "Unknown", "<none>", "<pending>"})


def colourful() -> bool:
    """Whether standard output is a terminal that wants colour."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def widths(rows: Iterable[Sequence[str]]) -> list[int]:
    """The width of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def line(row: Sequence[str], wide: Sequence[int]) -> str:
    """One aligned line."""
    return GAP.join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip()


def header(row: Sequence[str], wide: Sequence[int]) -> str:
    """The first line, bold in colour."""
    text = line(row, wide)
    return click.style(text, bold=True) if colourful() else text


def body(row: Sequence[str], wide: Sequence[int]) -> str:
    """A line of the table; cells that call for attention are red in colour."""
    if not colourful():
        return line(row, wide)
    padded = [(cell, cell.ljust(width)) for cell, width in zip(row, wide, strict=True)]
    return GAP.join(click.style(text, fg="red") if _is_bad(cell) else text for cell, text in padded).rstrip()


def write(rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first row is its header."""
    wide = widths(rows)
    click.echo("\n".join([header(rows[0], wide), *(body(row, wide) for row in rows[1:])]))


def _is_bad(cell: str) -> bool:
    done, slash, of = cell.partition("/")
    if slash and done.isdigit() and of.isdigit():
        return int(done) < int(of) or of == "0"
    return cell.partition(",")[0] in _BAD
