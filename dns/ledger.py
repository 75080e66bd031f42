"""What all workers said, added up. Pure.

Owns: the sums of this daemon's DNS, as plain numbers, and which events there are. Must not know how they are shown.
"""

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from svcnet.dns.counts import SECONDS, TYPES, WAYS, Said

if TYPE_CHECKING:
    from collections.abc import Callable

RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH", 16: "BADVERS",
}  # fmt: skip
SIZES = (0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000)
"""Upper bounds of the size of a reply in bytes: those of CoreDNS."""


class Event(NamedTuple):
    """Something that workers count by `Counts.add`, and its labels."""

    what: str
    text: str
    labels: tuple[str, ...] = ()


EVENTS = (
    Event("dropped", "Packets that got no answer, by why.", ("reason",)),
    Event("tcp_connections", "TCP connections taken in."),
    Event("tcp_connections_ended", "TCP connections that had to make room for others."),
    Event("cache_hits", "Other names that were answered from the cache, by whether there was something.", ("type",)),
    Event("cache_misses", "Other names that had to be asked for."),
    Event("cache_served_stale", "Answers past their time, as no server upstream gave one."),
    Event("cache_prefetch", "Names that were asked for again before their time was over."),
    Event("cache_evictions", "Answers that made room for others."),
    Event("query_log_lost", "Lines of the query log that could not be written."),
    Event("forward_requests", "Questions that went to a server upstream, probes too.", ("to",)),
    Event("forward_responses", "What came of them, by code; none: nothing in time.", ("to", "rcode")),
    Event("forward_healthcheck_failures", "Probes of a server that failed.", ("to",)),
    Event("forward_joined", "Questions that joined the same one, which was asked already."),
    Event("forward_failures", "Questions that no server upstream answered well."),
    Event("forward_max_concurrent_rejects", "Questions that were not asked, as too many were."),
    Event("forward_private_addresses", "Answers that were emptied: a private address under a name from outside."),
    Event("forward_loops", "Questions of ours that came back to us."),
)
"""Drops by the kernel, whose receive buffer was full, are told apart (`Ledger.overflow`)."""


class Level(NamedTuple):
    """Something that goes up and down; `largest` of all workers' is told, or else their sum."""

    what: str
    text: str
    largest: bool = False


LEVELS = (
    Level("open_tcp_connections", "TCP connections that are open."),
    Level("ready_answers", "Answers that stand ready."),
    Level("zone_serial", "Serial of the zones.", largest=True),
    Level("cache_entries", "Answers from upstream that are kept."),
    Level("cache_bytes", "What they take."),
    Level("forward_in_flight", "Questions that wait for servers upstream."),
    Level("forward_servers_down", "Servers upstream that give no sign of life.", largest=True),
)

_decoder = msgspec.msgpack.Decoder(Said)


class Ledger:
    """The sums. Workers are numbers; one that ended leaves what it counted."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """(transport, family, type)."""
        self.responses: Counter[str] = Counter()
        self.took = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0
        self.sizes = {transport: [0] * (len(SIZES) + 1) for transport, _ in WAYS}
        """Transport → how many replies had at most each of SIZES, and more."""
        self.bytes = dict.fromkeys(self.sizes, 0)
        self.events: Counter[tuple[str, ...]] = Counter()
        self.starts = 0
        self.overflow: Callable[[], int] = lambda: 0
        """How many packets the kernel dropped, as receive buffers were full."""
        self._pids: dict[int, int] = {}
        self._levels: dict[int, dict[str, float]] = {}

    def hear(self, worker: int, payload: bytes) -> Said:
        """Add what a worker said."""
        said = _decoder.decode(payload)
        for way, kind, rcode, size, number in said.answers:
            transport, family = WAYS[way]
            self.requests[transport, family, TYPES.get(kind, "other")] += number
            self.responses[RCODES.get(rcode, str(rcode))] += number
            self.sizes[transport][bisect_left(SIZES, size)] += number
            self.bytes[transport] += size * number
        self.took = [old + new for old, new in zip(self.took, said.took, strict=True)]
        self.seconds += said.seconds
        for key, number in said.events:
            self.events[key] += number
        self.starts += self._pids.get(worker) != said.pid
        self._pids[worker] = said.pid
        self._levels[worker] = said.levels
        return said

    def level(self, level: Level) -> float:
        """Of all workers that run."""
        values = [levels.get(level.what, 0.0) for levels in self._levels.values()]
        return max(values, default=0.0) if level.largest else sum(values)
