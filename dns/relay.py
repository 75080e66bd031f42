"""A reply from upstream → the reply to our client. Pure.

Owns: the header and OPT of it, the client's spelling of the name, the aliases that led out of our zones, and the
client's limit.
"""

from svcnet.dns.answer import SERVFAIL
from svcnet.dns.query import AA, CD, QR, RA, RD, TC, Query, opt, refusal
from svcnet.dns.records import SOA
from svcnet.dns.reply import AD, Reply
from svcnet.dns.responder import Ask


def relayed(ask: Ask, reply: Reply | None, body: bytes | bytearray) -> bytes:
    """Return what goes to the client: `body` are the sections with TTLs as they are now. None: SERVFAIL."""
    query = ask.query
    if reply is None:
        return refusal(query, SERVFAIL, flags=RA)
    if ask.aliases:
        packet = _with_aliases(ask, reply, body)
        if not packet:
            return refusal(query, SERVFAIL, flags=RA)
    else:
        packet = _head(query, reply) + query.question + body + (opt(query) if query.edns else b"")
    if len(packet) <= query.limit:
        return packet
    return refusal(query, reply.rcode, flags=RA | TC)


def _head(query: Query, reply: Reply) -> bytes:
    flags = QR | RA | query.flags & (RD | CD) | reply.rcode & 0xF
    if reply.authentic and (query.wants_dnssec or query.flags & AD):  # RFC 6840 §5.8
        flags |= AD
    counts = reply.counts
    if query.edns:
        counts = counts[:4] + (int.from_bytes(counts[4:]) + 1).to_bytes(2)
    return query.id + flags.to_bytes(2) + b"\0\1" + counts


def _with_aliases(ask: Ask, reply: Reply, body: bytes | bytearray) -> bytes:
    """Put the aliases in front of the answers; b"" when upstream's packet can't be read.

    An SOA goes along: it says how long it is known that there is nothing (RFC 2308 §2).
    """
    # Aliases that lead elsewhere are rare, so that it is read late; it has no types.
    from dnslib import DNSBuffer, DNSRecord  # type: ignore[import-untyped]  # noqa: PLC0415

    query = ask.query
    try:
        message = bytes(4) + b"\0\1" + reply.counts + ask.name + query.question[-4:] + body
        record = DNSRecord.parse(message)
        answers, soas = record.rr, [rr for rr in record.auth if rr.rtype == SOA]
        head = QR | AA | RA | query.flags & (RD | CD) | reply.rcode & 0xF
        numbers = 1, ask.aliases + len(answers), len(soas), int(query.edns)
        counts = b"".join(number.to_bytes(2) for number in numbers)
        buffer = DNSBuffer(query.id + head.to_bytes(2) + counts + query.question + ask.alias)
        buffer.offset = len(buffer.data)
        for rr in (*answers, *soas):
            rr.pack(buffer)
    except Exception:  # noqa: BLE001 (whatever a parser of foreign bytes raises: SERVFAIL is the answer)
        return b""
    return bytes(buffer.data) + (opt(query) if query.edns else b"")
