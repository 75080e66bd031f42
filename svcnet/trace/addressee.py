"""Whose address a packet goes to, by the records. Pure.

Owns: the kinds of addresses. What then happens to the packet, expectation.py says.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from svcnet.endpoints import Network, Networks
from svcnet.iptables.desired import Minion
from svcnet.iptables.tracer import Packet
from svcnet.model.snapshot import PortKey, ServedPort, Snapshot
from svcnet.tracker import NODE_PORT


class Kind(Enum):
    """What an address and port are, in the words of the records."""

    VIRTUAL_IP = "virtual IP"
    NODE_PORT = "node port"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load-balancer address"
    UNDEFINED_PORT = "undefined port of a virtual IP"
    OUTSIDE_PORT = "undefined port of an external address"
    UNALLOCATED = "unallocated address of the service CIDR"
    NOT_OURS = "not ours"


class Addressee(NamedTuple):
    """`port` is the service port that answers there, if any; `remark` is what else is worth to know."""

    kind: Kind
    port: ServedPort | None = None
    remark: str = ""

    def __str__(self) -> str:
        """As in a sentence."""
        key = self.port.key if self.port else None
        whose = f" of {key.namespace}/{key.service}, port {key.port}/{key.protocol.lower()}" if key else ""
        name = f" ({self.port.name})" if self.port and self.port.name else ""
        return f"{self.kind.value}{whose}{name}" + (f"; {self.remark}" if self.remark else "")


def addressee(packet: Packet, snapshot: Snapshot, minion: Minion, service_cidrs: Iterable[Network]) -> Addressee:
    """Find out. Of several claims on an address the tracker has let one through: that one."""
    protocol, address = packet.protocol.upper(), packet.destination
    holder = snapshot.by_address.get((address, protocol, packet.port))
    if holder is not None:
        return _known(snapshot.ports[holder], address)
    node_port = snapshot.by_address.get((NODE_PORT[packet.family], protocol, packet.port))
    if node_port is not None and address in minion.addresses:
        return Addressee(Kind.NODE_PORT, snapshot.ports[node_port])
    same = sorted((proto.lower(), port, key) for (a, proto, port), key in snapshot.by_address.items() if a == address)
    if same:
        return _undefined(snapshot, address, same)
    if Networks(service_cidrs).holding(address) is not None:
        return Addressee(Kind.UNALLOCATED)
    if node_port is None:
        return Addressee(Kind.NOT_OURS)
    there = ", ".join(a for a in minion.addresses if (":" in a) == (packet.family == 6)) or "no address"
    remark = f"node port {packet.port} of {node_port.namespace}/{node_port.service} answers on {there}"
    return Addressee(Kind.NOT_OURS, remark=f"{remark} (--nodeport-addresses)")


def _known(port: ServedPort, address: str) -> Addressee:
    kind = Kind.VIRTUAL_IP
    if address != port.virtual_ip:
        kind = Kind.EXTERNAL_IP if address in port.policy.external_ips else Kind.LOAD_BALANCER
    elsewhere = (
        "label service.kubernetes.io/service-proxy-name: another proxy serves it" if port.policy.elsewhere else ""
    )
    return Addressee(kind, port, elsewhere)


def _undefined(snapshot: Snapshot, address: str, same: list[tuple[str, int, PortKey]]) -> Addressee:
    defined = ", ".join(f"{port}/{protocol}" for protocol, port, _ in same)
    key = same[0][2]
    remark = f"{key.namespace}/{key.service} defines {defined}"
    served = [port for *_, k in same if not (port := snapshot.ports[k]).policy.elsewhere]
    if not served:
        return Addressee(Kind.NOT_OURS, remark=remark)
    virtual = any(port.virtual_ip == address for port in served)
    return Addressee(Kind.UNDEFINED_PORT if virtual else Kind.OUTSIDE_PORT, remark=remark)
