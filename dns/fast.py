"""Answers that are ready: the bytes of a reply in a dict, keyed by the question. Pure.

Owns: the short way of a usual query, and which answers a change makes old. An answer is made when somebody first asks,
and then stands until its names change, so that a big zone costs no memory for what nobody asks. Must not know sockets.
"""

from svcnet.dns.answer import Answer
from svcnet.dns.counts import Counts
from svcnet.dns.query import AA, PLAIN_BYTES, QR, RA, RD, STREAM_BYTES, TC, UDP_BYTES, Query, opt

MOST_ANSWERS = 65536
"""Beyond this all are dropped, as somebody is asking for random names. About 40 MiB."""

_PLAIN = b"\0\1\0\0\0\0\0\0"
_WITH_OPT = b"\0\1\0\0\0\0\0\1"
_OPT_BYTES = 11
_OUR_OPT = b"\0\0\x29" + UDP_BYTES.to_bytes(2) + bytes(6)


class Ready:
    """One answer with its header's bytes laid out."""

    __slots__ = ("answer", "bodies", "cells", "counts", "extra", "flags", "short", "tail", "tally", "turn")

    def __init__(self, answer: Answer, recursion: bool, question: bytes, tally: Counts) -> None:
        self.answer = answer
        self.tally = tally
        head = QR | AA | answer.rcode | (RA if recursion else 0)
        self.flags = (head.to_bytes(2), (head | RD).to_bytes(2))
        numbers = b"\0\1" + answer.answers.to_bytes(2) + answer.authorities.to_bytes(2)
        self.counts = tuple(numbers + (answer.extras + edns).to_bytes(2) for edns in (0, 1))
        self.short = tuple(numbers + edns.to_bytes(2) for edns in (0, 1))
        self.bodies = answer.bodies
        self.tail = answer.authority
        self.extra = answer.extra
        self.turn = 0
        size = 12 + len(question) + len(self.bodies[0]) + len(self.tail) + len(self.extra)
        kind = int.from_bytes(question[-4:-2])
        self.cells = tuple(tally.cell(kind, answer.rcode, size + edns) for edns in (0, _OPT_BYTES))
        """Where the whole reply is counted, without and with an OPT."""

    def reply(self, ident: bytes, rd: int, question: bytes, limit: int, own_opt: bytes) -> bytes:
        """Return the whole reply; glue goes first when it is too long, then everything, with TC (RFC 2181 §9)."""
        self.turn = turn = (self.turn + 1) % len(self.bodies)
        body = self.bodies[turn]
        edns = 1 if own_opt else 0
        size = 12 + len(question) + len(body) + len(self.tail) + len(own_opt)
        if size + len(self.extra) <= limit:
            self.cells[edns][self.tally.way] += 1
            return b"%b%b%b%b%b%b%b%b" % (
                ident, self.flags[rd], self.counts[edns], question, body, self.tail, self.extra, own_opt,
            )  # fmt: skip
        if size <= limit:
            reply = b"".join((ident, self.flags[rd], self.short[edns], question, body, self.tail, own_opt))
        else:
            flags = (int.from_bytes(self.flags[rd]) | TC).to_bytes(2)
            reply = b"".join((ident, flags, _WITH_OPT if edns else _PLAIN, question, own_opt))
        self.tally.answered(reply, int.from_bytes(question[-4:-2]))
        return reply


class Answers:
    """The dict. `get` answers usual queries; `put` what was worked out; `forget` after a change."""

    def __init__(self, recursion: bool, tally: Counts) -> None:
        self._recursion = recursion
        self._tally = tally
        self._ready: dict[bytes, Ready] = {}
        self._volatile: set[bytes] = set()
        self._depend: dict[bytes, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._ready)

    def get(self, packet: bytes, stream: bool) -> bytes | None:
        """Return the reply to a packet; None: not a usual query, or not asked before."""
        if packet[2:3] not in _USUAL or packet[3:4] not in _USUAL_LOW:
            return None
        counts = packet[4:12]
        if counts == _PLAIN:
            question, own_opt, limit = packet[12:], b"", PLAIN_BYTES
        elif counts == _WITH_OPT and packet[-11:-8] == b"\0\0\x29" and packet[-6:] == bytes(6):
            question, own_opt = packet[12:-_OPT_BYTES], _OUR_OPT
            limit = min(max(int.from_bytes(packet[-8:-6]), PLAIN_BYTES), UDP_BYTES)
        else:
            return None
        # The name alone is lowered: a type of 65 is the letter A.
        ready = self._ready.get(question[:-4].lower() + question[-4:])
        if ready is None:
            return None
        return ready.reply(packet[:2], packet[2] & 1, question, STREAM_BYTES if stream else limit, own_opt)

    def known(self, query: Query) -> bytes | None:
        """Return the reply to a query that came the long way."""
        ready = self._ready.get(query.name + query.question[-4:])
        return None if ready is None else self._reply(ready, query)

    def put(self, query: Query, answer: Answer, keep: bool = True) -> bytes:
        """Return the reply with this answer, and remember it (`keep`)."""
        ready = Ready(answer, self._recursion, query.question, self._tally)
        if keep:
            self._remember(query.name + query.question[-4:], ready)
        return self._reply(ready, query)

    def _reply(self, ready: Ready, query: Query) -> bytes:
        rd = 1 if query.flags & RD else 0
        return ready.reply(query.id, rd, query.question, query.limit, opt(query) if query.edns else b"")

    def forget(self, touched: set[bytes]) -> None:
        """Drop the answers that looked at these keys of a tree, and all with an SOA if there are any."""
        if not touched:
            return
        for key in self._volatile:
            self._drop(key)
        self._volatile.clear()
        for owner in touched:
            for key in list(self._depend.get(owner, ())):
                self._drop(key)

    def _remember(self, key: bytes, ready: Ready) -> None:
        if len(self._ready) >= MOST_ANSWERS:
            self._ready.clear()
            self._volatile.clear()
            self._depend.clear()
        self._ready[key] = ready
        if ready.answer.volatile:
            self._volatile.add(key)
        for owner in ready.answer.looked_at:
            self._depend.setdefault(owner, set()).add(key)

    def _drop(self, key: bytes) -> None:
        ready = self._ready.pop(key, None)
        for owner in ready.answer.looked_at if ready else ():
            keys = self._depend.get(owner)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._depend[owner]


_USUAL = frozenset({b"\0", b"\1"})
"""QUERY, with or without RD."""
_USUAL_LOW = frozenset({b"\0", b"\x20"})
"""With or without AD, which asks nothing of us (RFC 6840 §5.7)."""
