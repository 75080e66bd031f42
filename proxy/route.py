"""The local route that makes every address of the service CIDR one of this machine's.

Owns: the routes with our protocol number in table local. Must not know which addresses are used.
"""

import socket
import subprocess
from collections.abc import Container, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec

from svcnet.model.errors import KernelError, NotPermittedError

Network = IPv4Network | IPv6Network

OWN_PROTOCOL = 115
"""rtm_protocol of our routes (contract, Names in the kernel; svcnet/overlap.py passes over them)."""
_CAP_NET_ADMIN = 12


def ours(version: int) -> list[str]:
    """Our routes' destinations, of one family. KernelError."""
    text = _ip("-j", f"-{version}", "route", "show", "table", "local", "proto", str(OWN_PROTOCOL))
    rows: list[dict[str, Any]] = msgspec.json.decode(text) if text.strip() else []
    return [row["dst"] for row in rows if "dst" in row]


def add(networks: Iterable[Network]) -> None:
    """Make these local, and no other networks that were ours; single addresses outside of them stay. KernelError."""
    wanted = {network.version: str(network) for network in networks}
    for version in (4, 6):
        there = ours(version)
        mine = wanted.get(version)
        if mine is not None and mine not in there:
            _ip(f"-{version}", "route", "replace", *_route(mine), *_source(mine))
        for other in there:
            if other != mine and ("/" in other or (mine is not None and ip_address(other) in ip_network(mine))):
                _ip(f"-{version}", "route", "del", *_route(other))


def addresses(networks: Iterable[Network]) -> frozenset[str]:
    """The single addresses that are local by routes of ours. KernelError."""
    among = tuple(networks)
    found = (d for version in (4, 6) for d in ours(version) if "/" not in d)
    return frozenset(d for d in found if not any(ip_address(d) in network for network in among))


def change(fresh: Mapping[str, str], stale: Iterable[str]) -> str:
    """Make addresses local (to the source that the minion's own clients shall have, or ""), and others not any more.

    What can't be done is passed over; return what the kernel said to that, or "".
    """
    lines = [" ".join(("route replace", *_route(a), *(("src", s) if s else ()))) for a, s in fresh.items()]
    lines += [" ".join(("route del", *_route(a))) for a in stale]
    if not lines:
        return ""
    # A route's family is its address's, also in a batch.
    try:
        text = "\n".join(lines).encode()
        done = subprocess.run(("ip", "-force", "-batch", "-"), input=text, capture_output=True, check=False)
    except OSError as error:
        return f"ip: {error.strerror}, expected iproute2 (Debian package iproute2)"
    said = done.stderr.decode(errors="replace").strip()
    return (said.splitlines() or [f"ip: exit code {done.returncode}"])[0] if done.returncode else ""


def remove(but: Container[str] = ()) -> bool:
    """Remove all of ours, `but` to these destinations; whether there were any. KernelError."""
    there = [(version, destination) for version in (4, 6) for destination in ours(version) if destination not in but]
    for version, destination in there:
        _ip(f"-{version}", "route", "del", *_route(destination))
    return bool(there)


def is_there(networks: Iterable[Network]) -> bool:
    """Whether addresses of all of these are this machine's. Starts no program."""
    return all(_is_there_6(n) if isinstance(n, IPv6Network) else _is_there_4(n) for n in networks)


def _is_there_4(network: IPv4Network) -> bool:
    """An address that is local by a route may be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(network.network_address + min(1, network.num_addresses - 1)), 0))
        except OSError:
            return False
    return True


def _is_there_6(network: IPv6Network) -> bool:
    """In IPv6 it may not be; but net/ipv6_route (proc(5)) has all routes: destination, length …, device."""
    wanted = f"{network.network_address.packed.hex()} {network.prefixlen:02x} "
    try:
        lines = Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(line.startswith(wanted) and line.endswith(" lo") for line in lines)


def require(networks: Iterable[Network]) -> None:
    """NotPermittedError when `add` would need a privilege that this process lacks."""
    if _is_net_admin():
        return
    missing = [str(n) for n in networks if str(n) not in ours(n.version)]
    if missing:
        raise NotPermittedError(
            f"the local route {', '.join(missing)} needs CAP_NET_ADMIN; as root: "
            + "; ".join(f"ip route add {' '.join(_route(m))}" for m in missing)
        )


def _source(destination: str) -> tuple[str, ...]:
    """`src ADDRESS`: what the minion's own clients used on the way to a virtual IP until now, if there was a way.

    Without it they would take the virtual IP itself as their address: a connection that the rules of another mode
    still translate, while this one takes over, would leave with it and never be answered.
    """
    network = ip_network(destination)
    try:
        text = _ip("-j", "route", "get", str(network.network_address + min(1, network.num_addresses - 1)))
    except KernelError:
        return ()
    rows: list[dict[str, Any]] = msgspec.json.decode(text)
    source = rows[0].get("prefsrc") if rows else None
    return ("src", source) if source and ip_address(source) not in network else ()


def _route(destination: str) -> tuple[str, ...]:
    return ("local", destination, "dev", "lo", "table", "local", "proto", str(OWN_PROTOCOL))


def _is_net_admin() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_NET_ADMIN & 1)
    return False


def _ip(*arguments: str) -> bytes:
    try:
        done = subprocess.run(("ip", *arguments), capture_output=True, check=False)
    except OSError as error:
        raise KernelError(f"ip: {error.strerror}, expected iproute2 (Debian package iproute2)") from error
    if done.returncode:
        raise KernelError(f"ip {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
