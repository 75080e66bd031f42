"""Addresses that no name of the public DNS has a reason to lead to (DNS rebinding). Pure.

Owns: which those are, and which names may lead there all the same. Must not know messages.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from svcnet.dns import name

NETWORKS = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "::/127",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
"""IANA's special-purpose registries: this network, private use, shared, loopback, link-local."""
OWN_NAMES = ("localhost", "internal", "home.arpa", "local", "intranet", "private", "corp", "home", "lan")
"""Nobody outside can have a name below these (RFC 6761, RFC 6762 appendix G, RFC 8375, ICANN 2024-07-29)."""
NAT64 = ip_network("64:ff9b::/96")
IPV4_HINT, IPV6_HINT = 4, 6


def is_private(data: bytes) -> bool:
    """Whether the data of an A or AAAA record is such an address, also one dressed up as IPv6; False: it is none."""
    if len(data) not in {4, 16}:
        return False
    address = ip_address(data)
    if isinstance(address, IPv6Address):
        address = _inner(address)
    return any(address in network for network in NETWORKS if network.version == address.version)


def _inner(address: IPv6Address) -> IPv4Address | IPv6Address:
    if address in NAT64:
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour or address


def of_service_binding(data: bytes) -> Iterator[bytes]:
    """Yield the addresses that the data of an HTTPS or SVCB record hints at (RFC 9460 §7.3)."""
    at = 2
    while at < len(data) and data[at]:
        at += data[at] + 1
    at += 1
    while at + 4 <= len(data):
        key, end = int.from_bytes(data[at : at + 2]), at + 4 + int.from_bytes(data[at + 2 : at + 4])
        size = {IPV4_HINT: 4, IPV6_HINT: 16}.get(key)
        if size:
            yield from (data[place : place + size] for place in range(at + 4, min(end, len(data)), size))
        at = end


class Trusted:
    """Names that may lead to private addresses, with all below them; "" is every name."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(map(name.absolute, names))

    def __contains__(self, wanted: bytes) -> bool:
        return any(wanted[at:] in self._names for at in name.offsets(wanted))
