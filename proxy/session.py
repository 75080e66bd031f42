"""One TCP connection through the proxy, as a state machine without sockets or clock. Pure.

Owns: which backend is dialled next and for how long, what the end of one side means for the other. Everything that
affects these decisions lives here; moving bytes does not. The rules:

* No byte of the client is read before a backend answered, so every failed dial may go to the next one, unseen.
* A refused dial costs no time: the next one follows at once, each refused backend is tried once.
* A dial without an answer is given up after the step of the ladder; the next try is another backend while there is
  one. Afterwards those that did not answer are tried again, as the packet may have been lost.
* The end of one direction is passed on and leaves the other open. A reset stays a reset, both ways.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from svcnet.proxy.lead import Pick
from svcnet.proxy.row import Backend
from svcnet.proxy.why import Why

LADDER_SECONDS = (0.25, 0.5, 1.0, 2.0)
"""How long each try waits (contract, `connect-timeouts`)."""


class Side(Enum):
    """One end of a connection."""

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


class State(Enum):
    """Where a connection is in its life."""

    DIALLING = auto()
    RELAYING = auto()
    ENDED = auto()


class Session:
    """Tell it what happened; do what it answers."""

    __slots__ = ("_finished", "_ladder", "_pick", "_refused", "_silent", "_step", "backend", "state", "tries", "why")

    def __init__(self, pick: Pick, ladder: Sequence[float] = LADDER_SECONDS) -> None:
        self._pick = pick
        self._ladder = ladder
        self._step = 0
        self._refused: tuple[Backend, ...] = ()
        self._silent: tuple[Backend, ...] = ()
        self._finished: Side | None = None
        self.backend: Backend | None = None
        self.state = State.DIALLING
        self.tries = 0
        """Dials so far."""
        self.why = Why.UNKNOWN
        """What ended it, once something did."""

    def begin(self) -> Command:
        """A client came."""
        return self._dial()

    def refused(self) -> Command:
        """The backend refused, or there is no way to it."""
        if self.backend is not None:
            self._refused += (self.backend,)
        return self._dial()

    def timed_out(self) -> Command:
        """The backend did not answer in time."""
        if self.backend is not None:
            self._silent += (self.backend,)
        self._step += 1
        return self._dial()

    def connected(self) -> Command:
        """The backend answered."""
        self.state = State.RELAYING
        return Command(Act.RELAY)

    def client_lost(self) -> Command:
        """The client went away before a backend answered."""
        return self._end(Command(Act.CLOSE), Why.CLIENT_LEFT)

    def finished(self, side: Side) -> Command:
        """All that `side` had to say was delivered, and its FIN came."""
        if self.state is State.ENDED or self._finished is side:
            return Command(Act.NOTHING)
        if self._finished is not None:
            return self._end(Command(Act.CLOSE), Why.SERVER_FINISHED if side is Side.CLIENT else Why.CLIENT_FINISHED)
        self._finished = side
        return Command(Act.FINISH, side.other)

    def abandoned(self) -> Command:
        """Nothing was said for too long: the client learns that it was not an end."""
        why = Why.IDLE if self._finished is None else Why.HALF_CLOSED
        return self._end(Command(Act.RESET, Side.CLIENT), why)

    def drained(self) -> Command:
        """Its endpoint is gone for too long, whether or not it has answered."""
        if self.state is State.ENDED:
            return Command(Act.NOTHING)
        return self._end(Command(Act.RESET, Side.CLIENT), Why.DRAINED)

    def stuck(self) -> Command:
        """No dial can be made."""
        return self._end(Command(Act.RESET, Side.CLIENT), Why.NO_ROOM)

    def broken(self, side: Side) -> Command:
        """`side` was reset, and what it said before was passed on."""
        if self.state is State.ENDED:
            return Command(Act.NOTHING)
        why = Why.CLIENT_RESET if side is Side.CLIENT else Why.SERVER_RESET
        return self._end(Command(Act.RESET, side.other), why)

    def _dial(self) -> Command:
        if self._step >= len(self._ladder):
            return self._give_up(Why.SILENT)
        backend = self._pick((*self._refused, *self._silent) if self._refused or self._silent else ())
        if backend is None and self._silent:
            self._silent = ()
            backend = self._pick(self._refused)
        if backend is None:
            return self._give_up(Why.REFUSED if self.tries else Why.NO_ENDPOINT)
        self.tries += 1
        self.backend = backend
        return Command(Act.DIAL, Side.SERVER, backend, self._ladder[self._step])

    def _give_up(self, why: Why) -> Command:
        return self._end(Command(Act.RESET, Side.CLIENT), why)

    def _end(self, command: Command, why: Why) -> Command:
        self.state, self.why = State.ENDED, why
        return command
