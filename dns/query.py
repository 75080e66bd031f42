"""One message from a client → a question, or the refusal that it earns. Pure.

Owns: what counts as a well-formed query, its EDNS options (RFC 6891), and the header of every reply. Must not know what
the answer is. Labels are checked before dnslib reads anything: it accepts types of labels that nobody may use.
"""

from typing import NamedTuple

from svcnet.dns import name
from svcnet.dns.answer import FORMERR, HEADER_BYTES, NOTIMP, SERVFAIL

QR, OPCODE, AA, TC, RD, RA, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPT = 41
DO = 0x8000
BADVERS_HIGH = 1
"""Upper bits of the extended code 16 (RFC 6891 §9); the lower are 0."""
PLAIN_BYTES, UDP_BYTES = 512, 1232
"""What a client takes that doesn't say; the most that we send by UDP (DNS flag day 2020)."""
STREAM_BYTES = 65535
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
    if packet[4:10] != b"\0\1\0\0\0\0":
        raise Malformed(error(packet, FORMERR))
    try:
        end = name.end_of(packet, HEADER_BYTES) + 4
    except ValueError:
        raise Malformed(error(packet, FORMERR)) from None
    question = packet[HEADER_BYTES:end]
    kind = int.from_bytes(packet[end - 4 : end - 2])
    if end > len(packet) or kind in {0, OPT}:
        raise Malformed(error(packet, FORMERR))
    limit = STREAM_BYTES if stream else PLAIN_BYTES
    klass = int.from_bytes(packet[end - 2 : end])
    query = Query(packet[:2], flags, question, question[:-4].lower(), kind, klass, limit)
    if packet[10:12] == b"\0\0":
        if len(packet) != end:
            raise Malformed(error(packet, FORMERR))
        return query
    return _with_extra(packet, query, stream)


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


def _with_extra(packet: bytes, query: Query, stream: bool) -> Query:
    """Read the additional section: at most one OPT; nothing else is understood."""
    # What usual clients send never comes here, so that it is read late; it has no types (docs/adr/0004).
    from dnslib import RR, DNSBuffer, DNSError  # type: ignore[import-untyped]  # noqa: PLC0415

    buffer = DNSBuffer(packet)
    buffer.offset = HEADER_BYTES + len(query.question)
    try:
        records = [RR.parse(buffer) for _ in range(int.from_bytes(packet[10:12]))]
    except (DNSError, ValueError, UnicodeError):
        raise Malformed(error(packet, FORMERR)) from None
    except Exception:  # noqa: BLE001 (whatever a parser of foreign bytes raises: the client gets its answer)
        raise Malformed(error(packet, SERVFAIL)) from None
    found = [rr for rr in records if rr.rtype == OPT]
    if buffer.remaining() or len(found) > 1 or any(rr.rname.label for rr in found):
        raise Malformed(error(packet, FORMERR))
    if not found:
        return query
    one = found[0]
    limit = query.limit if stream else min(max(one.rclass, PLAIN_BYTES), UDP_BYTES)
    query = query._replace(limit=limit, edns=True, wants_dnssec=bool(one.ttl & DO))
    if one.ttl >> 16 & 0xFF:
        raise Malformed(refusal(query, 0, BADVERS_HIGH))
    return query
