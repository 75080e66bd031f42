"""One TCP connection through the proxy, as a state machine without sockets or clock. Pure.

Owns: which backend is dialled next and for how long, what the end of one side means for the other. Everything that
affects these decisions lives here; moving bytes does not. The rules:

* No byte of the client is read before a backend answered, so every failed dial may go to the next one, unseen.
* A refused dial costs no time: the next one follows at once, each refused backend is tried once.
* A dial without an answer is given up after the step of the ladder; the next try is another backend while there is
  one. Afterwards those that did not answer are tried again, as the packet may have been lost.
* Each further dial must be allowed. If it is not, a silent one is waited for as long as the rest of the ladder takes.
* Where that is asked for, a dial that takes long gets a rival. Who answers first is it, and the other has not failed.
* An endpoint that has as many connections as it may is passed over. When all have, the client waits for one, unread; a
  client that belongs to one waits for that, and goes to another only when too many wait.
* The end of one direction is passed on and leaves the other open. A reset stays a reset, both ways.
"""

from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

from svcnet.proxy.lead import Pick
from svcnet.proxy.row import Backend
from svcnet.proxy.seats import Seats, Ticket
from svcnet.proxy.watch import ALONE, Watch
from svcnet.proxy.why import Why
from svcnet.proxy.without import Both, But


