"""How many connections each endpoint may have, and who waits for one of them (`max-connections-per-endpoint`). Pure.

Owns: the lines, and whose turn it is when a connection has ended. Must not know who may have which endpoint: whoever
waits is called, and tries. Who comes first is called first; clients that are led to one endpoint by their address have
a line for it, all others have one for each picker that they share.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping

from svcnet.model.terms import EndpointLimit
from svcnet.proxy.row import Backend

CALLS_A_TURN = 64
"""So many are called until others get a turn."""


class Ticket:
    """Of one who waits."""

    __slots__ = ("call", "line", "tried")

    def __init__(self, line: Hashable, tried: frozenset[Backend]) -> None:
        self.line = line
        self.tried = tried
        """Others of the line may be led there, this one not."""
        self.call: Callable[[], bool] = _nobody
        """Asked once there may be room; whether it waits no more."""


Line = OrderedDict[Ticket, None]


class Seats:
    """Of one service and worker. As a container: the endpoints that are full. `soon` calls in the loop's next turn."""

    def __init__(self, load: Mapping[Backend, int], soon: Callable[[Callable[[], None]], None]) -> None:
        self._load = load
        self._soon = soon
        self._limit: EndpointLimit | None = None
        self._most: float = math.inf
        self._lines: dict[Hashable, Line] = {}
        self._shared: set[Hashable] = set()
        """The lines of those who come to any."""
        self._due: set[Hashable] = set()
        """The lines that are to be called."""
        self._is_set = self._is_calling = False
        self.waiting = 0

    def __contains__(self, backend: object) -> bool:
        return isinstance(backend, Backend) and self._load.get(backend, 0) >= self._most

    @property
    def seconds(self) -> float:
        """How long one may wait."""
        return self._limit.seconds if self._limit is not None else 0.0

    def keep(self, backend: Backend) -> bool:
        """Whether somebody who comes now can't go to this one: it is full, or `is_due`. Each connection asks."""
        return self._load.get(backend, 0) >= self._most or (bool(self._due) and self.is_due)

    @property
    def aborts_on_close(self) -> bool:
        """Whether who has no more to say while he waits is taken to be gone."""
        return self._limit is not None and self._limit.abort_on_close

    @property
    def is_due(self) -> bool:
        """Whether there may be room for those who wait: who comes now must not be faster."""
        return bool(self._due) and not self._is_calling and self._limit is not None

    def limit(self, limit: EndpointLimit | None) -> None:
        """From now on so many; those who are there stay."""
        self._limit = limit
        self._most = limit.connections if limit is not None else math.inf
        self.stir()

    def wait(self, line: Hashable, tried: Iterable[Backend] = ()) -> Ticket | None:
        """Stand in a line: a backend's, or of what those who come to any have in common. None: too many wait."""
        if self._limit is None or self.waiting >= self._limit.queue:
            return None
        ticket = Ticket(line, frozenset(tried))
        self._lines.setdefault(line, OrderedDict())[ticket] = None
        if not isinstance(line, Backend):
            self._shared.add(line)
        self.waiting += 1
        if self._due:
            self._due.add(line)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Wait no more. Again is nothing."""
        line = self._lines.get(ticket.line)
        if line is not None and ticket in line:
            del line[ticket]
            self.waiting -= 1
            if not line:
                del self._lines[ticket.line]
                self._shared.discard(ticket.line)

    def freed(self, backend: Backend) -> None:
        """A connection to it ended."""
        if self._lines:
            self._call({backend, *self._shared} if backend in self._lines else self._shared)

    def stir(self) -> None:
        """Somebody may have room now who had none."""
        if self._lines:
            self._call(self._lines)

    def _call(self, lines: Iterable[Hashable]) -> None:
        self._due.update(lines)
        if self._due and not self._is_set:
            self._is_set = True
            self._soon(self._serve)

    def _serve(self) -> None:
        self._is_set, self._is_calling = False, True
        due, self._due = self._due, set()
        left = CALLS_A_TURN
        try:
            for line in due:
                left = self._serve_line(line, left)
        finally:
            self._is_calling = False
            self._call(())

    def _serve_line(self, line: Hashable, left: int) -> int:
        """Call as many as find room; how many more may be called in this turn."""
        waiting = self._lines.get(line, Line())
        while waiting:
            if not left:
                self._due.add(line)
                break
            left -= 1
            ticket = next(iter(waiting))
            if ticket.call():
                self.leave(ticket)
            elif ticket.tried:
                self._serve_others(waiting, {ticket.tried} if line in self._shared else None)
                break
            else:
                break
        return left

    def _serve_others(self, waiting: Mapping[Ticket, None], vain: set[frozenset[Backend]] | None) -> None:
        """Those behind one who may not go everywhere.

        `vain`: of who comes to any, what those had tried who found nobody. Who has tried the same would not either, and
        there may be a thousand of them; None: each belongs somewhere else.
        """
        for ticket in tuple(waiting)[1:]:
            if ticket not in waiting or (vain is not None and ticket.tried in vain):
                continue
            if ticket.call():
                self.leave(ticket)
            elif not ticket.tried:
                return
            elif vain is not None:
                vain.add(ticket.tried)


def _nobody() -> bool:
    return False
