"""`-f FILE|DIR|-`: what records a command is given.

Owns: which files are read, and the order. Every file is read before anything is done.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from svcnet.codec.reader import read
from svcnet.model.errors import RecordError
from svcnet.model.record import Record

if TYPE_CHECKING:
    from svcnet.model.meta import Key

SUFFIXES = frozenset({".json", ".yaml", ".yml"})


class Given(NamedTuple):
    """Records in the order of the input, and what is wrong with the rest."""

    records: tuple[Record, ...]
    errors: tuple[RecordError, ...]
    warnings: tuple[str, ...]
    places: Mapping["Key", str]
    """FILE:LINE of each record."""


def given(names: Iterable[str]) -> Given:
    """Read every named file, directory (all below it but dot files) or standard input.

    A record that comes twice counts once, and the second is an error. UsageError: a name that leads to nothing.
    """
    records: dict[Key, Record] = {}
    places: dict[Key, str] = {}
    errors: list[RecordError] = []
    warnings: list[str] = []
    for data, origin in [pair for name in names for pair in _texts(name)]:
        decoded = read(data, origin, strict=True)  # people's files: a key that is given twice is a mistake
        errors += decoded.errors
        warnings += decoded.warnings
        for record, line in decoded.records:
            place = f"{origin}:{line}"
            if record.key in records:
                errors.append(RecordError(f"{place}: {record.key} is given twice, first in {places[record.key]}"))
            else:
                records[record.key], places[record.key] = record, place
    return Given(tuple(records.values()), tuple(errors), tuple(warnings), places)


def _texts(name: str) -> Iterator[tuple[bytes, str]]:
    if name == "-":
        yield sys.stdin.buffer.read(), "stdin"
        return
    path = Path(name)
    if not path.is_dir():
        try:
            yield path.read_bytes(), name
        except (FileNotFoundError, NotADirectoryError):
            raise click.UsageError(f"{name}: no such file or directory") from None
        return
    files = sorted(
        found
        for found in path.rglob("*")
        if found.suffix in SUFFIXES
        and not any(part.startswith(".") for part in found.relative_to(path).parts)
        and found.is_file()
    )
    if not files:
        raise click.UsageError(f"{name}: no *.json, *.yaml or *.yml in it")
    for found in files:
        yield found.read_bytes(), str(found)
