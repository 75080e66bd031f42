"""`svcnet resolve`: what a name leads to, from the records, or as a server says.

Owns: the command and how answers are shown. Names are svcnet.dns': the same code as the daemon's, on the same records.
"""

import secrets
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from svcnet.cli import candidate
from svcnet.cli.context import open_store
from svcnet.cli.get import report
from svcnet.cli.option import STORE, with_config
from svcnet.config import Config, Loaded
from svcnet.model.errors import SvcnetError
from svcnet.option_kind import DNS_LISTEN, Listen

if TYPE_CHECKING:
    from svcnet.dns.responder import Responder

WHAT_IS_SERVED = (
    "zone",
    "cluster_domain",
    "dns_ttl",
    "dns_namespaces",
    "dns_namespace_labels",
    "dns_labels",
    "dns_endpoints",
    "dns_endpoint_pod_names",
    "dns_empty_services",
    "dns_pods",
)
KINDS = ("A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "SOA", "NS")
USUAL = ("A", "AAAA")
SERVER_SECONDS = 5.0
NXDOMAIN, REFUSED = 3, 5
RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


class Reply(NamedTuple):
    """What one question came to: its records as lines, and the code."""

    lines: tuple[str, ...]
    rcode: int


def server_address(_: click.Context, __: click.Parameter, given: str | None) -> Listen | None:
    """Parse `--at-server`."""
    if given is None:
        return None
    try:
        (found,) = DNS_LISTEN.parse(given)
    except ValueError:
        raise click.BadParameter(f"{given!r}, expected ADDR[:PORT]") from None
    return Listen(*found)


@click.command()
@click.argument("name")
@click.option("-t", "--type", "kind", type=click.Choice(KINDS, case_sensitive=False), help="Record type. [A and AAAA]")
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    metavar="NS",
    shell_complete=candidate.namespaces,
    help="Where short names are.",
)
@click.option(
    "--at-server", metavar="ADDR[:PORT]", callback=server_address, help="Ask a DNS server instead of the records."
)
@with_config(*STORE, *WHAT_IS_SERVED, "cluster_cidr", "endpoint_deny")
def resolve(loaded: Loaded, name: str, kind: str | None, namespace: str, at_server: Listen | None) -> int:
    """Print the records of NAME: tomcat, tomcat.default, tomcat.svc, _http._tcp.tomcat.svc, or an address."""
    kinds = (kind.upper(),) if kind else USUAL
    address = _reverse(name)
    if address:
        kinds = (kind.upper(),) if kind else ("PTR",)
    ask = AtServer(at_server) if at_server else FromRecords(loaded.config)
    names = [address] if address else list(candidates(name, namespace, loaded.config))
    rcodes: list[int] = []
    for wanted in names:
        replies = [ask(wanted, one) for one in kinds]
        found = list(dict.fromkeys(line for reply in replies for line in reply.lines))
        if found:
            click.echo("\n".join(found))
            return 0
        rcodes += [reply.rcode for reply in replies]
    wrong = [code for code in rcodes if code not in ({0, NXDOMAIN} if at_server else {0, NXDOMAIN, REFUSED})]
    if wrong:
        what = RCODES.get(wrong[0], str(wrong[0]))
    elif not all(rcodes):
        what = f"no {' or '.join(kinds)} record"
    elif REFUSED in rcodes:  # it may be meant as a name of ours, short of its end, or as a whole one
        what = f"not in our zones ({ours(loaded.config, bool(address))}): ask a server with --at-server ADDR[:PORT]"
    else:
        what = "not found"
    click.echo(f"svcnet: {name}: {what}", err=True)
    return 1


def ours(config: Config, reverse: bool) -> str:
    """The zones that the records answer for, or the networks whose addresses they name."""
    zones = (*config.service_cidr, *config.cluster_cidr) if reverse else (*config.zone, config.cluster_domain)
    return ", ".join(map(str, zones))


def candidates(name: str, namespace: str, config: Config) -> Iterator[str]:
    """Yield the whole names that NAME may stand for, the way a resolver's search list would, ours first."""
    whole = name.removesuffix(".").lower()
    zones = (*config.zone, config.cluster_domain)
    if name.endswith(".") or any(whole == zone or whole.endswith(f".{zone}") for zone in zones):
        yield f"{whole}."
        return
    zone = config.zone[0]
    yield f"{whole}.{namespace}.{zone}."
    yield f"{whole}.{zone}."
    if "." in whole:
        yield f"{whole}."


