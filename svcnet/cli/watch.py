"""`svcnet get -w`: what is there, then every change as it comes.

Owns: the stream. A record whose line did not change (an endpoint that nobody sees in a narrow table) prints nothing.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple

import click
import msgspec

from svcnet.cli import column, table
from svcnet.cli.get import Query, report
from svcnet.cli.kind import short
from svcnet.cli.view import View
from svcnet.codec.writer import to_v1
from svcnet.model.event import Away, Problem
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.option_kind import Network
from svcnet.store.protocol import Store

_WORDS = {"+": "ADDED", "~": "MODIFIED", "-": "DELETED"}


class Seen(NamedTuple):
    """A record as it was printed last."""

    record: Record
    text: tuple[str, ...]
    """Its cells without the age, which changes by itself."""


def follow(store: Store, query: Query, deny: Iterable[Network]) -> int:
    """Print until interrupted, which is how it ends: exit 0."""
    try:
        asyncio.run(_Stream(query, deny).run(store))
    except KeyboardInterrupt:
        return 0
    return 0


class _Stream:
    def __init__(self, query: Query, deny: Iterable[Network]) -> None:
        self._query = query
        self._view = View(deny)
        self._seen: dict[Key, Seen] = {}
        self._widths: list[int] = []
        self._begun = False

    async def run(self, store: Store) -> None:
        async for batch in store.watch():
            report(event for event in batch if isinstance(event, Problem))
            for event in batch:
                if isinstance(event, Away):
                    click.echo(f"store away: {event.reason}", err=True)
            touched = self._view.fold(batch)
            if self._view.tracker.synced:
                self._print(touched if self._begun else None)
                self._begun = True

    def _print(self, touched: set[Key] | None) -> None:
        """Print the records that differ from what was printed; None looks at all, and begins with the header."""
        kind = self._query.kind.kind
        if touched is None or kind == "Namespace":
            current = {r.key: r for r in self._view.records(kind) if self._query.takes(r)}
            keys = sorted(current.keys() | self._seen.keys())
        else:
            keys = sorted(Key(kind, *key[1:]) for key in touched if _concerns(key, kind))
            current = {k: r for k in keys if (r := self._view.record(k)) is not None and self._query.takes(r)}
        changes = [change for key in keys if (change := self._change(key, current.get(key)))]
        if self._query.output in {"json", "name"}:
            for sign, record, _ in changes:
                click.echo(self._data(sign, record))
        elif self._query.output == "yaml":
            for sign, record, _ in changes:
                click.echo("---\n" + self._yaml(sign, record), nl=False)
        else:
            self._table([[sign, *text] for sign, _, text in changes], first=touched is None)

    def _change(self, key: Key, record: Record | None) -> tuple[str, Record, list[str]] | None:
        before = self._seen.get(key)
        if record is None:
            if before is None:
                return None
            del self._seen[key]
            return "-", before.record, [*before.text, column.age(before.record.meta.created, time.time())]
        cells = column.cells(record, self._view, time.time(), self._query.wide, self._query.namespaced)
        text = tuple(cells[:-1])
        if before is not None and before.text == text and (before.record == record or not self._whole):
            return None
        self._seen[key] = Seen(record, text)
        return "~" if before else "+", record, cells

    @property
    def _whole(self) -> bool:
        """Whether what is printed is the whole record and not its line alone."""
        return self._query.output in {"json", "yaml"}

    def _table(self, rows: list[list[str]], first: bool) -> None:
        titles = [" ", *column.titles(self._query.kind.kind, self._query.wide, self._query.namespaced)]
        if first:
            self._widths = table.widths([titles, *rows])
            click.echo(table.header(titles, self._widths))
        for row in rows:
            click.echo(table.body(row, self._widths))

    def _data(self, sign: str, record: Record) -> str:
        if self._query.output == "name":
            return f"{sign} {short(record.key)}"
        return msgspec.json.encode({"type": _WORDS[sign], "object": to_v1(record)}).decode()

    def _yaml(self, sign: str, record: Record) -> str:
        from svcnet.codec.writer import to_yaml  # noqa: PLC0415 - imports PyYAML

        return f"# {_WORDS[sign]}\n{to_yaml(record)}"


def _concerns(key: Key, kind: str) -> bool:
    return key.kind == kind or (key.kind == "Service" and kind == "Endpoints")