class Side(Enum):
    """One end of a connection."""

    __hash__ = object.__hash__  # that of Enum is a call in Python
    CLIENT = auto()
    SERVER = auto()

    @property
    def other(self) -> "Side":
        """The opposite end."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class Act(Enum):
    """What the shell is to do."""

    DIAL = auto()
    """Connect to `backend`, for `seconds` at most; any earlier dial is to be given up."""
    WAIT = auto()
    """For the dial, `seconds` more."""
    HEDGE = auto()
    """Connect to `backend` too, for `seconds` at most: the rival."""
    DROP = auto()
    """Give the rival up."""
    SWAP = auto()
    """Give up the dial; that of the rival takes its place."""
    QUEUE = auto()
    """Wait, `seconds` at most, until the ticket is called; any earlier dial is to be given up."""
    RELAY = auto()
    """Move bytes both ways."""
    FINISH = auto()
    """Send `side` our FIN."""
    RESET = auto()
    """Reset `side` as soon as it acknowledged all that was sent to it; close the other at once."""
    CLOSE = auto()
    """Close both."""
    NOTHING = auto()
    """Already done."""


class Command(NamedTuple):
    """One order to the shell."""

    act: Act
    side: Side = Side.CLIENT
    backend: Backend | None = None
    seconds: float = 0.0


CLIENT, SERVER = Side.CLIENT, Side.SERVER
"""A member of an enumeration is found by a call (Python 3.11), ten times the time of a name of the module: what each
connection passes has names."""
_RELAY, _NOTHING, _CLOSE = Command(Act.RELAY), Command(Act.NOTHING), Command(Act.CLOSE)
_WAITING = {Act.NOTHING, Act.QUEUE}
_FINISH = {side: Command(Act.FINISH, side.other) for side in Side}
"""By the side that finished. Made once: to make one takes as long as a step of the state machine."""


class State(Enum):
    """Where a connection is in its life."""

    DIALLING = auto()
    RELAYING = auto()
    ENDED = auto()


_DIALLING, _RELAYING, _ENDED = State.DIALLING, State.RELAYING, State.ENDED
_UNKNOWN, _CLIENT_FINISHED, _SERVER_FINISHED = Why.UNKNOWN, Why.CLIENT_FINISHED, Why.SERVER_FINISHED


@lru_cache(maxsize=4096)
def _dial_to(backend: Backend, seconds: float) -> Command:
    """Made once, as most connections have it."""
    return Command(Act.DIAL, Side.SERVER, backend, seconds)


@lru_cache(maxsize=4096)
def _alone(backend: Backend) -> tuple[Backend, ...]:
    """One for all connections that have it, as there may be very many of them."""
    return (backend,)


class Session:
    """Tell it what happened; do what it answers. After its end `leave` it."""

    __slots__ = (
        "_finished",
        "_pick",
        "_refused",
        "_silent",
        "_step",
        "_taken",
        "backend",
        "rival",
        "state",
        "ticket",
        "tries",
        "watch",
        "why",
    )

    def __init__(self, pick: Pick, watch: Watch = ALONE) -> None:
        self._pick = pick
        self.watch = watch
        self._step = 0
        self._refused: tuple[Backend, ...] = ()
        self._silent: tuple[Backend, ...] = ()
        self._taken: tuple[Backend, ...] = ()
        """Those that the watch was told of."""
        self._finished: Side | None = None
        self.backend: Backend | None = None
        self.rival: Backend | None = None
        """Dialled beside it."""
        self.ticket: Ticket | None = None
        """While it waits for a backend with room."""
        self.state = _DIALLING
        self.tries = 0
        """Dials so far."""
        self.why = _UNKNOWN
        """What ended it, once something did."""

    def begin(self) -> Command:
        """A client came."""
        return self._dial()

    def refused(self) -> Command:
        """The backend refused, or there is no way to it."""
        if self.backend is not None:
            self._refused += (self.backend,)
            self._fail(self.backend)
        return self._go_on()

    def timed_out(self) -> Command:
        """The backend did not answer in time."""
        ladder = self.watch.ladder
        self._step += 1
        if self.backend is not None:
            self.watch.failed(self.backend)
            if self.rival is None and self._step < len(ladder) and not self.watch.may_retry():
                rest, self._step = sum(ladder[self._step :]), len(ladder)
                return Command(Act.WAIT, SERVER, self.backend, rest)
            self._silent += (self.backend,)
            self._give(self.backend)
        return self._go_on(paid=True)

    def seated(self) -> Command:
        """Its ticket was called. NOTHING: there is no room for this one, and it waits on; QUEUE: in another line."""
        command = self._dial()
        if command.act not in _WAITING:
            self._stop_waiting()
        return command

    def waited(self) -> Command:
        """It waited for as long as it may."""
        return self._give_up(Why.QUEUE_TIMEOUT)

    def join(self, watch: Watch) -> None:
        """From now on these count it, beside others; nobody else does."""
        if self.ticket is not None or self.state is _ENDED:
            return
        if watch is not self.watch:
            self.leave()
            self.watch = watch
        for backend in (self.backend, self.rival):
            if backend is not None and backend not in self._taken:
                self._take(backend)

    def slow(self) -> Command:
        """The dial takes long."""
        if self.state is not _DIALLING or self.backend is None or (self.rival or self.ticket) is not None:
            return _NOTHING
        tried, seats = (*self._refused, *self._silent, self.backend), self.watch.seats
        backend = self._pick(tried) if seats is None else self._elsewhere(seats, tried)
        if backend is None or self._step >= len(self.watch.ladder) or not self.watch.may_retry():
            return _NOTHING
        self.tries += 1
        self.rival = backend
        self._take(backend)
        return Command(Act.HEDGE, SERVER, backend, self.watch.ladder[self._step])

    def rival_refused(self) -> Command:
        """As `refused`. The next one, if any, comes with `slow`."""
        return self._lose_rival(silent=False)

    def rival_timed_out(self) -> Command:
        """As `timed_out`."""
        return self._lose_rival(silent=True)

    def rival_dropped(self) -> Command:
        """There is none after all, and it has not failed."""
        if self.rival is not None:
            self._give(self.rival)
            self.rival = None
        return _NOTHING

    def rival_connected(self) -> Command:
        """The rival answered first: SWAP, then RELAY."""
        if self.backend is not None:
            self._give(self.backend)
        self.backend, self.rival = self.rival, None
        return self._connected()

    def connected(self) -> Command:
        """The backend answered."""
        if self.rival is not None:
            self._give(self.rival)
            self.rival = None
            if self.watch.is_sticky and self.backend is not None:
                self._pick(But(self.backend))  # the client stays there, and not with the rival
        return self._connected()

    def leave(self) -> None:
        """It has ended, however that came."""
        if self.ticket is not None:
            self._stop_waiting()
        for backend in self._taken:
            self.watch.give(backend)
        self._taken = ()

    def client_lost(self) -> Command:
        """The client went away before a backend answered."""
        return self._end(_CLOSE, Why.CLIENT_LEFT)

    def hung_up(self) -> Command:
        """While no backend has answered the client's FIN came, perhaps after what is still to be read."""
        seats = self.watch.seats
        if self.ticket is None or seats is None or not seats.aborts_on_close:
            return _NOTHING
        return self._end(_CLOSE, Why.CLIENT_LEFT)

    def finished(self, side: Side) -> Command:
        """All that `side` had to say was delivered, and its FIN came."""
        if self.state is _ENDED or self._finished is side:
            return _NOTHING
        if self._finished is not None:
            return self._end(_CLOSE, _SERVER_FINISHED if side is CLIENT else _CLIENT_FINISHED)
        self._finished = side
        return _FINISH[side]

    def abandoned(self) -> Command:
        """Nothing was said for too long: the client learns that it was not an end."""
        why = Why.IDLE if self._finished is None else Why.HALF_CLOSED
        return self._end(Command(Act.RESET, CLIENT), why)

    def drained(self) -> Command:
        """Its endpoint is gone for too long, whether or not it has answered."""
        if self.state is _ENDED:
            return _NOTHING
        return self._end(Command(Act.RESET, CLIENT), Why.DRAINED)

    def aborted(self) -> None:
        """It was ended, as a fault of ours came up in it."""
        self.state, self.why = State.ENDED, Why.FAULT

    def stuck(self) -> Command:
        """No dial can be made."""
        return self._end(Command(Act.RESET, CLIENT), Why.NO_ROOM)

    def broken(self, side: Side) -> Command:
        """`side` was reset, and what it said before was passed on."""
        if self.state is _ENDED:
            return _NOTHING
        why = Why.CLIENT_RESET if side is CLIENT else Why.SERVER_RESET
        return self._end(Command(Act.RESET, side.other), why)

    def _connected(self) -> Command:
        self.state = _RELAYING
        if self.watch.alert and self.backend is not None:
            self.watch.answered(self.backend)
        return _RELAY

    def _go_on(self, *, paid: bool = False) -> Command:
        """After a failed dial; `paid`: the next one is allowed."""
        if self.rival is not None:
            self.backend, self.rival = self.rival, None
            return Command(Act.SWAP, SERVER, self.backend)
        return self._dial(paid=paid)

    def _dial(self, *, paid: bool = True) -> Command:
        ladder = self.watch.ladder
        if self._step >= len(ladder):
            return self._give_up(Why.SILENT)
        backend = self._pick((*self._refused, *self._silent) if self._refused or self._silent else ())
        if backend is None and self._silent:
            self._silent = ()
            backend = self._pick(self._refused)
        if backend is None or not (paid or self.watch.may_retry()):
            return self._give_up(Why.REFUSED if self.tries else Why.NO_ENDPOINT)
        seats = self.watch.seats
        if seats is not None and seats.keep(backend):
            room = self._with_room(seats, backend)
            if not isinstance(room, Backend):
                return room
            backend = room
        self.tries += 1
        self.backend = backend
        if self.watch.load is not None:
            self._take(backend)
        return _dial_to(backend, ladder[self._step])

    def _with_room(self, seats: Seats, backend: Backend) -> Backend | Command:
        """Instead of one that is full, or that others wait for: another one, or to wait."""
        tried, is_personal = (*self._refused, *self._silent), self.watch.is_personal
        other = None if is_personal else self._elsewhere(seats, tried)
        if other is not None:
            return other
        line = backend if is_personal else self._pick
        if self.ticket is not None:
            if self.ticket.line == line:
                return _NOTHING
            self._stop_waiting()
        self.ticket = seats.wait(line, tried)
        if self.ticket is not None:
            return Command(Act.QUEUE, SERVER, None, seats.seconds)
        other = self._elsewhere(seats, tried) if is_personal else None
        return other or self._give_up(Why.QUEUE_FULL)

    def _elsewhere(self, seats: Seats, tried: tuple[Backend, ...]) -> Backend | None:
        """One with room."""
        other = None if seats.is_due else self._pick(Both(tried, seats))
        return None if other in self.watch.out else other

    def _stop_waiting(self) -> None:
        if self.ticket is not None and self.watch.seats is not None:
            self.watch.seats.leave(self.ticket)
            self.ticket = None

    def _lose_rival(self, *, silent: bool) -> Command:
        if self.rival is not None:
            if silent:
                self._silent += (self.rival,)
            else:
                self._refused += (self.rival,)
            self._fail(self.rival)
            self.rival = None
        return Command(Act.DROP)

    def _fail(self, backend: Backend) -> None:
        self.watch.failed(backend)
        self._give(backend)

    def _take(self, backend: Backend) -> None:
        if self.watch.load is not None:
            self.watch.take(backend)
            self._taken = (*self._taken, backend) if self._taken else _alone(backend)

    def _give(self, backend: Backend) -> None:
        if backend in self._taken:
            self._taken = tuple(b for b in self._taken if b != backend)
            self.watch.give(backend)

    def _give_up(self, why: Why) -> Command:
        return self._end(Command(Act.RESET, CLIENT), why)

    def _end(self, command: Command, why: Why) -> Command:
        self.state, self.why = _ENDED, why
        return command
