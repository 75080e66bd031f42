"""`svcnet dns-config`: the resolv.conf of a host, or of a pod, that leads here.

Owns: its lines, and what nobody could want in them. Must not know what is answered, or how a file is replaced.
"""

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

import click

from svcnet.cli import candidate, resolv_conf
from svcnet.cli.option import with_config
from svcnet.config import Config, Loaded
from svcnet.option_kind import DNS_NAMESPACES, DNS_PORT, NAMES
from svcnet.overlap import RESOLV_CONF, parse_name_servers

HOST_NDOTS, POD_NDOTS = 1, 2
MOST_NDOTS = 15
"""resolv.conf(5): more is taken for 15."""
MOST_SERVERS = 3
"""resolv.conf(5): the others are not read."""
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (to know them)


def namespace_name(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Check `-n`: it becomes part of a line."""
    if given is not None:
        try:
            (given,) = DNS_NAMESPACES.parse(given) or ("all",)
        except ValueError:
            raise click.BadParameter(f"{given!r}, expected the name of a namespace") from None
    return given


def search_domains(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Parse `--search`."""
    try:
        return tuple(domain for text in given for domain in NAMES.parse(text))
    except ValueError as error:
        raise click.BadParameter(f"{error}, expected a DNS name") from None


def addresses(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Parse `--server`."""
    found = []
    for text in given:
        try:
            address = ip_address(text)
        except ValueError:
            raise click.BadParameter(f"{text!r}, expected an IP address") from None
        if address.is_unspecified or address.is_multicast:
            raise click.BadParameter(f"{text!r}, expected an address that somebody has")
        found.append(str(address))
    return tuple(dict.fromkeys(found))


@click.command()
@click.option(
    "-n",
    "--namespace",
    metavar="NS",
    callback=namespace_name,
    shell_complete=candidate.namespaces,
    help="For a pod of NS instead of a host.",
)
@click.option(
    "--server", "servers", multiple=True, metavar="ADDR", callback=addresses, help="Who is asked. [--dns-listen]"
)
@click.option(
    "--search", multiple=True, metavar="NAME", callback=search_domains, help="Also searched, after our own zones."
)
@click.option(
    "--ndots",
    type=click.IntRange(0, MOST_NDOTS),
    help=f"Names with fewer dots are searched first. [{HOST_NDOTS}; {POD_NDOTS} for a pod]",
)
@click.option("--write", "path", type=click.Path(path_type=Path), metavar="FILE", help="Replace FILE, by rename.")
@click.option("--restore", type=click.Path(path_type=Path), metavar="FILE", help="Put back what --write replaced.")
@with_config("dns_listen", "zone", "cluster_domain", "dns_upstream")
def dns_config(
    loaded: Loaded,
    namespace: str | None,
    servers: tuple[str, ...],
    search: tuple[str, ...],
    ndots: int | None,
    path: Path | None,
    restore: Path | None,
) -> int:
    """Print the resolv.conf that leads names to this minion's DNS (docs/dns.md says what ndots costs).

    --write keeps what was there as FILE.before-svcnet, a link as a link.
    """
    if restore is not None:
        if path is not None:
            raise click.UsageError("--write and --restore: expected one of them")
        resolv_conf.restore(restore)
        return 0
    config = loaded.config
    asked = servers or tuple(islice(own_addresses(config, namespace is not None), MOST_SERVERS))
    text = "".join(f"{line}\n" for line in content(config, asked, namespace, search, ndots))
    if path is None:
        click.echo(text, nl=False)
    elif why := circle(config, asked, path):
        raise click.UsageError(why)
    else:
        resolv_conf.write(path, text)
    return 0


def content(
    config: Config, servers: tuple[str, ...], namespace: str | None, search: tuple[str, ...], ndots: int | None
) -> Iterator[str]:
    """Yield the lines (resolv.conf(5)). `namespace` None: of a host; `search`: domains besides ours."""
    if len(servers) > MOST_SERVERS:
        raise click.UsageError(f"{len(servers)} servers, expected at most {MOST_SERVERS}: resolvers read no more")
    domain = config.cluster_domain
    own = config.zone if namespace is None else (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)
    default = HOST_NDOTS if namespace is None else POD_NDOTS
    yield f"{resolv_conf.MARK}{'' if namespace is None else f' -n {namespace}'}"
    yield from (f"nameserver {server}" for server in servers)
    yield f"search {' '.join(dict.fromkeys((*own, *search)))}"
    yield f"options ndots:{default if ndots is None else ndots}"


def own_addresses(config: Config, pod: bool) -> Iterator[str]:
    """Yield where this minion's DNS is asked on port 53, the only one that a resolver knows.

    A pod has a loopback of its own: only addresses that it can reach count for it.
    """
    there = [one.host for one in config.dns_listen if one.port == DNS_PORT]
    if pod:
        there = [host for host in there if host not in LOOPBACK and not ip_address(host).is_loopback]
    if not there:
        said = ",".join(map(str, config.dns_listen)) or "off"
        wanted = "that a pod reaches, on port" if pod else "with port"
        raise click.UsageError(f"--dns-listen is {said}, expected an address {wanted} {DNS_PORT}, or --server ADDR")
    yield from dict.fromkeys(LOOPBACK.get(host, host) for host in there)


def circle(config: Config, asked: tuple[str, ...], path: Path) -> str:
    """Return why a file can't lead here: the daemon itself finds in it where other names go. "" when it can."""
    same = path.name == RESOLV_CONF.name and path.parent.resolve() == RESOLV_CONF.parent.resolve()
    if config.dns_upstream is not None or not same:
        return ""
    servers: list[str] = []
    with suppress(OSError):
        servers = [str(one) for one in parse_name_servers(RESOLV_CONF.read_text(errors="replace"))]
    others = ",".join(server for server in servers if server not in asked)
    expected = f"--dns-upstream {others or 'ADDR'}"
    return f"{path} is where --dns-upstream system finds the servers of other names, expected {expected} (or off) first"
