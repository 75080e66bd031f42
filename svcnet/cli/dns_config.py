"""`svcnet dns-config`: the resolv.conf of a host, or of a pod, that leads here.

Owns: its lines, and how a file is replaced. Must not know what is answered.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from svcnet.cli import candidate
from svcnet.cli.option import with_config
from svcnet.config import Config, Loaded
from svcnet.model.errors import SvcnetError
from svcnet.option_kind import DNS_PORT

HOST_NDOTS, POD_NDOTS = 1, 2
MOST_NDOTS = 15
"""resolv.conf(5): more is taken for 15."""
MOST_SERVERS = 3
"""resolv.conf(5): the others are not read."""
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (to know them)
READABLE = 0o644


@click.command()
@click.option(
    "-n", "--namespace", metavar="NS", shell_complete=candidate.namespaces, help="For a pod of NS instead of a host."
)
@click.option("--server", "servers", multiple=True, metavar="ADDR", help="Who is asked. [--dns-listen]")
@click.option(
    "--ndots",
    type=click.IntRange(0, MOST_NDOTS),
    help=f"Names with fewer dots are searched first. [{HOST_NDOTS}; {POD_NDOTS} for a pod]",
)
@click.option("--write", "path", type=click.Path(path_type=Path), metavar="FILE", help="Replace FILE, by rename.")
@with_config("dns_listen", "zone", "cluster_domain")
def dns_config(
    loaded: Loaded, namespace: str | None, servers: tuple[str, ...], ndots: int | None, path: Path | None
) -> int:
    """Print the resolv.conf that leads names to this minion's DNS (docs/dns.md says what ndots costs)."""
    asked = tuple(map(_address, servers)) or tuple(own_addresses(loaded.config))
    text = "".join(f"{line}\n" for line in content(loaded.config, asked, namespace, ndots))
    if path is None:
        click.echo(text, nl=False)
    else:
        replace(path, text)
    return 0


def content(config: Config, servers: tuple[str, ...], namespace: str | None, ndots: int | None) -> Iterator[str]:
    """Yield the lines (resolv.conf(5)). `namespace` None: of a host."""
    if len(servers) > MOST_SERVERS:
        raise click.UsageError(f"{len(servers)} servers, expected at most {MOST_SERVERS}: resolvers read no more")
    yield from (f"nameserver {server}" for server in servers)
    if namespace is None:
        search = config.zone
    else:
        domain = config.cluster_domain
        search = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)
    yield f"search {' '.join(search)}"
    default = HOST_NDOTS if namespace is None else POD_NDOTS
    yield f"options ndots:{default if ndots is None else ndots}"


def own_addresses(config: Config) -> Iterator[str]:
    """Yield where this minion's DNS is asked on port 53, the only one that a resolver knows."""
    found = dict.fromkeys(LOOPBACK.get(one.host, one.host) for one in config.dns_listen if one.port == DNS_PORT)
    if not found:
        said = ",".join(map(str, config.dns_listen)) or "off"
        raise click.UsageError(f"--dns-listen is {said}, expected an address with port {DNS_PORT}, or --server ADDR")
    yield from found


def replace(path: Path, text: str) -> None:
    """Put a file in place of another at once. SvcnetError."""
    fresh = ""
    try:
        handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), READABLE)
        Path(fresh).replace(path)
    except OSError as error:
        if fresh:
            with suppress(OSError):
                Path(fresh).unlink()
        raise SvcnetError(f"{path}: {error.strerror or error}") from error


def _address(text: str) -> str:
    from ipaddress import ip_address  # noqa: PLC0415 - mostly there is none

    try:
        return str(ip_address(text))
    except ValueError:
        raise click.BadParameter(f"{text!r}, expected an IP address", param_hint="--server") from None
