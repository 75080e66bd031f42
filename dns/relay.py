"""A reply from upstream → the reply to our client. Pure.

Owns: ids, the client's spelling of the name, the aliases that led out of our zones, and the client's limit.
"""

from svcnet.dns.answer import HEADER_BYTES, SERVFAIL
from svcnet.dns.query import AA, CD, QR, RA, RD, TC, opt, refusal
from svcnet.dns.responder import Ask


def relayed(ask: Ask, reply: bytes | None) -> bytes:
    """Return what goes to the client; without a reply from upstream, SERVFAIL."""
    query = ask.query
    if reply is None:
        return refusal(query, SERVFAIL, flags=RA)
    if ask.aliases:
        reply = _with_aliases(ask, reply)
    elif reply[4:6] == b"\0\0":
        return refusal(query, reply[3] & 0xF, flags=RA)
    else:
        reply = query.id + reply[2:HEADER_BYTES] + query.question + reply[HEADER_BYTES + len(query.question) :]
    if reply and len(reply) <= query.limit:
        return reply
    return refusal(query, SERVFAIL if not reply else reply[3] & 0xF, flags=RA | (TC if reply else 0))


def _with_aliases(ask: Ask, reply: bytes) -> bytes:
    """Put the aliases in front of the answers; b"" when upstream's packet can't be read."""
    # Aliases that lead elsewhere are rare, so that it is read late; it has no types.
    from dnslib import DNSBuffer, DNSRecord  # type: ignore[import-untyped]  # noqa: PLC0415

    query = ask.query
    try:
        answers = DNSRecord.parse(reply).rr
        head = QR | AA | RA | query.flags & (RD | CD) | reply[3] & 0xF
        counts = b"\0\1" + (ask.aliases + len(answers)).to_bytes(2) + b"\0\0" + (b"\0\1" if query.edns else b"\0\0")
        buffer = DNSBuffer(query.id + head.to_bytes(2) + counts + query.question + ask.alias)
        buffer.offset = len(buffer.data)
        for rr in answers:
            rr.pack(buffer)
    except Exception:  # noqa: BLE001 (whatever a parser of foreign bytes raises: SERVFAIL is the answer)
        return b""
    return bytes(buffer.data) + (opt(query) if query.edns else b"")
