"""Whether virtual IPs would hide something that the machine already reaches (contract, `--service-cidr`).

Owns: the comparison, and the reading of addresses, routes and name servers that it needs. Must not change anything, and
must not know what virtual IPs are used for.
"""

import subprocess
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from svcnet.model.errors import KernelError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

OWN_PROTOCOL = 115
"""rtm_protocol of the routes that svcnet makes (contract, Names in the kernel): unassigned in iproute2's rt_protos."""

RESOLV_CONF = Path("/etc/resolv.conf")

_ADDRESS_ROUTES = frozenset({"local", "broadcast", "anycast", "multicast"})
"""Types of the routes that the kernel makes for each address; the address is reported instead."""


class MachineAddress(NamedTuple):
    """An address of an interface."""

    ip: Address
    interface: str


class Route(NamedTuple):
    """A route: its destination, its gateways (none for a connected network), where it leads."""

    destination: Network
    gateways: tuple[Address, ...] = ()
    interface: str = ""


class Machine(NamedTuple):
    """What the machine reaches today, without what svcnet made itself."""

    addresses: tuple[MachineAddress, ...]
    routes: tuple[Route, ...]
    name_servers: tuple[Address, ...]


def check(
    service_cidrs: Iterable[Network],
    addresses: Iterable[MachineAddress],
    routes: Iterable[Route],
    name_servers: Iterable[Address],
    cluster_cidrs: Iterable[Network],
) -> list[str]:
    """Return one sentence for each clash, naming both sides; none is good. Each thing is named once."""
    taken: dict[str, Network] = {f"{network} of --cluster-cidr": network for network in cluster_cidrs}
    taken |= {f"the machine's address {a.ip} ({a.interface})": ip_network(a.ip) for a in addresses}
    for route in routes:
        device = f" dev {route.interface}" if route.interface else ""
        if route.destination.prefixlen:
            taken[f"the route {route.destination}{device}"] = route.destination
        taken |= {f"the gateway {gateway}{device}": ip_network(gateway) for gateway in route.gateways}
    taken |= {f"the name server {server} of {RESOLV_CONF}": ip_network(server) for server in name_servers}
    return [
        f"--service-cidr {service} overlaps {what}"
        for service in service_cidrs
        for what, network in taken.items()
        if service.version == network.version and service.overlaps(network)
    ]


def check_external(service_cidrs: Iterable[Network], external_ips: Iterable[Network]) -> list[str]:
    """What records may claim as external addresses though virtual IPs come from it; who allows all (/0) means it."""
    wanted = [network for network in external_ips if network.prefixlen]
    return [
        f"--service-cidr {service} overlaps {network} of --external-ips: a record may claim a virtual IP that is free"
        for service in service_cidrs
        for network in wanted
        if service.version == network.version and service.overlaps(network)
    ]


def parse_addresses(text: bytes) -> tuple[MachineAddress, ...]:
    """Read `ip -j addr`."""
    return tuple(
        MachineAddress(ip_address(info["local"]), link.get("ifname", ""))
        for link in _decode(text)
        for info in link.get("addr_info", ())
        if "local" in info
    )


def parse_routes(text: bytes, family: int) -> tuple[Route, ...]:
    """Read `ip -j -4|-6 route show table all`, leaving out our own routes and those that only restate an address."""
    return tuple(_route(row, family) for row in _decode(text) if not _restates(row))


def parse_name_servers(text: str) -> tuple[Address, ...]:
    """Read the `nameserver` lines of resolv.conf(5); what is no address is passed over, as the resolver does."""
    servers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                servers.append(ip_address(words[1].partition("%")[0]))
            except ValueError:
                continue
    return tuple(servers)


def parse_search_domains(text: str) -> tuple[str, ...]:
    """Read the last `search` or `domain` line of resolv.conf(5): lower case, no dot at the end; the root is none."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] in {"search", "domain"}:
            found = words[1:]
    return tuple(domain for word in found if (domain := word.lower().removesuffix(".")))


def read_machine(resolv_conf: Path = RESOLV_CONF) -> Machine:
    """Ask `ip` for this network namespace. KernelError when it can't be asked."""
    routes = tuple(
        route for family in (4, 6) for route in parse_routes(_ip(f"-{family}", "route", "show", "table", "all"), family)
    )
    try:
        servers = parse_name_servers(resolv_conf.read_text(errors="replace"))
    except OSError:
        servers = ()  # no file: the resolver asks 127.0.0.1 then
    return Machine(read_addresses(), routes, servers)


def read_addresses() -> tuple[MachineAddress, ...]:
    """Ask `ip` for the addresses alone. KernelError."""
    return parse_addresses(_ip("addr", "show"))


def _ip(*arguments: str) -> bytes:
    command = ("ip", "-j", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise KernelError(f"ip: {error.strerror}, expected iproute2 (Debian package iproute2)") from error
    if done.returncode:
        raise KernelError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _decode(text: bytes) -> list[dict[str, Any]]:
    # Older iproute2 prints nothing for an empty list, and `{}` for a link that a filter leaves out.
    rows: list[dict[str, Any]] = msgspec.json.decode(text) if text.strip() else []
    return [row for row in rows if row]


def _restates(row: dict[str, Any]) -> bool:
    protocol = row.get("protocol", "")
    return protocol == str(OWN_PROTOCOL) or (protocol == "kernel" and row.get("type", "unicast") in _ADDRESS_ROUTES)


def _route(row: dict[str, Any], family: int) -> Route:
    destination = row.get("dst", "default")
    if destination == "default":
        destination = "0.0.0.0/0" if family == 4 else "::/0"
    hops = (row, *row.get("nexthops", ()))
    texts = [hop.get("gateway") or hop.get("via", {}).get("host") for hop in hops]
    devices = dict.fromkeys(hop["dev"] for hop in hops if hop.get("dev"))
    return Route(
        ip_network(destination, strict=False),
        tuple(ip_address(text.partition("%")[0]) for text in texts if text),
        ", ".join(devices),
    )
