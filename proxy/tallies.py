"""Where one frontend counts, by backend.

Owns: which tally is whose. A backend that goes takes nothing with it: what its open connections still carry is counted
for the frontend alone, then for nobody. One that comes back has the connections again that it had.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from weakref import WeakValueDictionary

from svcnet.proxy.counts import NOBODY, Counts, Tally
from svcnet.proxy.row import Backend

Slots = Mapping[Backend | None, int]
"""The slot of each backend; that of None is the frontend's own."""
NO_SLOTS: Slots = MappingProxyType({})


class Tallies:
    """Of one frontend."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.own = Tally(counts)
        """Of the frontend itself."""
        self._of: dict[Backend, Tally] = {}
        self._gone: WeakValueDictionary[Backend, Tally] = WeakValueDictionary()
        """Open connections hold them."""

    def of(self, backend: Backend) -> Tally:
        """Where what happens with a backend is counted."""
        return self._of.get(backend) or self.own

    def mark(self, backend: Backend, *, out: bool, news: bool = True) -> None:
        """A backend gets no new connections, or gets them again; `news`: since this moment."""
        there = self._of.get(backend)
        if there is not None and there.is_out is not out:
            there.mark(out=out, news=news)

    @property
    def gone(self) -> Iterable[Tally]:
        """Those of backends that are gone, and have open connections."""
        return [tally for tally in self._gone.values() if tally.open]

    def update(self, slots: Slots, now: float = 0.0) -> None:
        """Count there. Backends without a slot are gone, since `now`."""
        self.own.move(self._counts, slots.get(None, NOBODY))
        for gone in self._of.keys() - slots.keys():
            self._retire(gone, now)
        for backend, slot in slots.items():
            if backend is None:
                continue
            there = self._of.get(backend) or self._gone.pop(backend, None)
            if there is None:
                self._of[backend] = Tally(self._counts, slot)
            else:
                there.gone_at = None
                there.move(self._counts, slot)
                self._of[backend] = there

    def close(self, now: float = 0.0) -> None:
        """Count for nobody any more: all are gone."""
        for backend in tuple(self._of):
            self._retire(backend, now)
        for tally in (self.own, *self._gone.values()):
            tally.move(self._counts, NOBODY)

    def _retire(self, backend: Backend, now: float) -> None:
        """Its connections may go on for hours."""
        tally = self._of.pop(backend)
        tally.mark(out=False)
        tally.join(self.own)
        tally.gone_at = now
        self._gone[backend] = tally
