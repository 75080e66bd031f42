"""Translated flows that are open now, with what they carried so far: for those that last.

Owns: one dump of the connection table that the kernel filters. Must not know whose a flow is.
"""

import errno
import struct

from svcnet.iptables.conntrack import CT_GET
from svcnet.iptables.elements import FAMILY_NUMBERS
from svcnet.iptables.flow_events import CTA_STATUS, DELETED, DST_NAT, Event, read_event
from svcnet.iptables.netlink import NetlinkError, Socket, attr

CTA_STATUS_MASK = 26
_TRANSLATED = attr(CTA_STATUS, struct.pack(">I", DST_NAT)) + attr(CTA_STATUS_MASK, struct.pack(">I", DST_NAT))
"""Kernels before 5.15 send all flows; whose frontend nobody has is passed over later."""


def open_flows(least_bytes: int) -> list[Event]:
    """Those of both families that carried at least so much; a table in motion is read as far as it holds still."""
    found: list[Event] = []
    with Socket() as sock:
        # As the event of an end has it before its attributes, so that both are read alike.
        for family in FAMILY_NUMBERS.values():
            head = bytes(4) + bytes([DELETED, DELETED]) + bytes(10) + bytes([family, 0, 0, 0])
            try:
                for body in sock.dump(CT_GET, family, _TRANSLATED):
                    flow = read_event(head + body)
                    if flow is not None and flow.bytes_in + flow.bytes_out >= least_bytes:
                        found.append(flow)
            except NetlinkError as error:
                if error.code != errno.EINTR:
                    raise
    return found
