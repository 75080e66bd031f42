"""`svcnet lab`: minions and pods on this one machine.

Owns: the commands, their options and what they print. The lab is svcnet.lab's, its store and daemon come from here.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from svcnet.cli import candidate
from svcnet.lab.image import checked
from svcnet.lab.spec import LARGEST, TOPOLOGIES, LabSpec
from svcnet.model.errors import ConfigError, SvcnetError

if TYPE_CHECKING:
    from svcnet.lab.registry import Registry
    from svcnet.lab.status import LabStatus

OPENER = "svcnet.cli.lab:open_records"

COLUMNS = ("NAME", "ADDRESS", "STATE")

DEFAULT = LabSpec()

name_option = click.option("--name", default=DEFAULT.name, metavar="NAME", show_default=True, help="Which lab.")


def open_records(spec: LabSpec, url: str) -> "Registry":
    """Open the record store of a lab, with its service CIDR."""
    from svcnet import config  # noqa: PLC0415 - only `up`, `down` and the keeper open a store
    from svcnet.cli.context import open_store  # noqa: PLC0415

    flags = {"records": url, "service_cidr": spec.service_cidr}
    # Neither variables nor a file: what they say is for the machine, not for the lab.
    return open_store(config.load(flags, {}, spec.name, lambda _: b""), remember=False)


def labels(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parse `--label KEY=VALUE`."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{text!r}, expected KEY=VALUE")
        found[key] = value
    return tuple(sorted(found.items())) or DEFAULT.labels


def images(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parse `--image NAME=COMMAND`."""
    try:
        return tuple(sorted(checked(name, command) for name, _, command in (text.partition("=") for text in given)))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def known_mode(_: click.Context, __: click.Parameter, given: str) -> str:
    """Refuse at once what no svcnet-proxy takes."""
    from svcnet import config  # noqa: PLC0415 - most commands need none of it

    return config.load({"mode": given}, {}, "lab", lambda _: b"").mode if given else given


@click.group()
def lab() -> None:
    """Minions and pods as network namespaces on this one machine (needs root)."""


@lab.command()
@name_option
@click.option("--minions", type=click.IntRange(1, LARGEST), default=DEFAULT.minions, show_default=True)
@click.option(
    "--pods", type=click.IntRange(0, LARGEST), default=DEFAULT.pods, show_default=True, help="On each minion."
)
@click.option(
    "--topology",
    type=click.Choice(TOPOLOGIES),
    default=DEFAULT.topology,
    show_default=True,
    help="How pods hang on their minion: a route each, or one bridge (cbr0).",
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", callback=labels, help="On every pod. [name=tomcatCluster]"
)
@click.option(
    "--image", "images", multiple=True, metavar="NAME=COMMAND", callback=images, help="What stands in for an image."
)
@click.option(
    "--store", type=click.Choice(["dir", "etcd"]), default="dir", show_default=True, help="The lab's own record store."
)
@click.option("--records", default="", metavar="URL", help="Another record store than the lab's own.")
@click.option(
    "--mode",
    default="",
    metavar="MODE",
    callback=known_mode,
    shell_complete=candidate.modes,
    help="--mode of svcnet-proxy.",
)
@click.option("--service-cidr", default=DEFAULT.service_cidr, metavar="CIDR[,CIDR6]", show_default=True)
@click.option("--cluster-cidr", default=DEFAULT.cluster_cidr, metavar="CIDR[,CIDR6]", show_default=True)
@click.option("--ipv6/--no-ipv6", default=None, help="Give minions and pods an IPv6 address too. [if this machine can]")
@click.option("--no-proxy", is_flag=True, help="Start no svcnet-proxy.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=120.0, show_default=True, metavar="SECONDS")
@click.argument("daemon_options", nargs=-1, metavar="[-- SVCNET_PROXY_OPTION…]")
def up(ipv6: bool | None, no_proxy: bool, timeout: float, store: str, **given: Any) -> None:
    """Build a lab and wait until every pod answers and every svcnet-proxy is ready.

    Prints the variables that make `svcnet` use the lab's records: eval "$(svcnet lab up)".
    """
    from svcnet.lab.etcd import free_port  # noqa: PLC0415 - the command line must start fast
    from svcnet.lab.lab import DAEMON, Lab  # noqa: PLC0415

    dual = Path("/proc/sys/net/ipv6").exists() if ipv6 is None else ipv6
    etcd_port = free_port() if store == "etcd" else 0
    spec = LabSpec(**given, etcd_port=etcd_port, ipv6=dual, daemon=None if no_proxy else DAEMON, opener=OPENER)
    built = Lab(spec.name)
    built.up(spec, open_records, timeout)
    for note in built.notes:
        click.echo(f"note: {note}", err=True)
    many = f"{spec.minions} minions, {spec.pods} pods on each" + (", no proxy" if no_proxy else "")
    first = "m1p1" if spec.pods else "m1"
    click.echo(f"lab {spec.name} is up: {many}. Try: svcnet lab exec{_named(spec.name)} {first} -- ip addr", err=True)
    click.echo(f"export SVCNET_RECORDS={built.records} SVCNET_SERVICE_CIDR={spec.service_cidr}")


@lab.command()
@name_option
def down(name: str) -> None:
    """End and remove everything of a lab, also after a crash."""
    from svcnet.lab.lab import Lab  # noqa: PLC0415 - see up

    if not Lab(_checked(name)).down(open_records):
        raise SvcnetError(f"there is no lab {name}")
    click.echo(f"lab {name} is down", err=True)


@lab.command(name="exec", context_settings={"allow_interspersed_args": False})
@name_option
@click.argument("member")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, member: str, command: tuple[str, ...]) -> None:
    """Run COMMAND inside a minion (m1), a pod (m1p2) or the switch; its exit code is passed on."""
    from svcnet.lab import namespace  # noqa: PLC0415 - see up
    from svcnet.lab.lab import Lab  # noqa: PLC0415

    found = Lab(_checked(name))
    namespace.require_privilege()
    argv = found.argv(member, command)
    sys.stdout.flush()
    os.execvpe(argv[0], argv, found.environment(member))  # noqa: S606 - no shell: that is the point


