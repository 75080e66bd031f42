"""A question → the bytes of an answer's sections. Pure.

Owns: what is answered (aliases, glue, SOA with a negative answer), and the one writer of records. Must not know
headers, transports or forwarding.

Names are compressed against the question alone, which stands at byte 12 of every answer: so the same bytes serve
whoever asks, and in whatever case.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from svcnet.dns import name
from svcnet.dns.records import AAAA, BARE, CNAME, EXISTS, HINFO, NS, RR, SOA, SRV, A
from svcnet.dns.zone import Node, Zone

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
IN, ANY = 1, 255
HEADER_BYTES = 12
ROTATIONS = 8
"""Orders in which several addresses are given in turn."""
LONGEST_CHAIN = 8
ANY_DATA = b"\x07RFC8482\x00"
POINTER = 0xC0
"""Instead of the length of a label: the rest of the name is elsewhere."""
_FIXED_BYTES = 10
"""Of a record behind its owner: type, class, TTL, length of its data."""


class Answer(NamedTuple):
    """Sections ready to send. `bodies`: the answer section in several orders."""

    rcode: int
    bodies: tuple[bytes, ...] = (b"",)
    answers: int = 0
    authority: bytes = b""
    authorities: int = 0
    extra: bytes = b""
    extras: int = 0
    onward: bytes = b""
    """This name is asked for elsewhere: an alias leads there, or its zone says so of what is not there."""
    names: tuple[bytes, ...] = ()
    """The whole names that it tells of: a change at any of them makes it old."""
    volatile: bool = False
    """It ends with an SOA, whose serial any change makes old."""


def answer(zone: Zone, wanted: bytes, kind: int) -> Answer | None:
    """Answer a question of class IN for a whole, lower-case name; None: the name is in no zone of ours."""
    chain: list[RR] = []
    names: list[bytes] = []
    current = wanted
    while True:
        node = zone.find(current)
        if node is None:
            return _onward(wanted, chain, current, names) if chain else None
        if not zone.loaded:
            return Answer(SERVFAIL)
        names.append(current)
        if node.by:
            names.append(node.by)
        alias = node.rrsets.get(CNAME)
        if alias is None or kind in {CNAME, ANY}:
            break
        if alias[0].data in names or len(chain) == LONGEST_CHAIN:  # a circle is an error (RFC 1034 §3.6.2)
            return Answer(SERVFAIL)
        chain.append(RR(current, CNAME, node.mount.lives(alias[0]), alias[0].data))
        current = alias[0].data
    rrs = _records(node, current, kind)
    if not rrs:
        onward = current if node.mount.onward and not node.exists else b""
        return _negative(zone, wanted, node, chain, names)._replace(onward=onward)
    return _positive(zone, wanted, chain, rrs, names)


def _records(node: Node, owner: bytes, kind: int) -> list[RR]:
    """The records asked for, with whole names. ANY gets one that says that it is not answered (RFC 8482 §4.2).

    That one lives no longer than the name's absence would: a record of ANY is kept as long as any other. Records of one
    type, which two services may share (PTR), have one TTL (RFC 2181 §5.2).
    """
    if kind == ANY:
        return [RR(owner, HINFO, node.mount.ttl, ANY_DATA)] if any(node.rrsets) else []
    if kind == BARE and node.rrsets.keys() == {EXISTS}:
        return [RR(owner, BARE, node.mount.ttl, b"")]
    found = node.rrsets.get(kind, ())
    ttl = min(map(node.mount.lives, found), default=0)
    return [RR(owner, kind, ttl, rr.data, rr.rank) for rr in found]


def _onward(wanted: bytes, chain: list[RR], last: bytes, names: list[bytes]) -> Answer:
    body = _written(chain, wanted)
    return Answer(NOERROR, (body,), len(chain), onward=last, names=tuple(names))


def _negative(zone: Zone, wanted: bytes, node: Node, chain: list[RR], names: list[bytes]) -> Answer:
    soa = _written([zone.soa(node.mount)], wanted)
    rcode = NOERROR if node.exists else NXDOMAIN
    return Answer(rcode, (_written(chain, wanted),), len(chain), soa, 1, names=tuple(names), volatile=True)


def _positive(zone: Zone, wanted: bytes, chain: list[RR], rrs: list[RR], names: list[bytes]) -> Answer:
    head = _written(chain, wanted)
    bodies = tuple(head + body for body in _turns(rrs, wanted))
    glue = list(_glue(zone, rrs, names))
    return Answer(
        NOERROR,
        bodies,
        len(chain) + len(rrs),
        extra=_written(glue, wanted),
        extras=len(glue),
        names=tuple(names),
        volatile=rrs[0].type == SOA,
    )


def _turns(rrs: list[RR], wanted: bytes) -> Iterator[bytes]:
    """The records as written, in each of several orders: nearest first, those that are as near in turn."""
    by_rank: dict[int, list[bytes]] = {}
    rrs = sorted(rrs, key=lambda rr: rr.rank)
    for rr, part in zip(rrs, _each(rrs, wanted), strict=True):
        by_rank.setdefault(rr.rank, []).append(part)
    count = min(max(map(len, by_rank.values())), ROTATIONS)
    for turn in range(count):
        starts = [(group, turn * len(group) // count) for group in by_rank.values()]
        yield b"".join(part for group, start in starts for part in group[start:] + group[:start])


def _glue(zone: Zone, rrs: Iterable[RR], names: list[bytes]) -> dict[RR, None]:
    """The addresses of what SRV and NS records lead to (RFC 2782)."""
    found: dict[RR, None] = {}
    for rr in rrs:
        if rr.type not in {SRV, NS}:
            continue
        target = rr.data[6:] if rr.type == SRV else rr.data
        node = zone.find(target)
        if node is not None:
            names.append(target)
            found |= {one: None for kind in (A, AAAA) for one in _records(node, target, kind)}
    return found


def _written(rrs: Iterable[RR], question: bytes) -> bytes:
    """Records as on the wire, owners compressed against the question (RFC 1035 §4.1.4)."""
    return b"".join(_each(rrs, question))


def _each(rrs: Iterable[RR], question: bytes) -> Iterator[bytes]:
    """Each of these records. Those of one owner often come together, in thousands."""
    owner, packed = question, _QUESTION
    for rr in rrs:
        if rr.owner != owner:
            owner, packed = rr.owner, _packed(rr.owner, question)
        data = rr.data
        yield b"%b%b\0\1%b%b%b" % (packed, rr.type.to_bytes(2), rr.ttl.to_bytes(4), len(data).to_bytes(2), data)


def beginning(body: bytes, room: int) -> tuple[bytes, int]:
    """Return as many of the first records of a body as have room, and how many these are."""
    number, end, at = 0, 0, 0
    while at < len(body):
        while 0 < body[at] < POINTER:
            at += 1 + body[at]
        at += _FIXED_BYTES + (2 if body[at] else 1)
        at += int.from_bytes(body[at - 2 : at])
        if at > room:
            break
        number, end = number + 1, at
    return body[:end], number


def _packed(owner: bytes, question: bytes) -> bytes:
    if owner == question:
        return _QUESTION
    places = {question[at:]: at for at in name.offsets(question)[:-1]}
    for at in name.offsets(owner)[:-1]:
        place = places.get(owner[at:])
        if place is not None:
            return owner[:at] + (POINTER << 8 | HEADER_BYTES + place).to_bytes(2)
    return owner


_QUESTION = (0xC000 | HEADER_BYTES).to_bytes(2)
