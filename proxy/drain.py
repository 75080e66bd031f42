"""The end of connections whose endpoint, or whole frontend, is gone (contract, `drain`).

Owns: when that is. Endpoints that come back in time keep theirs.
"""

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from svcnet.proxy.counts import Tally
from svcnet.proxy.place import Place

if TYPE_CHECKING:
    from svcnet.proxy.host import Host
    from svcnet.proxy.loop import Timer


class Drain:
    """Of one frontend."""

    def __init__(self, place: Place, host: "Host") -> None:
        self._place, self._host = place, weakref.ref(host)  # no cycle: there is no collector
        self._timer: Timer | None = None
        self._tallies: tuple[Tally, ...] = ()
        self._seconds = 0.0

    def begin(self, gone: Iterable[Tally], seconds: float | None) -> None:
        """These are gone, each since its `gone_at`, and may go on for so long from then; None: for ever."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is None:
            return
        self._seconds, self._tallies = seconds, tuple(gone)
        self._wait()

    def _wait(self) -> None:
        due = [tally.gone_at + self._seconds for tally in self._tallies if tally.gone_at is not None and tally.open]
        if due:
            self._timer = self._place.loop.later(max(0.0, min(due) - self._place.loop.now), self._end)

    def _end(self) -> None:
        """Time is up for some: one walk over all connections, whatever their number."""
        self._timer = None
        due, host = {tally for tally in self._tallies if self._is_due(tally)}, self._host()
        late = [r.drain for r in self._place.relays if r.host is host and r.client.tally in due] if due else []
        self._place.loop.call(late)
        self._wait()

    def _is_due(self, tally: Tally) -> bool:
        return tally.gone_at is not None and tally.gone_at + self._seconds <= self._place.loop.now