@lab.command()
@name_option
@click.argument("member")
def kill(name: str, member: str) -> None:
    """End a pod's process (m1p2), or a minion's svcnet-proxy (m1), as a crash would."""
    from svcnet.lab import namespace  # noqa: PLC0415 - see up
    from svcnet.lab.lab import Lab  # noqa: PLC0415

    found = Lab(_checked(name))
    namespace.require_privilege()
    found.kill(member)
    click.echo(f"{member} ended", err=True)


@lab.command()
@name_option
@click.option("--timeout", type=click.FloatRange(min=0.1), default=120.0, show_default=True, metavar="SECONDS")
@click.argument("mode", callback=known_mode, shell_complete=candidate.modes)
def mode(name: str, timeout: float, mode: str) -> None:
    """Put every minion in another MODE while it serves: their file is written, and they are told to read it."""
    from svcnet.lab import namespace  # noqa: PLC0415 - see up
    from svcnet.lab.lab import Lab  # noqa: PLC0415
    from svcnet.lab.mode import switch  # noqa: PLC0415

    found = Lab(_checked(name))
    namespace.require_privilege()
    switch(found, mode, timeout)
    click.echo(f"lab {name}: every minion is in mode {mode}", err=True)


@lab.command()
@name_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(name: str, output: str) -> None:
    """Show minions, pods and what runs; exit 1 when something of it does not."""
    from svcnet.lab import namespace  # noqa: PLC0415 - see up
    from svcnet.lab.lab import Lab  # noqa: PLC0415
    from svcnet.lab.status import status as look  # noqa: PLC0415

    found = Lab(_checked(name))
    namespace.require_privilege()
    now = look(found)
    if output == "json":
        import msgspec  # noqa: PLC0415

        click.echo(msgspec.json.format(msgspec.json.encode(now)))
    else:
        _print_table(now)
    if not now.complete:
        raise SvcnetError(f"lab {name} is not complete")


def _print_table(now: "LabStatus") -> None:
    running = "running" if now.keeper else "not running"
    click.echo(f"lab {now.name}: {now.topology}, keeper {running}, records {now.records}", err=True)
    rows = [(member.name, " ".join(member.addresses), member.state) for member in now.members]
    if sys.stdout.isatty():
        _print_rich(rows, os.environ)
        return
    widths = [max(len(row[column]) for row in [COLUMNS, *rows]) for column in range(len(COLUMNS))]
    for row in [COLUMNS, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_rich(rows: list[tuple[str, str, str]], environ: Mapping[str, str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - 50 ms that only a terminal is worth
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for name, addresses, state in rows:
        style = "green" if state in {"running", "proxy ready"} else "" if state == "no proxy" else "bold red"
        table.add_row(Text(name, "" if "p" in name else "bold"), addresses, Text(state, style))
    Console(no_color="NO_COLOR" in environ).print(table)


def _checked(name: str) -> str:
    try:
        return LabSpec(name=name).checked().name
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _named(name: str) -> str:
    return "" if name == DEFAULT.name else f" --name {name}"
