"""The local route that makes every address of the service CIDR one of this machine's.

Owns: the routes with our protocol number in table local. Must not know which addresses are used.
"""

import subprocess
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
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
    """Make these local, and no others that were ours. KernelError."""
    wanted = {network.version: str(network) for network in networks}
    for version in (4, 6):
        there = ours(version)
        mine = wanted.get(version)
        if mine is not None and mine not in there:
            _ip(f"-{version}", "route", "replace", *_route(mine))
        for other in there:
            if other != mine:
                _ip(f"-{version}", "route", "del", *_route(other))


def remove() -> list[str]:
    """Remove all of ours; what there was. KernelError."""
    removed = []
    for version in (4, 6):
        for destination in ours(version):
            _ip(f"-{version}", "route", "del", *_route(destination))
            removed.append(f"local route {destination}")
    return removed


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
