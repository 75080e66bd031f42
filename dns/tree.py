"""Owner names with their records, and the names that exist only because something is below them. Pure.

Owns: what exists (NXDOMAIN and NODATA differ by it, RFC 8020). Must not know where the tree hangs.
"""

from collections.abc import Iterable, Iterator

from svcnet.dns import name
from svcnet.dns.records import RR, WAITS

RRsets = dict[int, tuple[RR, ...]]
"""Type → the records of that type at one owner, sorted."""

NOTHING: RRsets = {}


class Tree:
    """Changed in place; every change costs the owners that it names.

    What stands under an owner is replaced, never changed: who holds it holds a state of the past.
    """

    def __init__(self) -> None:
        self.owners: dict[bytes, RRsets] = {}
        self.before: dict[bytes, RRsets] | None = None
        """What the owners that changed had before, {} for nothing; None: nobody wants to know."""
        self.noted = 0
        """Records in `before`."""
        self._below: dict[bytes, int] = {}
        self._below_before: dict[bytes, int] | None = None
        """While a change comes in parts: what `_below` had, of the names in which it differs."""
        self._turned: set[bytes] = set()
        """Names above others that began or ceased to exist in this change."""

    def change(self, removed: Iterable[RR], added: Iterable[RR]) -> set[bytes]:
        """Take records out and put others in; return the names that changed. What is not there is not missed.

        A name changes also when it begins or ceases to exist because of what is below it.
        """
        differ: dict[bytes, dict[int, set[RR]]] = {}
        for rr in removed:
            self._open(differ, rr).discard(rr)
        for rr in added:
            self._open(differ, rr).add(rr)
        for owner, sets in differ.items():
            self._put(owner, sets)
        turned, self._turned = self._turned, set()
        turned.update(differ)
        return turned

    def note(self) -> None:
        """From now on keep in `before` what is replaced; what was there is its holder's."""
        self.before, self.noted = {}, 0

    def hold(self) -> None:
        """From now on `get` and `exists` say what is now, whatever changes; only where `before` is kept."""
        if self.before is not None:
            self._below_before = {}

    def release(self) -> None:
        """Let them say what is there."""
        self._below_before = None

    def get(self, owner: bytes) -> RRsets:
        """Return what stands under a name, {} for nothing."""
        if self._below_before is not None and self.before and owner in self.before:
            return self.before[owner]
        return self.owners.get(owner, NOTHING)

    def exists(self, owner: bytes) -> bool:
        """Whether there is such a name: one with records, or one above it."""
        if self._below_before and owner in self._below_before:
            return self._below_before[owner] > 0 or _there(self.get(owner))
        return owner in self._below or _there(self.get(owner))

    def __iter__(self) -> Iterator[RR]:
        for rrsets in self.owners.values():
            for rrs in rrsets.values():
                yield from rrs

    def _open(self, differ: dict[bytes, dict[int, set[RR]]], rr: RR) -> set[RR]:
        """Return what its owner has of its type, to be changed."""
        sets = differ.get(rr.owner)
        if sets is None:
            sets = differ[rr.owner] = {}
        those = sets.get(rr.type)
        if those is None:
            those = sets[rr.type] = set(self.owners.get(rr.owner, NOTHING).get(rr.type, ()))
        return those

    def _put(self, owner: bytes, sets: dict[int, set[RR]]) -> None:
        """Let an owner have these of these types."""
        old = self.owners.get(owner, NOTHING)
        if self.before is not None and owner not in self.before:
            self.before[owner] = old
            self.noted += sum(map(len, old.values()))
        new = old.copy()
        for kind, those in sets.items():
            if those:
                new[kind] = tuple(those) if len(those) == 1 else tuple(sorted(those))
            else:
                new.pop(kind, None)
        if new:
            self.owners[owner] = new
        elif old:
            del self.owners[owner]
        step = _there(new) - _there(old)
        if step:
            self._count(owner, step)

    def _count(self, owner: bytes, step: int) -> None:
        below, before = self._below, self._below_before
        for at in name.offsets(owner)[1:]:
            above = owner[at:]
            old = below.get(above, 0)
            new = old + step
            if before is not None:
                before.setdefault(above, old)
            if new:
                below[above] = new
            else:
                del below[above]
            if not old or not new:
                self._turned.add(above)


def waits(rrsets: RRsets) -> bool:
    """Whether this is all that a service has which is not there: its name leads nowhere else."""
    return WAITS in rrsets and len(rrsets) == 1


def _there(rrsets: RRsets) -> bool:
    return bool(rrsets) and not waits(rrsets)
