"""`svcnet get`: records as tables, JSON, YAML, names, or a stream of changes.

Owns: which records are meant and in which form they come out. What they say is svcnet.cli.column's.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import click
import msgspec

from svcnet.cli import candidate, column, table
from svcnet.cli.context import open_store
from svcnet.cli.kind import Kind, key_of, said, short, targets
from svcnet.cli.option import STORE, with_config
from svcnet.cli.view import View
from svcnet.codec.writer import to_json, to_v1, to_yaml
from svcnet.config import Loaded
from svcnet.model import selector
from svcnet.model.event import Problem
from svcnet.model.meta import CLUSTER_SCOPED, Pairs
from svcnet.model.record import Record

OUTPUTS = ("wide", "json", "yaml", "name")


class Query(msgspec.Struct, frozen=True):
    """Which records, and how they come out."""

    kind: Kind
    names: tuple[str, ...]
    namespace: str | None
    """None is all of them."""
    labels: Callable[[Pairs], bool]
    output: str

    @property
    def namespaced(self) -> bool:
        """Whether the table needs its NAMESPACE column."""
        return self.namespace is None and self.kind.kind not in CLUSTER_SCOPED

    @property
    def wide(self) -> bool:
        """Whether all columns are shown."""
        return self.output == "wide"

    def takes(self, record: Record) -> bool:
        """Whether a record is meant."""
        key = record.key
        return (
            key.kind == self.kind.kind
            and (not self.names or key.name in self.names)
            and (not key.namespace or self.namespace in {None, key.namespace})
            and self.labels(record.meta.labels)
        )


@click.command()
@click.argument("kind", shell_complete=candidate.kinds)
@click.argument("names", nargs=-1, metavar="[NAME]…", shell_complete=candidate.names)
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NS", shell_complete=candidate.namespaces
)
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="All namespaces.")
@click.option("-l", "--selector", "labels", default="", metavar="SEL", help="Labels: a=b, a!=b, a in (b,c), a, !a.")
@click.option("-o", "--output", type=click.Choice(OUTPUTS), help="Other than the table. json and yaml are v1.")
@click.option("-w", "--watch", is_flag=True, help="Go on with every change, until interrupted.")
@with_config(*STORE)
def get(
    loaded: Loaded,
    kind: str,
    names: tuple[str, ...],
    namespace: str,
    everywhere: bool,
    labels: str,
    output: str | None,
    watch: bool,
) -> int:
    """List records of a KIND: services, pods, endpoints, endpointslices, minions, rc, namespaces.

    Endpoints are shown as a minion works them out, also those of services that select pods.
    With -w, each line begins with + (new), ~ (changed) or - (gone); -o json prints one {"type", "object"} a line.
    """
    wanted, names = targets(kind, names)
    try:
        matching = selector.parse(labels)
    except ValueError as error:
        raise click.UsageError(f"-l {error}") from None
    query = Query(wanted, names, None if everywhere else namespace, matching, output or "")
    store = open_store(loaded.config, remember=False)
    if watch:
        from svcnet.cli.watch import follow  # noqa: PLC0415 - imports asyncio, which one listing needs not

        return follow(store, query, loaded.config.endpoint_deny)
    listing = store.list()
    report(listing.problems)
    view = View.of(listing, loaded.config.endpoint_deny)
    return _show(view, query, loaded.config.records)


def report(problems: Iterable[Problem]) -> None:
    """Say what the store holds and can't serve."""
    for problem in problems:
        if problem.what:
            click.echo(f"{problem.where}: {problem.what}", err=True)


def _show(view: View, query: Query, where: str) -> int:
    code = 0
    if query.names and query.namespace is not None:
        found = []
        for name in query.names:
            key = key_of(query.kind, query.namespace, name)
            record = view.record(key)
            if record is None or not query.takes(record):
                click.echo(f"svcnet: {said(key)} not found", err=True)
                code = 1
            else:
                found.append(record)
    else:
        found = [record for record in view.records(query.kind.kind) if query.takes(record)]
        if query.names and not found:
            click.echo(f"svcnet: {query.kind.names[0]}/{query.names[0]} not found in any namespace", err=True)
            code = 1
    if query.output in {"json", "yaml"}:
        single = len(query.names) == 1 and query.namespace is not None
        if not (single and code):
            click.echo(document(found, query.output, single), nl=False)
    elif query.output == "name":
        click.echo("".join(f"{short(record.key)}\n" for record in found), nl=False)
    elif found:
        rows = (column.cells(record, view, time.time(), query.wide, query.namespaced) for record in found)
        table.write([column.titles(query.kind.kind, query.wide, query.namespaced), *rows])
    elif not code:
        place = (
            "" if query.namespace is None or query.kind.kind in CLUSTER_SCOPED else f" in namespace {query.namespace}"
        )
        click.echo(f"no {query.kind.plural}{place} ({where})", err=True)
    return code


def document(records: Sequence[Record], form: str, single: bool) -> str:
    """Return the v1 form: of one record as it is, else a List."""
    if single:
        return to_json(records[0]).decode() if form == "json" else to_yaml(records[0])
    if form == "json":
        whole = {"apiVersion": "v1", "kind": "List", "items": [to_v1(record) for record in records]}
        return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"
    if not records:
        return "apiVersion: v1\nkind: List\nitems: []\n"
    items = "".join(_item(to_yaml(record)) for record in records)
    return f"apiVersion: v1\nkind: List\nitems:\n{items}"


def _item(text: str) -> str:
    """Indent one YAML document as an entry of a sequence. Line breaks inside quoted text may be indented (YAML 7.3)."""
    first, *rest = text.rstrip("\n").split("\n")
    return "\n".join([f"- {first}", *(f"  {one}" if one else "" for one in rest)]) + "\n"
