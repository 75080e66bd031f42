"""One message from a client → a question, or the refusal that it earns. Pure.

Owns: what counts as a well-formed query, its EDNS options (RFC 6891), and the header of every reply. Must not know what
the answer is.
"""

from typing import NamedTuple

from svcnet.dns import name
from svcnet.dns.answer import FORMERR, HEADER_BYTES, NOTIMP
from svcnet.dns.edns import OPT, read

QR, OPCODE, AA, TC, RD, RA, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
RCODE = 0x000F
NXNAME = 128
"""No type to ask for (RFC 9824)."""
DO = 0x8000
BADVERS_HIGH = 1
"""Upper bits of the extended code 16 (RFC 6891 §9); the lower are 0."""
PLAIN_BYTES, UDP_BYTES = 512, 1232
"""What a client takes that doesn't say; the most that we send by UDP (DNS flag day 2020)."""
STREAM_BYTES = 65535
IXFR, AXFR = 251, 252
META_TYPES = range(249, 255)
"""TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: no data of a name (RFC 6895 §3.1)."""


class Query(NamedTuple):
    """One question. `question`: name, type, class as they came; `name`: lower case."""

    id: bytes
    flags: int
    question: bytes
    name: bytes
    type: int
    klass: int
    limit: int
    edns: bool = False
    wants_dnssec: bool = False
    serial: int | None = None
    """IXFR: what the client has."""


class Malformed(Exception):  # noqa: N818 (it says what the message is, not that we failed)
    """A message without an answer; `reply` is what goes back, None: nothing does."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("malformed query")
        self.reply = reply


def parse(packet: bytes, stream: bool) -> Query:
    """Read a message. `stream`: it came by TCP, where a reply may be as long as it wants to. Malformed."""
    if len(packet) < HEADER_BYTES or packet[2] & 0x80:
        raise Malformed(None)  # a reply to a reply would never end
    flags = int.from_bytes(packet[2:4])
    if flags & OPCODE:
        raise Malformed(error(packet, NOTIMP))
    if flags & (TC | RCODE) or packet[4:8] != b"\0\1\0\0":  # what is cut short, or failed, is no question
        raise Malformed(error(packet, FORMERR))
    try:
        end = name.end_of(packet, HEADER_BYTES) + 4
    except ValueError:
        raise Malformed(error(packet, FORMERR)) from None
    question = packet[HEADER_BYTES:end]
    kind = int.from_bytes(packet[end - 4 : end - 2])
    if end > len(packet) or kind in {0, OPT, NXNAME}:
        raise Malformed(error(packet, FORMERR))
    limit = STREAM_BYTES if stream else PLAIN_BYTES
    klass = int.from_bytes(packet[end - 2 : end])
    query = Query(packet[:2], flags, question, question[:-4].lower(), kind, klass, limit)
    if kind == IXFR or packet[8:10] != b"\0\0":
        query, end = _with_serial(packet, query, end)
    if packet[10:12] == b"\0\0":
        if len(packet) != end:
            raise Malformed(error(packet, FORMERR))
        return query
    return _with_extra(packet, query, end, stream)


def error(packet: bytes, rcode: int) -> bytes:
    """Return a reply that holds nothing but a header."""
    flags = QR | int.from_bytes(packet[2:4]) & (OPCODE | RD) | rcode
    return packet[:2] + flags.to_bytes(2) + bytes(8)


def opt(query: Query, extended: int = 0) -> bytes:
    """Return the OPT record of a reply."""
    flags = DO if query.wants_dnssec else 0
    return b"\0\0\x29" + UDP_BYTES.to_bytes(2) + bytes((extended, 0)) + flags.to_bytes(2) + b"\0\0"


def refusal(query: Query, rcode: int, extended: int = 0, flags: int = 0) -> bytes:
    """Return a reply with the question and no data. `flags`: AA, TC, RA."""
    head = QR | query.flags & (RD | CD) | flags | rcode
    counts = b"\0\1\0\0\0\0\0\1" if query.edns else b"\0\1\0\0\0\0\0\0"
    return query.id + head.to_bytes(2) + counts + query.question + (opt(query, extended) if query.edns else b"")


def _with_serial(packet: bytes, query: Query, at: int) -> tuple[Query, int]:
    """Read the authority section: IXFR has the SOA that the client holds (RFC 1995 §3), nobody else anything."""
    try:
        owner, at = name.read(packet, at)
        fixed, at = packet[at : at + 10], at + 10
        end = at + int.from_bytes(fixed[8:])
        for _ in range(2):
            _, at = name.read(packet, at)
    except ValueError:
        raise Malformed(error(packet, FORMERR)) from None
    sound = packet[8:10] == b"\0\1" and fixed[:4] == b"\0\6\0\1" and owner == query.name
    if query.type != IXFR or not sound or end != at + 20 or end > len(packet):
        raise Malformed(error(packet, FORMERR))
    return query._replace(serial=int.from_bytes(packet[at : at + 4])), end


def _with_extra(packet: bytes, query: Query, at: int, stream: bool) -> Query:
    """Read the additional section: one OPT. Nobody sends a server anything else that it would understand."""
    found = read(packet, at)
    if found is None:
        raise Malformed(error(packet, FORMERR))
    limit = query.limit if stream else min(max(found.payload, PLAIN_BYTES), UDP_BYTES)
    query = query._replace(limit=limit, edns=True, wants_dnssec=found.dnssec)
    if found.version:
        raise Malformed(refusal(query, 0, BADVERS_HIGH))
    if packet[10:12] != b"\0\1" or not found.sound:
        raise Malformed(refusal(query, FORMERR))  # with an OPT, or we would seem not to know it (RFC 6891 §7)
    return query
