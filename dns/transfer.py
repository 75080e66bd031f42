"""Zones for secondaries: AXFR (RFC 5936) and IXFR (RFC 1995) as streams of messages. Pure.

Owns: who may transfer, which of whole and difference is the answer, and the messages. Must not know sockets.

Every stream is of one serial, whatever changes while it goes out: a long one works on copies of the trees' tables,
which are made once for all streams of that serial, a short one is worked out at once. Each message is made when it is
asked for.
"""

import weakref
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from svcnet.dns.answer import REFUSED, SERVFAIL
from svcnet.dns.contents import Contents, Look, Record
from svcnet.dns.journal import later
from svcnet.dns.query import AA, AXFR, QR, RD, Query, opt, refusal
from svcnet.dns.records import SOA
from svcnet.dns.tree import NOTHING, RRsets, Tree
from svcnet.dns.zone import Zone
from svcnet.endpoints import Networks

NOTAUTH = 9
MESSAGE_BYTES = 1 << 14
"""Of one message: a millisecond's work. Compression reaches no further either (RFC 1035 §4.1.4)."""
SHORT = 300
"""Owners that differ, up to which a difference is worked out at once; and owners of a zone that may fit a datagram."""


class Copies:
    """What the trees hold at the current serial."""

    __slots__ = ("__weakref__", "owners", "serial")

    def __init__(self, zone: Zone) -> None:
        self.serial = zone.serial
        self.owners: dict[Tree, dict[bytes, RRsets]] = {}
        for tree, before in zone.journal.now().items():
            owners = self.owners[tree] = tree.owners.copy()
            for key, rrsets in before.items():
                if rrsets:
                    owners[key] = rrsets
                else:
                    owners.pop(key, None)


class Transfers:
    """Answers those who may transfer from `zone`."""

    def __init__(self, zone: Zone, allowed: Networks) -> None:
        self._zone = zone
        self._allowed = allowed
        self._contents: dict[bytes, Contents] = {}
        self._copies: weakref.ref[Copies] | None = None

    def datagram(self, query: Query, client: str) -> bytes:
        """Return the reply by UDP: all if it fits, else the SOA, which says whether to come by TCP (RFC 1995 §2)."""
        wrong = self._refusal(query, client)
        if wrong is not None:
            return wrong
        if query.type == AXFR:
            return refusal(query, REFUSED)  # not defined by UDP (RFC 5936 §4.2)
        found = self._difference(query)
        if found is None and sum(len(tree.owners) for tree in self._zone.journal.now()) <= SHORT:
            found = self._whole(query.name)
        first = list(islice(messages(query, found), 2)) if found is not None else []
        return first[0] if len(first) == 1 else next(messages(query, (self._soa(query.name),)))

    def stream(self, query: Query, client: str) -> Iterator[bytes]:
        """Return the messages of the reply by TCP, of the serial of now."""
        wrong = self._refusal(query, client)
        if wrong is not None:
            return iter((wrong,))
        found = self._difference(query)
        return messages(query, self._whole(query.name) if found is None else found)

    def _refusal(self, query: Query, client: str) -> bytes | None:
        if self._allowed.holding(client.partition("%")[0]) is None:
            return refusal(query, REFUSED)
        mount = self._zone.mounts.get(query.name)
        if mount is None or mount.apex != query.name:
            return refusal(query, NOTAUTH)
        return None if self._zone.loaded else refusal(query, SERVFAIL)

    def _difference(self, query: Query) -> Iterator[Record] | None:
        """Return what leads from the client's serial to ours, the SOA alone where nothing does; None: not known."""
        zone, soa = self._zone, self._soa(query.name)
        if query.serial is None:
            return None
        if query.serial == zone.serial or later(query.serial, zone.serial):
            return iter((soa,))
        if not later(zone.serial, query.serial):
            return None  # half of all serials away: neither is later (RFC 1982 §3.2), and who asks takes ours for newer
        # A zone that is as it was then needs no step, as many as there may have been.
        past = zone.journal.since(query.serial) if later(zone.changed[query.name], query.serial) else {}
        if past is None:
            return None
        now = self._now() if sum(map(len, past.values())) <= SHORT else _at(self._copied())

        def since(tree: Tree, key: bytes) -> RRsets:
            then = past.get(tree, {}).get(key)
            return now(tree, key) if then is None else then

        removed, added = self._contents_of(query.name).changes(past, since, now)
        records = chain((soa, self._soa(query.name, query.serial)), removed, (soa,), added, (soa,))
        return records if sum(map(len, past.values())) > SHORT else iter(list(records))

    def _whole(self, apex: bytes) -> Iterator[Record]:
        soa = self._soa(apex)
        return chain((soa,), self._contents_of(apex).whole(self._copied().owners), (soa,))

    def _soa(self, apex: bytes, serial: int | None = None) -> Record:
        rr = self._zone.soa(self._zone.mounts[apex], serial)
        return Record(b"", SOA, rr.ttl, rr.data)

    def _contents_of(self, apex: bytes) -> Contents:
        if apex not in self._contents:
            self._contents[apex] = Contents(self._zone, apex)
        return self._contents[apex]

    def _now(self) -> Look:
        """What the trees hold, but for a change that comes in parts and is not whole yet."""
        pending = self._zone.journal.now()

        def look(tree: Tree, key: bytes) -> RRsets:
            then = pending[tree].get(key)
            return tree.owners.get(key, NOTHING) if then is None else then

        return look

    def _copied(self) -> Copies:
        """Return the copies of the current serial: those that another stream still holds, or new ones."""
        held = self._copies() if self._copies else None
        if held is None or held.serial != self._zone.serial:
            held = Copies(self._zone)
            self._copies = weakref.ref(held)
        return held


def messages(query: Query, records: Iterable[Record]) -> Iterator[bytes]:
    """Yield records as replies, each with the question, to whose name all owners are compressed."""
    head = query.id + (QR | AA | query.flags & RD).to_bytes(2) + b"\0\1"
    tail = b"\0\0\0\1" + query.question if query.edns else bytes(4) + query.question
    own_opt = opt(query) if query.edns else b""
    room = min(query.limit, MESSAGE_BYTES) - len(head) - 2 - len(tail) - len(own_opt)
    held: list[bytes] = []
    size = 0
    for owner, kind, ttl, data in records:
        rr = b"%b\xc0\x0c%b\0\1%b%b%b" % (owner, kind.to_bytes(2), ttl.to_bytes(4), len(data).to_bytes(2), data)
        if held and size + len(rr) > room:
            yield b"".join((head, len(held).to_bytes(2), tail, *held, own_opt))
            held, size = [], 0
        held.append(rr)
        size += len(rr)
    yield b"".join((head, len(held).to_bytes(2), tail, *held, own_opt))


def _at(copies: Copies) -> Look:
    def look(tree: Tree, key: bytes) -> RRsets:
        return copies.owners[tree].get(key, NOTHING)

    return look
