"""Replies that are ready: a packet's bytes → the bytes of its reply, both without the id, in a dict. Pure.

Owns: which packets are remembered, which a change makes old, and how an answer becomes the bytes of a reply. A reply is
made when somebody first asks, and then stands until a name changes that it tells of, so that a big zone costs no memory
for what nobody asks. Must not know sockets.

What changes with every revision is no part of what is remembered: the serial of an SOA is put in when the reply goes
out. So a change makes nothing old but what it is about.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from svcnet.dns.answer import HEADER_BYTES, Answer, beginning
from svcnet.dns.counts import Cell, Counts
from svcnet.dns.query import AA, QR, RA, RD, TC, Query, opt

MOST_ANSWERS = 65536
"""Beyond this the oldest go. About 40 MiB."""
MOST_NEGATIVE = 16384
"""Apart, as somebody may ask for random names: those push out only each other."""
MOST_BYTES = 32 << 20
"""Of all replies: one by TCP may have 64 KiB, in as many orders as there are, for every size that a client may name."""
FREED = 40
"""Entries that are freed at a time."""

_PLAIN = b"\0\1\0\0\0\0\0\0"
_WITH_OPT = b"\0\1\0\0\0\0\0\1"
_BEHIND_NAME = {_PLAIN: 4, _WITH_OPT: 15}
"""Bytes behind the name of a query: type and class, and an OPT without options."""
_SERIAL_AT, _SERIAL_END = -20, -16
"""In an SOA, from its end (RFC 1035 §3.3.13)."""


class Ready(msgspec.Struct, gc=False, eq=False):
    """One reply without its id. A struct that no collection looks at: of thousands that are new one takes 1 ms."""

    whole: bytes | None
    """None where it is not always the same: then `next` has it."""
    turns: tuple[bytes, ...]
    cell: Cell
    """Where it is counted when it goes out."""
    names: tuple[bytes, ...]
    """The whole names that it tells of."""
    size: int
    before: bytes
    """Up to the serial, if it holds one; then `after` is what is behind."""
    after: bytes
    turn: int = 0

    def next(self, serial: bytes) -> bytes:
        """Return the reply with this serial; or of several orders the next."""
        if self.whole is not None:
            return self.whole
        if self.before:
            return self.before + serial + self.after
        self.turn = (self.turn + 1) % len(self.turns)
        return self.turns[self.turn]


class Answers:
    """The dict. `get` answers what was asked before; `put` takes what was worked out; `forget` follows changes."""

    def __init__(self, recursion: bool, tally: Counts) -> None:
        self._recursion = recursion
        self._tally = tally
        self._datagrams: dict[bytes, Ready] = {}
        """Packets without their ids, as they come by UDP."""
        self._streams: dict[bytes, Ready] = {}
        self._asked: dict[bytes, bytes | set[bytes]] = {}
        """Whole name → the packets whose replies tell of it."""
        self._order: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self._bytes = 0
        """Of all replies that are remembered."""
        self._over: list[dict[bytes, Any]] = []
        """What was dropped all at once, and takes long to free."""
        self.serial = bytes(4)
        """Of every SOA."""

    def __len__(self) -> int:
        return len(self._datagrams) + len(self._streams)

    def get(self, packet: bytes, stream: bool) -> bytes | None:
        """Return the reply to a packet; None: not asked before."""
        table = self._streams if stream else self._datagrams
        ready = table.get(packet[2:])
        if ready is None:
            return self._respelled(packet, table)
        ready.cell[self._tally.way] += 1
        return packet[:2] + ready.next(self.serial)

    def many(self, packets: Iterable[bytes]) -> list[bytes | None]:
        """Return the replies to datagrams, all without their ids; None: not asked before."""
        find, way, serial = self._datagrams.get, self._tally.way, self.serial
        replies: list[bytes | None] = []
        add = replies.append
        for ready in map(find, packets):
            if ready is None:
                add(None)
            else:
                ready.cell[way] += 1
                add(ready.whole or ready.next(serial))
        return replies

    def put(self, packet: bytes, query: Query, answer: Answer, stream: bool, keep: bool = True) -> bytes:
        """Return the reply with this answer, and remember it (`keep`)."""
        turns = self._replies(query, answer)
        kind = int.from_bytes(query.question[-4:-2])
        cell = self._tally.cell(kind, answer.rcode, 2 + len(turns[0]))
        cut = turns[0][0] & TC >> 8
        behind_soa = 11 if query.edns else 0
        serial_at = len(turns[0]) + _SERIAL_AT - behind_soa if answer.volatile and not cut else 0
        ready = _ready(turns, serial_at, cell, answer.names)
        behind = _BEHIND_NAME.get(packet[4:12], 0)
        if keep and len(packet) == 12 + len(query.name) + behind:
            self._remember(packet[2:12] + query.name + packet[-behind:], ready, answer, stream)
        cell[self._tally.way] += 1
        return query.id + _spelled(ready.next(self.serial), query.question)

    def forget(self, names: Iterable[bytes]) -> None:
        """Drop the replies that tell of these whole names."""
        pop = self._asked.pop
        for name in names:
            keys = pop(name, None)
            if keys is not None:
                for key in (keys,) if isinstance(keys, bytes) else keys:
                    self._drop(key)

    def clear(self) -> None:
        """Drop everything."""
        self._over += (self._datagrams, self._streams, self._asked)
        self._datagrams, self._streams, self._asked = {}, {}, {}
        self._order = (deque(), deque())
        self._bytes = 0

    def tidy(self) -> Iterator[None]:
        """Free what was dropped, in small steps: all of it would hold answers up for milliseconds."""
        while self._over:
            those = self._over[-1]
            for _ in range(min(FREED, len(those))):
                those.popitem()
            if not those:
                self._over.pop()
            yield

    def _respelled(self, packet: bytes, table: dict[bytes, Ready]) -> bytes | None:
        """Return the reply where only the case of the name is new: the question goes back as it came."""
        behind = _BEHIND_NAME.get(packet[4:12])
        if behind is None:
            return None
        name = packet[12:-behind]
        ready = table.get(packet[2:12] + name.lower() + packet[-behind:])
        if ready is None:
            return None
        ready.cell[self._tally.way] += 1
        return packet[:2] + _spelled(ready.next(self.serial), name)

    def _replies(self, query: Query, answer: Answer) -> tuple[bytes, ...]:
        """The whole reply in each order. When it is too long, glue goes first, then, with TC, what has no room.

        What is cut still has records, as RFC 2181 §9 allows: there are clients that never ask by TCP.
        """
        head = QR | AA | answer.rcode | (RA if self._recursion else 0) | query.flags & RD
        own_opt = opt(query) if query.edns else b""
        edns = 1 if own_opt else 0
        question = query.name + query.question[-4:]
        extra, extras = answer.extra, answer.extras
        size = 12 + len(question) + len(answer.bodies[0]) + len(answer.authority) + len(own_opt)
        if size + len(extra) > query.limit:
            extra, extras = b"", 0
        if size > query.limit:
            kept = [
                beginning(body, query.limit - HEADER_BYTES - len(question) - len(own_opt)) for body in answer.bodies
            ]
            begin = (head | TC).to_bytes(2) + b"\0\1"
            end = b"\0\0" + edns.to_bytes(2) + question
            return tuple([begin + number.to_bytes(2) + end + part + own_opt for part, number in kept])
        numbers = (1, answer.answers, answer.authorities, extras + edns)
        begin = head.to_bytes(2) + b"".join(n.to_bytes(2) for n in numbers) + question
        end = answer.authority + extra + own_opt
        return tuple([begin + body + end for body in answer.bodies])

    def _remember(self, key: bytes, ready: Ready, answer: Answer, stream: bool) -> None:
        (self._streams if stream else self._datagrams)[key] = ready
        self._bytes += ready.size
        for name in dict.fromkeys(answer.names):
            keys = self._asked.get(name)
            if keys is None or keys == key:
                self._asked[name] = key
            elif isinstance(keys, bytes):
                self._asked[name] = {keys, key}
            else:
                keys.add(key)
        order, most = self._order[answer.volatile], MOST_NEGATIVE if answer.volatile else MOST_ANSWERS
        order.append(key)
        if len(order) > most:
            self._drop(order.popleft())
        positive = self._order[False]
        while self._bytes > MOST_BYTES and positive:
            self._drop(positive.popleft())

    def _drop(self, key: bytes) -> None:
        """Leave nothing of what was asked so, by UDP or TCP: no name that it told of knows of it either."""
        for ready in (self._datagrams.pop(key, None), self._streams.pop(key, None)):
            if ready is None:
                continue
            self._bytes -= ready.size
            for name in ready.names:
                keys = self._asked.get(name)
                if keys == key:
                    del self._asked[name]
                elif isinstance(keys, set):
                    keys.discard(key)
                    if not keys:
                        del self._asked[name]


def _ready(turns: tuple[bytes, ...], serial_at: int, cell: Cell, names: tuple[bytes, ...]) -> Ready:
    """A reply in these orders; `serial_at`: where the serial is in it, 0 for none."""
    whole = turns[0] if len(turns) == 1 and not serial_at else None
    before, after = (turns[0][:serial_at], turns[0][serial_at + 4 :]) if serial_at else (b"", b"")
    return Ready(whole, turns, cell, names, sum(map(len, turns)), before, after)


def _spelled(reply: bytes, name: bytes) -> bytes:
    """A reply (without its id) with the name, or all of the question, as the client wrote it."""
    return reply if reply.startswith(name, 10) else reply[:10] + name + reply[10 + len(name) :]
