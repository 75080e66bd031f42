"""The kernel's connection table: UDP flows of endpoints that are gone are removed, open TCP connections are counted.

Owns: ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h): a dump that the kernel filters, deletes by tuple.
TCP is left alone: an open connection ends by itself, a UDP flow goes on to a dead address for as long as it is used.
"""

import errno
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from svcnet.endpoints import Networks
from svcnet.iptables.desired import packed
from svcnet.iptables.elements import FAMILY_NUMBERS, PROTOCOL_NUMBERS, unpacked
from svcnet.iptables.netlink import NLM_F_ACK, NetlinkError, Socket, attr, attributes, message, nest
from svcnet.model.frontend import Frontend

CT_GET, CT_DELETE = (1 << 8) + 1, (1 << 8) + 2
TUPLE_ORIG, TUPLE_REPLY, CT_STATUS, CT_PROTO_INFO, CT_ID, CT_FILTER = 1, 2, 3, 4, 12, 25
INFO_TCP, TCP_STATE = 1, 1
DESTINATION_TRANSLATED = 1 << 5  # IPS_DST_NAT, nf_conntrack_common.h
TCP_OVER = {7, 8}
"""TIME_WAIT and CLOSE (enum tcp_conntrack, nf_conntrack_tcp.h): the entry stays for a while, for nobody."""
TUPLE_IP, TUPLE_PROTO = 1, 2
IP_SRC, IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3
FILTER_ORIG, FILTER_REPLY = 1, 2
BY_IP_DST, BY_PROTO, BY_DST_PORT = 1 << 1, 1 << 3, 1 << 5
SWEEP_FROM = 32
"""From this many frontends on, one dump of all UDP flows is cheaper than a filtered one each (0.04 s for 15,000)."""

_PORT = struct.Struct(">H")
Backend = tuple[str, int]


class Flow(NamedTuple):
    """One connection: what the client asked for, who answers, and the attributes that name it to the kernel."""

    front: Frontend
    backend: Backend
    name: bytes


def stale(flow: Flow, wanted: Mapping[Frontend, frozenset[Backend]]) -> bool:
    """Whether a flow to one of the `wanted` frontends leads to none of its endpoints. Flows elsewhere are not ours."""
    keep = wanted.get(flow.front)
    return keep is not None and flow.backend not in keep


class Conntrack:
    """The connection table of this network namespace. Virtual IPs are in `virtual`: nobody else has addresses there."""

    def __init__(self, virtual: Networks) -> None:
        self._virtual = virtual
        self._socket = Socket()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def clean(self, wanted: Mapping[Frontend, frozenset[Backend]]) -> int:
        """Remove the UDP flows of these frontends that lead to none of their endpoints; return how many."""
        udp = {front: keep for front, keep in wanted.items() if front.protocol == "udp"}
        if not udp:
            return 0
        if len(udp) >= SWEEP_FROM:
            flows = [f for family in {f.family for f in udp} for f in self.flows(family, None)]
        else:
            flows = [flow for front in udp for flow in self.flows(front.family, front)]
        return sum(self._delete(flow) for flow in flows if stale(flow, udp))

    def sweep(self, wanted: Mapping[Frontend, frozenset[Backend]]) -> int:
        """Remove the UDP flows to any virtual IP that lead to no endpoint of `wanted`, which is all there is.

        For a start: what became of services while nobody watched, no plan tells.
        """
        flows = [f for family in (4, 6) for f in self.flows(family, None) if self._virtual.holding(f.front.address)]
        return sum(self._delete(f) for f in flows if f.backend not in wanted.get(f.front, ()))

    def flows(self, family: int, front: Frontend | None) -> Iterator[Flow]:
        """UDP flows of a family, of one frontend if given; a table in motion is read as far as it holds still."""
        try:
            for body in self._socket.dump(CT_GET, FAMILY_NUMBERS[family], _filter(front)):
                flow = _flow(family, body)
                if flow is not None and front in {None, flow.front}:
                    yield flow
        except NetlinkError as error:
            if error.code != errno.EINTR:
                raise

    def translated(self) -> int:
        """How many TCP connections to a virtual IP are open that rules have sent to an endpoint."""
        found = 0
        for family in (4, 6):
            for body in self._socket.dump(CT_GET, FAMILY_NUMBERS[family], _filter(None, "tcp")):
                parts = dict(attributes(body))
                if _is_open(parts) and int.from_bytes(parts[CT_STATUS]) & DESTINATION_TRANSLATED:
                    destination = _tuple(family, parts[TUPLE_ORIG])[1]
                    found += bool(self._virtual.holding(unpacked(destination)))
        return found

    def _delete(self, flow: Flow) -> bool:
        try:
            self._socket.request(message(CT_DELETE, NLM_F_ACK, FAMILY_NUMBERS[flow.front.family], flow.name, 1), 1)
        except NetlinkError as error:
            if error.code == errno.ENOENT:  # it timed out meanwhile
                return False
            raise
        return True


def _is_open(parts: Mapping[int, memoryview]) -> bool:
    """Whether an entry of the table is of a TCP connection that is not over."""
    info = dict(attributes(parts.get(CT_PROTO_INFO, b"")))
    tcp = dict(attributes(info.get(INFO_TCP, b"")))
    return TCP_STATE in tcp and tcp[TCP_STATE][0] not in TCP_OVER


def _filter(front: Frontend | None, protocol: str = "udp") -> bytes:
    """Attributes of a dump of one protocol that the kernel filters by original destination; before 5.8 it does not.

    By address for IPv4 alone: asked for an IPv6 address, the kernel (6.18 still) answers with all the others.
    """
    proto, flags, address = attr(PROTO_NUM, bytes([PROTOCOL_NUMBERS[protocol]])), BY_PROTO, b""
    if front is not None:
        proto, flags = proto + attr(PROTO_DST_PORT, _PORT.pack(front.port)), flags | BY_DST_PORT
        if front.family == 4:
            address, flags = nest(TUPLE_IP, attr(IP_DST[4], packed(front.address))), flags | BY_IP_DST
    by = attr(FILTER_ORIG, struct.pack("=I", flags)) + attr(FILTER_REPLY, struct.pack("=I", 0))
    return nest(TUPLE_ORIG, address + nest(TUPLE_PROTO, proto)) + nest(CT_FILTER, by)


def _flow(family: int, body: memoryview) -> Flow | None:
    parts = dict(attributes(body))
    if TUPLE_ORIG not in parts or TUPLE_REPLY not in parts:
        return None
    _, destination, protocol, _, port = _tuple(family, parts[TUPLE_ORIG])
    source, _, _, source_port, _ = _tuple(family, parts[TUPLE_REPLY])
    if protocol != PROTOCOL_NUMBERS["udp"]:
        return None
    name = nest(TUPLE_ORIG, bytes(parts[TUPLE_ORIG])) + (attr(CT_ID, bytes(parts[CT_ID])) if CT_ID in parts else b"")
    return Flow(Frontend(family, unpacked(destination), "udp", port), (unpacked(source), source_port), name)


def _tuple(family: int, data: memoryview) -> tuple[bytes, bytes, int, int, int]:
    """(source, destination, protocol, source port, destination port)."""
    parts = dict(attributes(data))
    ip = dict(attributes(parts[TUPLE_IP]))
    proto = dict(attributes(parts[TUPLE_PROTO]))
    source_port, port = (_PORT.unpack_from(proto[k])[0] if k in proto else 0 for k in (PROTO_SRC_PORT, PROTO_DST_PORT))
    return bytes(ip[IP_SRC[family]]), bytes(ip[IP_DST[family]]), proto[PROTO_NUM][0], source_port, port
