"""What a worker counts, at next to no cost a query. Pure.

Owns: the counters of one worker, and what it tells of them. Must not know names of metrics, sockets or clocks.

A query whose answer is ready costs one addition: its answer knows its cell, a list with a number for each way in. What
is told is the difference to what was told before, so that whoever hears it adds up, over workers that come and go.
"""

from bisect import bisect_left
from collections import Counter

import msgspec

WAYS = (("udp", "1"), ("udp", "2"), ("tcp", "1"), ("tcp", "2"))
"""How a query came: transport, and family of the address as IANA numbers them (1: IPv4, 2: IPv6)."""
OTHER_TYPE = 0
TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
    35: "NAPTR", 43: "DS", 48: "DNSKEY", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 251: "IXFR", 252: "AXFR", 255: "ANY",
}  # fmt: skip
"""Types that are counted by themselves: a client may make any up."""
SECONDS = (0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512,
           1.024, 2.048, 4.096)  # fmt: skip
"""Upper bounds of how long answers took."""
BADVERS = 16

Cell = list[int]


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What a worker tells: numbers since it told last, and levels as they are."""

    answers: tuple[tuple[int, int, int, int, int], ...] = ()
    """(index of WAYS, type, code, bytes, how many)."""
    took: tuple[int, ...] = ()
    """How many answers took at most each of SECONDS, and more."""
    seconds: float = 0.0
    events: tuple[tuple[tuple[str, ...], int], ...] = ()
    """((what, *labels), how often)."""
    levels: dict[str, float] = {}
    loaded: bool = False
    """It answers from records."""
    pid: int = 0
    troubles: tuple[str, ...] = ()
    """What is wrong with servers upstream."""


class Counts:
    """The counters of one worker. Whoever takes a query in sets `way`, the index of WAYS, before it is answered."""

    def __init__(self) -> None:
        self.way = 0
        self._cells: dict[tuple[int, int, int], Cell] = {}
        self._took = [0] * (len(SECONDS) + 1)
        self._seconds = 0.0
        self._events: Counter[tuple[str, ...]] = Counter()

    def cell(self, kind: int, rcode: int, size: int) -> Cell:
        """Return what to add to, at [way], when an answer of this type, code and number of bytes goes out."""
        key = (kind if kind in TYPES else OTHER_TYPE, rcode, size)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = [0] * len(WAYS)
        return found

    def answered(self, reply: bytes, kind: int = OTHER_TYPE, way: int | None = None) -> None:
        """Count a reply that no ready answer gave. `kind`: the type that was asked for."""
        rcode = reply[3] & 0xF
        if not rcode and reply[10:12] == b"\0\1" and reply[-11:-8] == b"\0\0\x29" and reply[-6]:
            rcode = BADVERS
        self.cell(kind, rcode, len(reply))[self.way if way is None else way] += 1

    def took(self, seconds: float, number: int = 1) -> None:
        """Count how long it was from reading queries to their answers being sent; `number` that went together."""
        self._took[bisect_left(SECONDS, seconds)] += number
        self._seconds += seconds * number

    def add(self, what: str, *labels: str, by: int = 1) -> None:
        """Count anything else: a row of `svcnet.dns.ledger.EVENTS`, with as many labels as it has."""
        self._events[what, *labels] += by

    def say(self, levels: dict[str, float], loaded: bool, pid: int, troubles: tuple[str, ...] = ()) -> Said:
        """Return what happened since the last call."""
        answers = tuple(
            (way, *key, number) for key, cell in self._cells.items() for way, number in enumerate(cell) if number
        )
        for cell in self._cells.values():
            cell[:] = [0] * len(WAYS)
        said = Said(
            answers, tuple(self._took), self._seconds, tuple(self._events.items()), levels, loaded, pid, troubles
        )
        self._took = [0] * len(self._took)
        self._seconds = 0.0
        self._events.clear()
        return said
