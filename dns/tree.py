"""Owner names with their records, and the names that exist only because something is below them. Pure.

Owns: what exists (NXDOMAIN and NODATA differ by it, RFC 8020). Must not know where the tree hangs.
"""

from collections.abc import Iterable, Iterator

from svcnet.dns import name
from svcnet.dns.records import RR

RRsets = dict[int, tuple[RR, ...]]
"""Type → the records of that type at one owner, sorted."""


class Tree:
    """Changed in place; every change costs the owners that it names."""

    def __init__(self) -> None:
        self.owners: dict[bytes, RRsets] = {}
        self._below: dict[bytes, int] = {}

    def change(self, removed: Iterable[RR], added: Iterable[RR]) -> set[bytes]:
        """Take records out and put others in; return the owners that changed. What is not there is not missed."""
        touched: dict[tuple[bytes, int], tuple[set[RR], set[RR]]] = {}
        for which, rrs in enumerate((removed, added)):
            for rr in rrs:
                touched.setdefault((rr.owner, rr.type), (set(), set()))[which].add(rr)
        for (owner, kind), (less, more) in touched.items():
            old = self.owners.get(owner, {}).get(kind, ())
            self._put(owner, kind, tuple(sorted((set(old) - less) | more)))
        return {owner for owner, _ in touched}

    def exists(self, owner: bytes) -> bool:
        """Whether there is such a name: one with records, or one above it."""
        return owner in self.owners or owner in self._below

    def __iter__(self) -> Iterator[RR]:
        for rrsets in self.owners.values():
            for rrs in rrsets.values():
                yield from rrs

    def _put(self, owner: bytes, kind: int, rrs: tuple[RR, ...]) -> None:
        rrsets = self.owners.get(owner)
        if rrs:
            if rrsets is None:
                rrsets = self.owners[owner] = {}
                self._count(owner, 1)
            rrsets[kind] = rrs
        elif rrsets is not None:
            rrsets.pop(kind, None)
            if not rrsets:
                del self.owners[owner]
                self._count(owner, -1)

    def _count(self, owner: bytes, step: int) -> None:
        for at in name.offsets(owner)[1:]:
            above = owner[at:]
            number = self._below.get(above, 0) + step
            if number:
                self._below[above] = number
            else:
                del self._below[above]
