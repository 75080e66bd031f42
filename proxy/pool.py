"""The backends of one service port, as all of its frontends and clients share them. Pure; clock and chance are given.

Owns: who gets a client's next connection, which client stays where, who is left alone for a while. A client without a
note goes where its address leads by source hash, so that all workers, and one that was just started, agree about it
without telling each other. Who is out, or on its way back, is worked into what is picked from when that changes:
a pick costs the same whatever happened.
"""

from _random import Random
from collections.abc import Callable, Container
from typing import Protocol

from svcnet.balance import Chance, LeastLoaded, RoundRobin
from svcnet.model.terms import EndpointLimit
from svcnet.nearness import Nearness
from svcnet.proxy.gate import Gate
from svcnet.proxy.notes import Room
from svcnet.proxy.outliers import Outliers
from svcnet.proxy.ramp import Ramp
from svcnet.proxy.retries import Retries
from svcnet.proxy.row import Backend, Choice, Service
from svcnet.proxy.scope import ANYWHERE, Picker, Scope
from svcnet.proxy.seats import Seats

LADDER_SECONDS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
"""How long each try of a connection waits (contract, `connect-timeouts`)."""
BY_LOT = Random().random
BY_CLIENT = {Choice.HASH, Choice.AFFINITY}
"""Choices that depend on who comes."""


class Clock(Protocol):
    """A worker's loop."""

    @property
    def now(self) -> float:
        """Seconds."""
        ...

    def later(self, seconds: float, callback: Callable[[], None]) -> object:
        """Call once."""
        ...

    def again(self, callback: Callable[[], None]) -> None:
        """Call in the next turn."""
        ...


class Marks(Protocol):
    """Where is shown who is out."""

    def mark(self, backend: Backend, *, out: bool, news: bool = True) -> None:
        """It is out, or back; `news`: since this moment."""
        ...


