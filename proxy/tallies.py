"""Where one frontend counts, by backend.

Owns: which tally is whose. A backend that goes takes nothing with it: what its open connections still carry is counted
for the frontend alone, then for nobody.
"""

from collections.abc import Mapping
from types import MappingProxyType
from weakref import WeakSet

from svcnet.proxy.counts import NOBODY, Counts, Tally
from svcnet.proxy.row import Backend

Slots = Mapping[Backend | None, int]
"""The slot of each backend; that of None is the frontend's own."""
NO_SLOTS: Slots = MappingProxyType({})


class Tallies:
    """Of one frontend."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._own = Tally(counts)
        self._of: dict[Backend, Tally] = {}
        self._gone: WeakSet[Tally] = WeakSet()
        """Open connections hold them."""

    def of(self, backend: Backend) -> Tally:
        """Where what happens with a backend is counted."""
        return self._of.get(backend) or self._own

    def update(self, slots: Slots) -> None:
        """Count there."""
        self._own.move(self._counts, slots.get(None, NOBODY))
        for gone in self._of.keys() - slots.keys():
            self._retire(self._of.pop(gone))
        for backend, slot in slots.items():
            if backend is None:
                continue
            there = self._of.get(backend)
            if there is None:
                self._of[backend] = Tally(self._counts, slot)
            else:
                there.move(self._counts, slot)

    def close(self) -> None:
        """Count for nobody any more."""
        for tally in (self._own, *self._of.values(), *self._gone):
            tally.move(self._counts, NOBODY)
        self._gone.clear()

    def _retire(self, tally: Tally) -> None:
        """Its connections may go on for hours."""
        tally.cells, tally.at = self._own.cells, self._own.at
        self._gone.add(tally)
