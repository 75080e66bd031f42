"""`svcnet create`, `apply`, `delete`.

Owns: what is written one by one or together, and what is said about each record. The store holds the rules.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from svcnet.cli import candidate
from svcnet.cli.context import open_store
from svcnet.cli.kind import key_of, said, targets
from svcnet.cli.option import STORE, with_config
from svcnet.cli.source import Given, given
from svcnet.config import Loaded
from svcnet.model.errors import ConflictError, RecordError
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort

if TYPE_CHECKING:
    from svcnet.model.meta import Key

Outcome = tuple[Record, ConflictError | RecordError | None]

files_option = click.option(
    "-f",
    "--filename",
    "files",
    type=click.Path(),  # for completion alone: errors are ours
    metavar="FILE|DIR|-",
    multiple=True,
    help="JSON or YAML with records; a directory: all in it; - is standard input. May be repeated.",
)


class Tally:
    """What went wrong so far, as an exit code: bad input (2) counts more than a failure (1)."""

    def __init__(self) -> None:
        self.code = 0

    def failed(self, error: Exception, code: int) -> None:
        """Say it and remember. What is wrong with a record begins with FILE:LINE."""
        click.echo(f"{'' if isinstance(error, RecordError) else 'svcnet: '}{error}", err=True)
        self.code = max(self.code, code)


@click.command()
@files_option
@with_config(*STORE)
def create(loaded: Loaded, files: tuple[str, ...]) -> int:
    """Write new records.

    Good records are written also when others of the input are bad; a record that exists already is left as it is.
    Exit 2 when one was bad, 1 when one was there already.
    """
    tally, found = Tally(), _read(files)
    _report(found, tally)
    store, now = open_store(loaded.config, remember=False, make=True), _now()
    records = tuple(_created(record, now) for record in found.records)
    for record, error in one_by_one(records, lambda *some: store.put(*some, create=True)):
        if error is None:
            click.echo(f"{said(record.key)} created")
        else:
            tally.failed(_placed(error, found.places[record.key]), error.exit_code)
    return tally.code


@click.command(name="apply")
@files_option
@with_config(*STORE)
def apply(loaded: Loaded, files: tuple[str, ...]) -> int:
    """Write records, whether they are new or change what is there.

    A service keeps the virtual IP and node ports that it has, unless the record names others.
    """
    tally, found = Tally(), _read(files)
    _report(found, tally)
    store, now = open_store(loaded.config, remember=False, make=True), _now()
    there = {record.key: record for record in store.list().records} if found.records else {}
    changed = []
    for record in found.records:
        before = there.get(record.key)
        if before is not None and _carried(record, before) == before:
            click.echo(f"{said(record.key)} unchanged")
        else:
            changed.append(_created(record, before.meta.created if before else now))
    for record, error in one_by_one(tuple(changed), store.put):
        if error is None:
            click.echo(f"{said(record.key)} {'configured' if record.key in there else 'created'}")
        else:
            tally.failed(_placed(error, found.places[record.key]), error.exit_code)
    return tally.code


@click.command()
@files_option
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NS", shell_complete=candidate.namespaces
)
@click.argument("kind", required=False, shell_complete=candidate.kinds)
@click.argument("names", nargs=-1, metavar="[NAME]…", shell_complete=candidate.names)
@with_config(*STORE)
def delete(loaded: Loaded, files: tuple[str, ...], namespace: str, kind: str | None, names: tuple[str, ...]) -> int:
    """Delete records: -f FILE, KIND NAME…, or KIND/NAME…. Exit 1 when one of them wasn't there."""
    tally = Tally()
    if bool(files) == bool(kind):
        raise click.UsageError("expected either -f FILE or KIND NAME")
    if kind:
        wanted, names = targets(kind, names)
        if not names:
            raise click.UsageError(f"expected the name of a {wanted.names[0]}")
        keys: tuple[Key, ...] = tuple(dict.fromkeys(key_of(wanted, namespace, name) for name in names))
    else:
        found = given(files)
        _report(found, tally)
        keys = tuple(record.key for record in found.records)
    gone = set(open_store(loaded.config, remember=False).delete(*keys)) if keys else set()
    for key in keys:
        if key in gone:
            click.echo(f"{said(key)} deleted")
        else:
            tally.failed(ConflictError(f"{said(key)} not found"), 1)
    return tally.code


def _placed(error: Exception, place: str) -> Exception:
    """What the store refuses in a record (a virtual IP outside the range) is found in the input, too."""
    return RecordError(f"{place}: {error}") if isinstance(error, RecordError) else error


def one_by_one(
    records: Sequence[Record], put: Callable[..., tuple[Record, ...]]
) -> Iterator[tuple[Record, ConflictError | RecordError | None]]:
    """Write records and yield what became of each, in order.

    All go in one call, which costs one turn of the store's lock; when it is refused, halves are tried, so that one
    bad record among thousands costs a few calls more and not thousands.
    """
    if not records:
        return
    try:
        put(*records)
    except (ConflictError, RecordError) as error:
        if len(records) == 1:
            yield records[0], error
            return
        middle = len(records) // 2
        yield from one_by_one(records[:middle], put)
        yield from one_by_one(records[middle:], put)
    else:
        yield from ((record, None) for record in records)


def _read(files: tuple[str, ...]) -> Given:
    if not files:
        raise click.UsageError("expected -f FILE, a directory, or - for standard input")
    return given(files)


def _report(found: Given, tally: Tally) -> None:
    for warning in found.warnings:
        click.echo(f"{warning}", err=True)
    for error in found.errors:
        tally.failed(error, 2)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _created(record: Record, when: str) -> Record:
    """Give a record its creationTimestamp, as Kubernetes' API server does; AGE comes from it."""
    return record if record.meta.created or not when else replace(record, meta=replace(record.meta, created=when))


def _carried(record: Record, before: Record) -> Record:
    """Return the record with what the store gave to the one that is there: its age, its addresses."""
    meta = replace(
        record.meta, created=record.meta.created or before.meta.created, uid=record.meta.uid or before.meta.uid
    )
    record = replace(record, meta=meta)
    if not (isinstance(record, Service) and isinstance(before, Service)):
        return record
    node_ports = {(port.protocol, port.port): port.node_port for port in before.ports}
    return replace(
        record,
        cluster_ips=record.cluster_ips or before.cluster_ips,
        ip_families=record.ip_families or before.ip_families,
        ip_family_policy=record.ip_family_policy or before.ip_family_policy,
        health_check_node_port=record.health_check_node_port or before.health_check_node_port,
        ports=tuple(_with_node_port(port, node_ports) for port in record.ports),
    )


def _with_node_port(port: ServicePort, known: Mapping[tuple[str, int], int]) -> ServicePort:
    return replace(port, node_port=port.node_port or known.get((port.protocol, port.port), 0))
