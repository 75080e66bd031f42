"""A packet → a reply, nothing, or a question for somebody else. Pure: the one function behind UDP and TCP.

Owns: the order in which a query is looked at, and who may ask. Must not know sockets or upstream servers.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from svcnet.dns.answer import IN, REFUSED, SERVFAIL, answer
from svcnet.dns.counts import OTHER_TYPE, Counts
from svcnet.dns.fast import FREED, Answers
from svcnet.dns.query import AXFR, IXFR, META_TYPES, RA, RD, Malformed, Query, parse, refusal
from svcnet.dns.zone import Zone
from svcnet.endpoints import Networks
from svcnet.feed import Change, Whole

FEW = 500
"""Keys of trees: the replies that tell of these are found in less than a millisecond. Beyond it all are forgotten."""


class Ask(NamedTuple):
    """A question that goes on to another server: `name` is what is asked, which an alias of ours may have led to."""

    query: Query
    name: bytes
    alias: bytes = b""
    """The aliases that led there, ready to stand in front of the answer."""
    aliases: int = 0


class Pull(NamedTuple):
    """A zone that somebody wants to transfer (AXFR, IXFR): whether he may, and how, is `transfer`'s."""

    query: Query


class Responder:
    """Answers from `zone`; `recursion`: other names can be asked for elsewhere."""

    def __init__(self, zone: Zone, allowed: Networks, recursion: bool) -> None:
        self.zone = zone
        self.recursion = recursion
        self._allowed = allowed
        self._everyone = allowed.everything
        self.counts = Counts()
        self._answers = Answers(recursion, self.counts)
        self._answers.serial = zone.serial.to_bytes(4)

    def may_ask(self, address: str) -> bool:
        """Whether this client is one of --dns-allow."""
        return self._allowed.holding(address.partition("%")[0]) is not None

    def ready(self, packets: Sequence[bytes]) -> list[bytes | None]:
        """Return the replies to datagrams, all without their ids, as far as anybody may have them at once."""
        return self._answers.many(packets) if self._everyone else [None] * len(packets)

    def take(self, frame: Whole | Change) -> None:
        """Follow the records."""
        for _ in self.taking(frame):
            pass

    def taking(self, frame: Whole | Change) -> Iterator[None]:
        """Do the same, in steps of one service. Answers are those of the revision before until a frame is all there."""
        touched = yield from self.zone.taking(frame)
        self._answers.serial = self.zone.serial.to_bytes(4)
        if len(touched) <= FEW:
            self._answers.forget(self.zone.names(touched))
        else:
            self._answers.clear()
            yield from _freed(touched)
        yield from self._answers.tidy()
        yield from self.zone.journal.tidy()

    def respond(self, packet: bytes, stream: bool, allowed: bool = True) -> bytes | Ask | Pull | None:
        """Return the reply, None when there is none, what to ask elsewhere, or which zone to transfer."""
        if allowed:
            ready = self._answers.get(packet, stream)
            if ready is not None:
                return ready
        try:
            query = parse(packet, stream)
        except Malformed as wrong:
            return self._count(wrong.reply)
        if allowed and query.klass == IN and query.type in {AXFR, IXFR}:
            return Pull(query)
        if not allowed or query.klass != IN or query.type in META_TYPES:
            return self._count(refusal(query, REFUSED), query.type)
        return self._answer(packet, query, stream)

    @property
    def ready_answers(self) -> int:
        """How many stand ready."""
        return len(self._answers)

    def _count(self, reply: bytes | None, kind: int = OTHER_TYPE) -> bytes | None:
        if reply is None:
            self.counts.add("dropped", "no query")
        else:
            self.counts.answered(reply, kind)
        return reply

    def _answer(self, packet: bytes, query: Query, stream: bool) -> bytes | Ask:
        found = answer(self.zone, query.name, query.type)
        if found is None:
            return Ask(query, query.name) if self.recursion and query.flags & RD else self._refuse(query)
        if found.onward and self.recursion and query.flags & RD:
            return Ask(query, found.onward, found.bodies[0], found.answers)
        return self._answers.put(packet, query, found, stream, keep=found.rcode != SERVFAIL and not found.onward)

    def _refuse(self, query: Query) -> bytes:
        reply = refusal(query, REFUSED, flags=RA if self.recursion else 0)
        self.counts.answered(reply, query.type)
        return reply


def _freed(touched: set[bytes]) -> Iterator[None]:
    """Free many in steps: at once it takes a millisecond."""
    while touched:
        for _ in range(min(FREED, len(touched))):
            touched.pop()
        yield
