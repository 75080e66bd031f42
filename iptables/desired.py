"""What the kernel should do, in the terms of no data path: address → treatment. Pure.

Owns: the step from a served port to its frontends. Renderers (nftables, iptables) turn the same rows into their own.
"""

import socket
from collections.abc import Iterable
from math import gcd
from typing import NamedTuple

from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey, ServedPort


class Target(NamedTuple):
    """One endpoint as the kernel sees it. `hairpin`: it may be a client of itself on this minion."""

    address: str
    port: int
    weight: int = 1
    hairpin: bool = False

    def __str__(self) -> str:
        """ADDRESS:PORT, with its weight unless that is 1."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}" + (f"*{self.weight}" if self.weight != 1 else "")


class Treatment(NamedTuple):
    """What happens to connections to a frontend. `owner` is the service port, None for one that is not ours to name."""

    kind: Class
    owner: PortKey | None
    targets: tuple[Target, ...] = ()

    def __str__(self) -> str:
        """One phrase for plans."""
        if self.kind is not Class.CLUSTER:
            return f"{self.kind.name.lower()} ({self.owner or 'unknown'})"
        return f"{', '.join(map(str, self.targets))} ({self.owner or 'unknown'})"


Desired = dict[Frontend, Treatment]


def desired(port: ServedPort, node: str) -> Desired:
    """The rows of one served port on minion `node`; its endpoints are sorted, weights come out in lowest terms.

    An endpoint without a node may run here, so it may be a client of itself; one of another minion can't.
    Weight 0 is no target; when all weigh nothing, or there are none, connections are refused.
    """
    if not port.virtual_ip:
        return {}
    key = port.key
    front = Frontend(key.family, port.virtual_ip, key.protocol.lower(), key.port)
    weights = gcd(*(e.weight for e in port.endpoints)) or 1
    targets = tuple(
        Target(e.address, e.port, e.weight // weights, hairpin=e.node in {"", node})
        for e in port.endpoints
        if e.weight > 0
    )
    return {front: Treatment(Class.CLUSTER if targets else Class.REFUSE, key, targets)}


def rows(ports: Iterable[ServedPort], node: str) -> Desired:
    """The rows of many served ports."""
    found: Desired = {}
    for port in ports:
        found.update(desired(port, node))
    return found


def packed(address: str) -> bytes:
    """An address as 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
