"""NOTIFY: what a secondary is still to be told (RFC 1996). Pure: `now` is seconds of any clock, ids are given.

Owns: when each zone's message goes out, again, and no more; its bytes. Must not know sockets.

Changes of a zone within GATHER_SECONDS are one message. Without an answer it goes again, ever later; a change meanwhile
does not make it earlier, so that a secondary that is away gets few packets. A change that comes between a message and
its answer is told by another one.
"""

from collections.abc import Callable, Iterable

from svcnet.dns.query import AA, QR
from svcnet.dns.records import RR

GATHER_SECONDS = 0.1
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""Until a message goes again, the first time and at last; it doubles in between."""
MOST_TRIES = 10
"""About five minutes."""
OPCODE, NOTIFY = 0x7800, 0x2000


class _Due:
    """One zone. `id`: of the message that waits for an answer; `again`: it changed since that went out."""

    __slots__ = ("again", "at", "id", "left", "pause")

    def __init__(self, at: float) -> None:
        self.at = at
        self.pause = FIRST_SECONDS
        self.left = MOST_TRIES
        self.id: int | None = None
        self.again = False


class Outbox:
    """All zones of one secondary."""

    def __init__(self) -> None:
        self._due: dict[bytes, _Due] = {}

    def changed(self, apexes: Iterable[bytes], now: float) -> None:
        """These zones changed."""
        for apex in apexes:
            due = self._due.get(apex)
            if due is None:
                self._due[apex] = _Due(now + GATHER_SECONDS)
            else:
                due.left = MOST_TRIES
                due.again = due.id is not None

    def take(self, now: float, fresh: Callable[[], int]) -> list[tuple[int, bytes]]:
        """Return (id, apex) of the messages that go out now."""
        found = []
        for apex, due in list(self._due.items()):
            if due.at > now:
                continue
            if not due.left:
                del self._due[apex]
                continue
            due.id, due.again = fresh(), False
            due.at, due.pause = now + due.pause, min(due.pause * 2, LONGEST_SECONDS)
            due.left -= 1
            found.append((due.id, apex))
        return found

    def answered(self, packet: bytes, now: float) -> int | None:
        """Take a reply; return its code, None when it is none to a message that waits. Any code ends the waiting."""
        flags = int.from_bytes(packet[2:4])
        if len(packet) < 12 or flags & (QR | OPCODE) != QR | NOTIFY:
            return None
        ident = int.from_bytes(packet[:2])
        for apex, due in self._due.items():
            if due.id == ident and (packet[4:6] == b"\0\0" or packet[12:].lower().startswith(apex)):
                del self._due[apex]
                if due.again:
                    self._due[apex] = _Due(now + GATHER_SECONDS)
                return flags & 0xF
        return None

    def next(self) -> float | None:
        """When to `take` again."""
        return min((due.at for due in self._due.values()), default=None)


def message(ident: int, soa: RR) -> bytes:
    """Return the message that a zone has this SOA now (RFC 1996 §3.7)."""
    head = ident.to_bytes(2) + (NOTIFY | AA).to_bytes(2) + b"\0\1\0\1\0\0\0\0"
    kind = soa.type.to_bytes(2) + b"\0\1"
    return head + soa.owner + kind + b"\xc0\x0c" + kind + soa.ttl.to_bytes(4) + len(soa.data).to_bytes(2) + soa.data