class Pool:
    """Ask `pick` for each try of a connection; `without` are the backends that failed it."""

    def __init__(self, name: str, room: Room, clock: Clock, chance: Callable[[], float] = BY_LOT) -> None:
        self.name = name
        self.scopes = {local: Scope(room, chance) for local in (False, True)}
        """Whether those of this minion alone → the scope."""
        self.choice = Choice.TURN
        self._seconds = 0
        self._clock, self._chance = clock, chance
        self.users = 0
        """Frontends that lead here."""
        self.load: dict[Backend, int] | None = None
        """Connections and flows that are open or being opened, where that is asked for."""
        self.alert = False
        """Whether `answered` is to be told."""
        self.hedge_seconds = 0.0
        self.ladder = LADDER_SECONDS
        self.outliers = Outliers()
        self.retries = Retries()
        self.ramp = Ramp()
        self.gate: Gate | None = None
        """Of TCP connections, from when there is a limit on."""
        self.seats: Seats | None = None
        """Of TCP connections to one endpoint each, from when there is a limit on."""
        self._marks: set[Marks] = set()
        self._out: frozenset[Backend] = frozenset()
        self._is_ramping = False

    @property
    def is_sticky(self) -> bool:
        """Whether clients have notes."""
        return self.choice is Choice.AFFINITY

    @property
    def is_personal(self) -> bool:
        """Whether it depends on who comes where he belongs."""
        return self.choice in BY_CLIENT

    @property
    def out(self) -> frozenset[Backend]:
        """Who is left alone now."""
        return self._out

    def update(self, service: Service) -> None:
        """What the daemon says of the service now."""
        terms, before = service.terms, self.scopes[False].weights
        self.ladder, self.hedge_seconds = terms.connect_seconds or LADDER_SECONDS, terms.hedge_seconds
        self.ramp.seconds = terms.slow_start_seconds
        if (terms.most_connections or terms.most_rate) and self.gate is None:
            self.gate = Gate(self._clock)
        if self.gate is not None:
            self.gate.limit(terms.most_connections, terms.most_rate)
        if self.load is None and (service.choice is Choice.LEAST or terms.endpoint_limit is not None):
            self.load = {}  # for good: who was counted once must be given back
        near = Nearness(service.levels, terms.share) if service.levels else ANYWHERE
        self.scopes[False].update(service.targets, near)
        self.scopes[True].update(service.local, near)
        if service.choice is not Choice.AFFINITY:
            self.forget()
        if service.choice is not self.choice:
            for scope in self.scopes.values():
                scope.pick_by(self._picker(service.choice))
        self.choice, self._seconds = service.choice, service.seconds
        self.outliers.update(terms.eject, frozenset(service.targets))
        for new in service.targets.keys() - before.keys() if before else ():
            self.ramp.begin(new, self._clock.now)
        self._decide()
        self._limit(terms.endpoint_limit)

    def forget(self) -> None:
        """No client stays where it is."""
        for scope in self.scopes.values():
            scope.notes.clear()

    def pick(self, client: str, now: float, without: Container[Backend] = (), *, local: bool = False) -> Backend | None:
        """The backend for a client's new connection, or for its next try; None when there is none."""
        scope = self.scopes[local]
        if self.choice not in BY_CLIENT:
            return scope.pick(without)
        if self.choice is Choice.HASH:
            return scope.pick_for(client, without)
        there = scope.stays(client, self._seconds, now, without) or scope.pick_for(client, without)
        if there is None:  # all failed
            scope.notes.forget(client)
        else:
            scope.notes.write(client, there, self._seconds, now)
        return there

    def take(self, backend: Backend) -> None:
        """A connection to it begins."""
        if self.load is not None:
            self.load[backend] = self.load.get(backend, 0) + 1

    def give(self, backend: Backend) -> None:
        """One that was taken ended."""
        if self.load is None:
            return
        left = self.load.pop(backend, 0) - 1
        if left > 0:
            self.load[backend] = left
        if self.seats is not None:
            self.seats.freed(backend)

    def may_retry(self) -> bool:
        """Whether a connection may have another dial, which is paid for then."""
        self.alert = True
        return self.retries.take(self._clock.now)

    def failed(self, backend: Backend) -> None:
        """A dial failed."""
        self.alert = True
        seconds = self.outliers.failed(backend, self._clock.now)
        if seconds is not None:
            self._clock.later(seconds, self._look)
            self._decide()

    def answered(self, backend: Backend) -> None:
        """A dial was answered."""
        self.retries.answered()
        before = len(self.outliers.condemned)
        self.outliers.answered(backend)
        if before != len(self.outliers.condemned):  # in panic alone: who is out is not dialled
            self._decide()
        self.alert = bool(self.outliers.strikes) or not self.retries.is_full

    def show(self, marks: Marks) -> None:
        """Mark there who is out, now and later."""
        self._marks.add(marks)
        for backend in self._out:
            marks.mark(backend, out=True, news=False)

    def hide(self, marks: Marks) -> None:
        """There no more."""
        self._marks.discard(marks)

    def _limit(self, limit: EndpointLimit | None) -> None:
        if limit is not None and self.seats is None and self.load is not None:
            self.seats = Seats(self.load, self._clock.again)
        if self.seats is not None:
            self.seats.limit(limit)

    def _look(self) -> None:
        """The time of somebody who was out is over."""
        self.outliers.look(self._clock.now)
        self._decide()

    def _decide(self) -> None:
        """Carry out who is out now, and who is back."""
        out, before = self.outliers.out, self._out
        self._out = out
        for backend in before ^ out:
            if backend in before and not self.outliers.is_panic:
                self.ramp.begin(backend, self._clock.now)
            for number, marks in enumerate(self._marks):
                marks.mark(backend, out=backend in out, news=not number)  # it is one, however many frontends there are
        self._lead()
        if self.seats is not None:
            self.seats.stir()

    def _lead(self) -> None:
        now = self._clock.now
        self.ramp.look(now)
        for scope in self.scopes.values():
            scope.follow(self._out, self.outliers.condemned, self.ramp, now)
        if self.ramp.step_seconds and not self._is_ramping:
            self._is_ramping = True
            self._clock.later(self.ramp.step_seconds, self._climb)

    def _climb(self) -> None:
        self._is_ramping = False
        self._lead()

    def _picker(self, choice: Choice) -> Picker:
        if choice is Choice.CHANCE:
            return Chance(self._chance)
        if choice is Choice.LEAST:
            return LeastLoaded(self._chance, self.load if self.load is not None else {})
        return RoundRobin(self._chance)
