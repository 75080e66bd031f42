"""Replies from upstream, kept for their time and in bounded memory. Pure: the time is an argument.

Owns: what is kept, what goes first, and what counts as fresh or stale. Must not know how a reply is fetched.

Two queues, each in order of use: what was asked once, and what was asked again. What must go is taken from the first:
so a flood of names that nobody asks twice pushes out itself alone.
"""

from collections import OrderedDict

from svcnet.dns.reply import Reply

ENTRY_BYTES = 700
"""What Python adds to the bytes of one entry: measured 517 to 601, with 1,000 to 24,000 of them."""
AGAIN_SHARE = 0.8
"""The most that those which were asked again may take."""
STALE_SECONDS = 86400.0
"""How long a reply is of use after its time when no server answers (RFC 8767 §5: 1 to 3 days)."""
PREFETCH_HITS = 3
PREFETCH_SHARE = 0.1
"""A name that was asked so often is fetched anew when so much of its time is left."""

Key = tuple[bytes, bool, bool]
"""Question in lower case, CD, DO."""


class Entry:
    """One reply. Times are those of the loop."""

    __slots__ = ("born", "cost", "hits", "quiet_until", "reply", "stale_until", "until")

    def __init__(self, reply: Reply, now: float, seconds: float, stale_seconds: float, cost: int) -> None:
        self.reply = reply
        self.cost = cost
        self.hits = 0
        self.born = now
        self.until = now + seconds
        self.stale_until = self.until + stale_seconds
        self.quiet_until = 0.0
        """Until then nobody is asked again, as nobody knew (RFC 8767 §5)."""

    def fresh(self, now: float) -> bool:
        """Whether it is within its time."""
        return now < self.until

    def wants_refresh(self, now: float) -> bool:
        """Whether many ask, and its time is nearly over."""
        if self.hits < PREFETCH_HITS or now < self.quiet_until:
            return False
        return self.until - now <= PREFETCH_SHARE * (self.until - self.born)


class Cache:
    """At most `limit` bytes, by the size of what is kept plus ENTRY_BYTES each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._once: OrderedDict[Key, Entry] = OrderedDict()
        self._again: OrderedDict[Key, Entry] = OrderedDict()
        self._again_bytes = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def get(self, key: Key, now: float) -> Entry | None:
        """Return what is kept, fresh or stale, and count it as asked for. O(1)."""
        entry = self.peek(key)
        if entry is None:
            return None
        if now >= entry.stale_until:
            self._remove(key)
            return None
        entry.hits += 1
        if key in self._again:
            self._again.move_to_end(key)
        else:
            self._promote(key)
        return entry

    def peek(self, key: Key) -> Entry | None:
        """Return what is kept without counting it as asked for."""
        return self._again.get(key) or self._once.get(key)

    def put(self, key: Key, reply: Reply, now: float, seconds: float, stale_seconds: float = STALE_SECONDS) -> int:
        """Keep a reply in place of what was kept; return how many had to go. One larger than the cache is not kept."""
        again = key in self._again
        self._remove(key)
        cost = ENTRY_BYTES + len(key[0]) + len(reply.body) + len(reply.ttls)
        if cost > self._limit:
            return 0
        gone = 0
        while self.bytes + cost > self._limit:
            self._remove(next(iter(self._once or self._again)))
            gone += 1
        self._once[key] = Entry(reply, now, seconds, stale_seconds, cost)
        self.bytes += cost
        if again:  # it was popular before its time was over
            self._promote(key)
        return gone

    def _promote(self, key: Key) -> None:
        entry = self._again[key] = self._once.pop(key)
        self._again_bytes += entry.cost
        while self._again_bytes > AGAIN_SHARE * self._limit:
            old, demoted = self._again.popitem(last=False)
            self._again_bytes -= demoted.cost
            self._once[old] = demoted

    def _remove(self, key: Key) -> None:
        entry = self._once.pop(key, None)
        if entry is None:
            entry = self._again.pop(key, None)
            if entry is None:
                return
            self._again_bytes -= entry.cost
        self.bytes -= entry.cost