def _reverse(name: str) -> str:
    """The name that stands for an address, "" when NAME is none."""
    from ipaddress import ip_address  # noqa: PLC0415 - most names are none

    try:
        return f"{ip_address(name).reverse_pointer}."
    except ValueError:
        return ""


class FromRecords:
    """Answers from the store's records."""

    def __init__(self, config: Config) -> None:
        self._responder = _responder(config)

    def __call__(self, name: str, kind: str) -> Reply:
        """Look one question up; a name outside our zones is REFUSED."""
        reply = self._responder.respond(_query(name, kind), stream=True)
        return _read(reply if isinstance(reply, bytes) else b"")


class AtServer:
    """Answers from a server, by TCP: they are never cut."""

    def __init__(self, server: Listen) -> None:
        self._server = server

    def __call__(self, name: str, kind: str) -> Reply:
        """Ask one question. SvcnetError: no answer."""
        query = _query(name, kind)
        try:
            with socket.create_connection(self._server, SERVER_SECONDS) as client, client.makefile("rb") as reader:
                client.sendall(len(query).to_bytes(2) + query)
                reply = reader.read(int.from_bytes(reader.read(2)))
        except OSError as error:
            raise SvcnetError(f"{self._server}: {error.strerror or error}") from error
        if reply[:2] != query[:2]:
            raise SvcnetError(f"{self._server}: closed the connection without an answer")
        return _read(reply)


def _responder(config: Config) -> "Responder":
    from svcnet import feed  # noqa: PLC0415 - not for --at-server
    from svcnet.cli.view import View  # noqa: PLC0415 - as above
    from svcnet.dns.records import Serving  # noqa: PLC0415 - as above
    from svcnet.dns.responder import Responder  # noqa: PLC0415 - as above
    from svcnet.dns.scope import Scope, Wanted  # noqa: PLC0415 - as above
    from svcnet.dns.zone import Shape, Zone  # noqa: PLC0415 - as above
    from svcnet.endpoints import Networks  # noqa: PLC0415 - as above
    from svcnet.model.snapshot import Delta  # noqa: PLC0415 - as above

    listing = open_store(config, remember=False).list()
    report(listing.problems)
    snapshot = View.of(listing, config.endpoint_deny).tracker.snapshot
    scope = Scope(Wanted(config.dns_namespaces, config.dns_namespace_labels, config.dns_labels))
    snapshot, _ = scope.follow(snapshot, Delta(snapshot.rev))
    reverse = (*config.service_cidr, *config.cluster_cidr)
    serving = Serving(config.dns_endpoints, config.dns_empty_services, config.dns_endpoint_pod_names)
    shape = Shape(config.zone, config.cluster_domain, reverse, (), config.dns_ttl, "", serving, config.dns_pods)
    responder = Responder(Zone(shape), Networks(()), recursion=False)
    for frame in feed.whole(snapshot):
        responder.take(frame)
    return responder


def _query(name: str, kind: str) -> bytes:
    from dnslib import DNSQuestion, DNSRecord  # type: ignore[import-untyped]  # noqa: PLC0415 - it has no types

    try:
        question = DNSQuestion(name, _number(kind))
        query = DNSRecord(q=question)
        query.header.id = secrets.randbits(16)
        packed = bytes(query.pack())
    except Exception as error:  # labels that are too long; dnslib has no one error for it
        raise click.UsageError(f"{name!r} is no DNS name") from error
    return packed


def _number(kind: str) -> int:
    from dnslib import QTYPE  # noqa: PLC0415 - as above

    number: int = QTYPE.reverse[kind]
    return number


def _read(reply: bytes) -> Reply:
    from dnslib import DNSRecord  # noqa: PLC0415 - as above

    try:
        record = DNSRecord.parse(reply)
        lines = tuple(" ".join(rr.toZone().split()) for rr in record.rr)
    except Exception as error:  # whatever a parser of foreign bytes raises
        raise SvcnetError("the answer can't be read") from error
    return Reply(lines, record.header.rcode)
