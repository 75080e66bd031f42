"""A range of addresses or numbers: how much of it can be given out, and in which order it is tried.

Owns: the order. Must not know who holds what.
"""

from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network


def room(cidr: Network) -> int:
    """Usable addresses: not the network address, and for IPv4 not the broadcast address."""
    return max(0, cidr.num_addresses - (2 if cidr.version == 4 else 1))


def band(size: int, share: int, most: int) -> int:
    """How many at the low end are left to people (KEP-3070: a 16th, 16 to 256; KEP-3668: a 32nd, 16 to 128)."""
    return 0 if size <= 16 else min(max(16, size // share), most)


def probe(name: str, size: int, low: int) -> Iterable[int]:
    """Yield every offset once: from a hash of the name round the part above the band, then the band from its end."""
    above = size - low
    if above > 0:
        start = int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) % above
        for step in range(above):
            yield low + (start + step) % above
    yield from range(low - 1, -1, -1)
