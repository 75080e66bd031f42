"""The second dial of a connection, beside a first one that takes long.

Owns: when it begins, and its socket until it has answered. Must not decide where it leads, nor which of the two it is
that goes on: the session does.
"""

import select
from collections.abc import Callable
from functools import partial
from socket import SO_ERROR, SOL_SOCKET
from typing import Protocol

from svcnet.proxy.counts import TIMED_OUT, Tally
from svcnet.proxy.dial import IN_PROGRESS, kind_of, socket_to
from svcnet.proxy.loop import LOST, Timer
from svcnet.proxy.place import Place
from svcnet.proxy.pump import End, server_end
from svcnet.proxy.row import Backend
from svcnet.proxy.session import Act, Command, Session


class Dialling(Protocol):
    """The connection."""

    session: Session
    server: End | None
    """Of the first dial."""

    def tally(self, backend: Backend) -> Tally:
        """Where what happens with a backend is counted."""
        ...

    def count_failure(self, tally: Tally | None, kind: int) -> None:
        """A dial failed."""
        ...

    def win(self, server: End, began: float) -> None:
        """The rival, whose dial began then, answered first."""
        ...

    def abort(self) -> None:
        """A fault came up."""
        ...


class Hedge:
    """Of one dial. Let it `look` when that takes long, or `wait` before; `cancel` it when that is answered, or over."""

    __slots__ = ("_began", "_end", "_most", "_of", "_place", "_timer")

    def __init__(self, of: Dialling, place: Place) -> None:
        self._of: Dialling | None = of
        self._place = place
        self._end: End | None = None
        self._began = self._most = 0.0
        """When the dial began, and how long it may take."""
        self._timer: Timer | None = None

    def wait(self, seconds: float) -> None:
        """Look after so long."""
        self._timer = self._place.loop.later(seconds, self.look)

    def cancel(self) -> None:
        """No more."""
        self._of = None
        self._stop_timer()
        self._drop()

    def abort(self) -> None:
        """A fault came up: the connection ends."""
        of = self._of
        self.cancel()
        if of is not None:
            of.abort()

    def release(self) -> tuple[End, float, float]:
        """Its socket, which is another's from now on, when the dial began, and how long it may still take.

        There must be one.
        """
        end = self._end
        assert end is not None
        self._end = self._of = None
        self._stop_timer()
        self._place.loop.remove(end.sock.fileno())
        self._place.budget.give(1)  # for the first one's, which is closed
        return end, self._began, max(0.0, self._began + self._most - self._place.loop.now)

    def look(self) -> None:
        """Dial beside it, if that may be."""
        if self._of is not None and self._place.budget.take(1):
            command = self._of.session.slow()
            if command.act is Act.HEDGE:
                self._dial(self._of, command)
            else:
                self._place.budget.give(1)

    def _dial(self, of: Dialling, command: Command) -> None:
        assert command.backend is not None
        loop = self._place.loop
        try:
            sock = socket_to(command.backend)
        except OSError:  # as there was none in the budget
            self._place.budget.give(1)
            of.session.rival_dropped()
            return
        end = self._end = server_end(sock)
        end.tally = of.tally(command.backend)
        self._began, self._most = loop.now, command.seconds
        self._timer = loop.later(command.seconds, self._timed_out)
        error = sock.connect_ex(command.backend)
        if error in IN_PROGRESS:
            loop.add(sock.fileno(), partial(self._on_event, end))
        else:
            loop.again(partial(self._refused, end, error))

    def _on_event(self, end: End, events: int) -> None:
        of = self._of
        if of is None or self._end is not end:
            return
        if not events & LOST and events & select.EPOLLOUT:
            first, beaten, watch = of.server, of.session.backend, of.session.watch
            of.session.rival_connected()
            server, began, _ = self.release()
            of.win(server, began)
            if first is not None and beaten is not None:
                Loser(self._place, first, watch.ladder[0], partial(watch.failed, beaten))
        elif error := end.sock.getsockopt(SOL_SOCKET, SO_ERROR):
            self._refused(end, error)

    def _refused(self, end: End, error: int) -> None:
        if self._of is not None and self._end is end:
            self._fail(self._of, self._of.session.rival_refused, kind_of(error))

    def _timed_out(self) -> None:
        if self._of is not None:
            self._fail(self._of, self._of.session.rival_timed_out, TIMED_OUT)

    def _fail(self, of: Dialling, event: Callable[[], Command], kind: int) -> None:
        if self._end is not None:
            of.count_failure(self._end.tally, kind)
        event()
        self._stop_timer()
        self._drop()
        self._place.loop.again(self.look)  # the next one, if there is one

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _drop(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            self._place.loop.bury(end.sock)
            self._place.budget.give(1)


class Loser:
    """A first dial whose rival answered before. It has failed if it stays without an answer for so long, else not."""

    __slots__ = ("_end", "_on_silent", "_place", "_timer")

    def __init__(self, place: Place, end: End, seconds: float, on_silent: Callable[[], None]) -> None:
        self._place, self._end, self._on_silent = place, end, on_silent
        place.loop.remove(end.sock.fileno())
        self._timer: Timer | None = None
        if not place.budget.take(1):
            place.loop.bury(end.sock)
            return
        self._timer = place.loop.later(seconds, self._silent)
        place.loop.add(end.sock.fileno(), self._on_event)

    def _on_event(self, _events: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._end_it()

    def _silent(self) -> None:
        self._end_it()
        if self._end.tally is not None:
            self._end.tally.add(TIMED_OUT)
        self._on_silent()

    def abort(self) -> None:
        """A fault came up."""
        self._end_it()

    def _end_it(self) -> None:
        if self._place.loop.hears(self._end.sock.fileno()):
            self._place.loop.bury(self._end.sock)
            self._place.budget.give(1)
