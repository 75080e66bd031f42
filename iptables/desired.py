"""What the kernel should do, in the terms of no data path: address → treatment. Pure.

Owns: the step from a served port to its frontends. Renderers (nftables, iptables) turn the same rows into their own.
"""

import socket
from collections.abc import Iterable
from ipaddress import ip_network
from math import gcd
from typing import NamedTuple

from svcnet.endpoints import Networks
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.level import Levels
from svcnet.model.policy import Policy
from svcnet.model.snapshot import Endpoint, PortKey, ServedPort
from svcnet.model.terms import USUAL, Terms


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


class Pick(NamedTuple):
    """How one of the targets is chosen for a new connection."""

    kind: str = "random"
    """`random`, `hash` (of the client's address; the same on every minion) or `affinity`."""
    seconds: int = 0
    """affinity: for so long after its last new connection a client stays; 0: for ever."""

    def __str__(self) -> str:
        """The kind, with what belongs to it."""
        return f"affinity {self.seconds} s" if self.kind == "affinity" else self.kind


RANDOM = Pick()


class Treatment(NamedTuple):
    """What happens to connections to a frontend. `owner` is the service port, None for one that is not ours to name.

    The frontends of one owner agree about `targets`, `local` and `pick`: they share what the kernel holds.
    """

    kind: Class
    owner: PortKey | None
    targets: tuple[Target, ...] = ()
    local: tuple[Target, ...] = ()
    """Those of this minion, when one of the owner's frontends is for these alone."""
    pick: Pick = RANDOM
    ranges: tuple[str, ...] = ()
    """Sources that may come in; others are dropped. () is everyone."""
    virtual: bool = True
    """A virtual IP: its undefined ports are refused. False for addresses where others may listen: node ports,
    external and load-balancer addresses."""
    terms: Terms = USUAL
    """What a proxy obeys beyond that; no kernel does."""
    levels: Levels = ()
    """Which of the targets are near, likewise."""

    def __str__(self) -> str:
        """One phrase for plans."""
        chosen = self.local if self.kind in LOCAL else self.targets
        what = ", ".join(map(str, chosen)) if self.kind in SERVING else ""
        parts = [
            "" if self.kind is Class.CLUSTER else self.kind.name.lower().replace("_", " "),
            what,
            f"by {self.pick}" if what and self.pick != RANDOM else "",
            f"from {', '.join(self.ranges)}" if self.ranges else "",
            "through the userspace proxy" if what and self.terms.needs_userspace else "",
        ]
        return f"{' '.join(filter(None, parts))} ({self.owner or 'unknown'})"


Desired = dict[Frontend, Treatment]
PROXIED = frozenset({Class.PROXIED, Class.PROXIED_LOCAL})
"""Kinds that lead to a proxy of this minion. No service asks for one: who has a proxy turns others into them."""
SERVING = frozenset({Class.CLUSTER, Class.INTERNAL_LOCAL, Class.EXTERNAL, Class.EXTERNAL_LOCAL}) | PROXIED
"""Kinds that translate."""
LOCAL = frozenset({Class.INTERNAL_LOCAL, Class.EXTERNAL_LOCAL, Class.PROXIED_LOCAL})
"""Those that lead to `local`; EXTERNAL_LOCAL to all targets for pods and the minion itself."""


class Minion(NamedTuple):
    """The machine as rules see it: its name, and the addresses on which node ports answer now (canonical text)."""

    name: str = ""
    addresses: tuple[str, ...] = ()


def desired(port: ServedPort, minion: Minion) -> Desired:
    """The rows of one served port; its endpoints are sorted, weights come out in lowest terms.

    An endpoint without a node may run here, so it may be a client of itself; one of another minion can't.
    Weight 0 is no target; when all weigh nothing, or there are none, connections are refused. A policy that wants
    targets of this minion where there are only others drops them: another minion will serve that client.
    """
    policy, key = port.policy, port.key
    if policy.elsewhere:
        return {}
    targets, local = _targets(port.endpoints, minion), _targets(port.local, minion)
    protocol = key.protocol.lower()
    inside = _kind(Class.INTERNAL_LOCAL if policy.internal_local else Class.CLUSTER, targets, local)
    inner = Treatment(inside, key, targets, local, _pick(policy), terms=policy.terms, levels=port.levels)
    outside = _kind(Class.EXTERNAL_LOCAL if policy.external_local else Class.EXTERNAL, targets, local)
    outer = inner._replace(kind=outside, virtual=False)
    found: Desired = {}
    if port.node_port:
        for address in minion.addresses:
            if (":" in address) == (key.family == 6):
                found[Frontend(key.family, address, protocol, port.node_port)] = outer
    for address in policy.load_balancer_ips:
        ranges = _ranges(policy.source_ranges, address, minion)
        found[Frontend(key.family, address, protocol, key.port)] = outer._replace(ranges=ranges)
    for address in policy.external_ips:
        found[Frontend(key.family, address, protocol, key.port)] = outer
    if port.virtual_ip:
        found[Frontend(key.family, port.virtual_ip, protocol, key.port)] = inner
    return found


def _targets(endpoints: tuple[Endpoint, ...], minion: Minion) -> tuple[Target, ...]:
    weights = gcd(*(e.weight for e in endpoints)) or 1
    return tuple(
        Target(e.address, e.port, e.weight // weights, hairpin=e.node in {"", minion.name})
        for e in endpoints
        if e.weight > 0
    )


def _kind(wanted: Class, targets: tuple[Target, ...], local: tuple[Target, ...]) -> Class:
    if not targets:
        return Class.REFUSE
    # EXTERNAL_LOCAL without local targets still serves pods and the minion itself.
    return Class.DROP if wanted is Class.INTERNAL_LOCAL and not local else wanted


def _pick(policy: Policy) -> Pick:
    if policy.affinity is not None:
        return Pick("affinity", policy.affinity)
    return Pick("hash") if policy.source_hash else RANDOM


def _ranges(ranges: tuple[str, ...], address: str, minion: Minion) -> tuple[str, ...]:
    """A minion that may come in may come by the balancer's own address too, which is its source if it has it."""
    networks = Networks(ip_network(r, strict=False) for r in ranges)
    mine = any(networks.holding(a) for a in minion.addresses if (":" in a) == (":" in address))
    return (*ranges, f"{address}/{128 if ':' in address else 32}") if ranges and mine else ranges


def rows(ports: Iterable[ServedPort], minion: Minion) -> Desired:
    """The rows of many served ports."""
    found: Desired = {}
    for port in ports:
        found.update(desired(port, minion))
    return found


def packed(address: str) -> bytes:
    """An address as 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
