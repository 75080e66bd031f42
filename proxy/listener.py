"""A worker's side of one frontend: who accepts, who is picked, which connections or flows it has.

Owns: accepting, and stopping to when file descriptors run out. Must not know where listeners come from.
"""

import _socket
import errno
import select
import socket
from functools import partial
from typing import Protocol

from svcnet.model.terms import USUAL, Terms
from svcnet.proxy.admission import admit_all
from svcnet.proxy.connection_log import Entry
from svcnet.proxy.counts import AT_LIMIT, BAD_HEADERS, LIMITED_NOW, LOG_LOST
from svcnet.proxy.drain import Drain
from svcnet.proxy.flush import reset_on_close
from svcnet.proxy.gate import Gate
from svcnet.proxy.greeting import Greeting, Trusted
from svcnet.proxy.header import Header
from svcnet.proxy.header import Place as Address
from svcnet.proxy.lead import Lead
from svcnet.proxy.loop import Loop
from svcnet.proxy.origin import HEADERS, Introduction, Origin, origin
from svcnet.proxy.patience import HALF_CLOSED_SECONDS, IDLE_SECONDS, Patience
from svcnet.proxy.place import Place
from svcnet.proxy.relay import DESCRIPTORS, Relay
from svcnet.proxy.session import Session
from svcnet.proxy.tallies import NO_SLOTS, Slots, Tallies
from svcnet.proxy.watch import ALONE, Watch
from svcnet.proxy.why import Why

ACCEPTS_A_TURN = 64
RETRY_SECONDS = 0.1
"""When to accept again after the kernel had no descriptor or memory although the budget had room."""


class Door(Protocol):
    """What a frontend is to the worker."""

    @property
    def lead(self) -> Lead:
        """Where it leads whom."""
        ...

    def update(self, slots: Slots = NO_SLOTS, terms: Terms = USUAL) -> None:
        """The lead has changed; count in these slots, and carry on these terms."""
        ...

    @property
    def fd(self) -> int:
        """Of its listener."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it has that yet."""
        ...

    def hold(self) -> None:
        """Take nobody in until `attend`."""
        ...

    def attend(self) -> None:
        """Take in who comes."""
        ...

    def drain(self) -> None:
        """Take in who waits, and nobody after that."""
        ...

    def close(self) -> None:
        """Serve no more."""
        ...


class Hall:
    """All TCP listeners of a worker, behind one epoll: they are stopped and started together, whatever their number."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._epoll = select.epoll()
        self._doors: dict[int, TcpDoor] = {}
        self._open = False
        self.resume()

    @property
    def loop(self) -> Loop:
        """The worker's."""
        return self._place.loop

    def add(self, door: "TcpDoor") -> None:
        """Accept for this one too."""
        if door.fd not in self._doors:
            self._doors[door.fd] = door
            door.rests = False
            self._epoll.register(door.fd, select.EPOLLIN)

    def remove(self, door: "TcpDoor") -> None:
        """Accept for it no more."""
        if self._doors.pop(door.fd, None) is not None and not door.rests:
            self._epoll.unregister(door.fd)

    def rest(self, door: "TcpDoor") -> None:
        """Accept for this one no more until it wakes; the others go on."""
        if self._doors.get(door.fd) is door and not door.rests:
            door.rests = True
            self._epoll.unregister(door.fd)

    def wake(self, door: "TcpDoor") -> None:
        """Accept for it again."""
        if self._doors.get(door.fd) is door and door.rests:
            door.rests = False
            self._epoll.register(door.fd, select.EPOLLIN)

    def resume(self) -> None:
        """Accept."""
        if not self._open:
            self._open = True
            self.loop.add(self._epoll.fileno(), self._on_ready, select.EPOLLIN)

    def pause(self, seconds: float | None = None) -> None:
        """Let clients wait in the kernel's queue until there is room, or for some seconds."""
        if self._open:
            self._open = False
            self.loop.remove(self._epoll.fileno())
        if seconds is None:
            self._place.budget.wait(self.resume)
        else:
            self.loop.later(seconds, self.resume)

    def abort(self) -> None:
        """A fault came up while something was accepted: who waits is still there, and asked for a little later."""
        self.pause(RETRY_SECONDS)

    def _on_ready(self, _events: int) -> None:
        for fd, _ in self._epoll.poll(0, ACCEPTS_A_TURN):
            door = self._doors.get(fd)
            if door is not None and self._open:
                door.accept()


class TcpDoor:
    """One TCP frontend."""

    def __init__(self, place: Place, hall: Hall, sock: socket.socket, lead: Lead, patience: Patience) -> None:
        self._place, self._hall = place, hall
        self.lead = lead
        self.name = ""
        self._patience = patience
        self._drain = Drain(place, self)
        self._terms = USUAL
        self._trusted: Trusted | None = None
        self._asks = False
        """Whether the origin of a connection matters from its begin."""
        self.introduction: Introduction | None = None
        self._pick = lead.everyones_picker
        self.tallies = Tallies(place.counts)
        self.tally, self.own_tally = self.tallies.of, self.tallies.own
        self.idle_seconds, self.half_closed_seconds = IDLE_SECONDS, HALF_CLOSED_SECONDS
        self._watch: Watch = lead.pool or ALONE
        self._gate: Gate | None = None
        self._load: object = None
        self.open(sock)

    def open(self, sock: socket.socket) -> None:
        """Accept, also after `close`."""
        self._sock, self._family, self.fd = sock, int(sock.family), sock.fileno()
        self.rests = False
        """As its service has as many connections as it may."""
        self.address: Address = sock.getsockname()[:2]
        self.is_open = True
        sock.setblocking(False)
        self._hall.add(self)

    def update(self, slots: Slots = NO_SLOTS, terms: Terms = USUAL) -> None:
        """New connections go by what the lead says now; those that are open stay where they are."""
        self._pick = self.lead.everyones_picker
        self.name = self.lead.name
        pool = self.lead.pool
        self._watch = pool or ALONE
        if pool is not None and pool.gate is not self._gate:
            self._count_at(pool.gate)
        if pool is not None and pool.load is not self._load:
            self._load = pool.load
            self._place.loop.call(
                partial(relay.session.join, pool) for relay in tuple(self._place.relays) if relay.host is self
            )
        self.tallies.update(slots, self._place.loop.now)
        self.lead.show(self.tallies)
        if terms is not USUAL or self._terms is not USUAL:
            self._obey(terms)

    def _obey(self, terms: Terms) -> None:
        self._terms = terms
        self.idle_seconds = terms.idle_seconds or IDLE_SECONDS
        self.half_closed_seconds = terms.half_closed_seconds or HALF_CLOSED_SECONDS
        self._trusted = Trusted(terms.accept_proxy) if terms.accept_proxy else None
        self.introduction = HEADERS.get(terms.send_proxy)
        self._asks = self._trusted is not None or self.introduction is not None
        self._patience.mind(self)
        self._drain.begin(self.tallies.gone, terms.drain_seconds)

    def _count_at(self, gate: Gate | None) -> None:
        """There is a limit from now on: those who are here count, and nowhere else."""
        self._gate = gate
        if gate is None:
            return
        for relay in self._place.relays:
            if relay.host is self and relay.gate is not gate:
                if relay.gate is not None:
                    relay.gate.leave()
                relay.gate = gate
                gate.enter()

    def _rest(self, gate: Gate) -> None:
        """Let clients wait in the kernel's queue until others have gone."""
        self._hall.rest(self)
        self.tallies.own.add(AT_LIMIT)
        self.tallies.own.now(LIMITED_NOW, 1)
        gate.wait(self._wake)

    def _wake(self) -> None:
        self.tallies.own.now(LIMITED_NOW, -1)
        self._hall.wake(self)

    def hold(self) -> None:
        """Let clients wait in the kernel's queue."""
        self._hall.remove(self)

    def attend(self) -> None:
        """Take them."""
        if self.is_open:
            self._hall.add(self)

    def drain(self) -> None:
        """Take all clients from the queue, and close."""
        self._gate = None  # nobody accepts those who are left
        before = -1
        while before != self._place.counters.connections:
            before = self._place.counters.connections
            self.accept()
        self.close()

    def close(self) -> None:
        """Accept no more; open connections go on."""
        self.is_open = False
        self._hall.remove(self)
        self._patience.forget(self)
        self.tallies.close(self._place.loop.now)
        self._drain.begin(self.tallies.gone, self._terms.drain_seconds)
        self._place.loop.bury(self._sock)
        self._place.budget.give(1)

    def accept(self) -> None:
        """Take clients from the queue."""
        place = self._place
        accept = self._sock._accept  # type: ignore[attr-defined]  # noqa: SLF001  # accept() makes a costlier object
        gate = self._gate
        for _ in range(ACCEPTS_A_TURN):
            if gate is not None and gate.is_full:
                self._rest(gate)
                return
            if not place.budget.take(DESCRIPTORS):
                self._hall.pause()
                return
            try:
                number, address = accept()
            except OSError as error:
                place.budget.give(DESCRIPTORS)
                if isinstance(error, ConnectionError):
                    continue  # the client left while it waited
                if not isinstance(error, BlockingIOError):
                    self._stop_accepting(error)
                return
            client = _socket.socket(self._family, socket.SOCK_STREAM, 0, number)
            try:
                if self.lead.is_filtered:
                    admit_all(client)
                if self._asks:
                    self._greet(client, address[:2], gate)
                    continue
                relay = Relay(place, client, Session(self._pick or self.lead.picker(address[0]), self._watch), self)
                if place.log is not None and place.log.is_due():
                    relay.peer = address[:2]
            except Exception as error:  # noqa: BLE001 - a bug, which is this client's trouble alone
                self._abandon(client, error)
                continue
            if gate is not None:
                relay.gate = gate
                gate.come()
            relay.begin()

    def _stop_accepting(self, error: OSError) -> None:
        if error.errno == errno.EINVAL:  # the parent has shut it down, and is about to say so
            self._hall.remove(self)
        else:  # no descriptor, no memory
            self._hall.pause(RETRY_SECONDS)

    def _abandon(self, client: _socket.socket, error: Exception) -> None:
        """A fault came up before there was anything of a client but its socket."""
        self._place.loop.on_fault(self, error)
        reset_on_close(client)
        self._place.loop.bury(client)
        self._place.budget.give(DESCRIPTORS)

    def _greet(self, client: _socket.socket, peer: Address, gate: Gate | None) -> None:
        """Take one in whose origin matters."""
        place = self._place
        if self._trusted is None or not self._trusted.have(peer[0]):
            relay = self._relay(client, origin(client, peer))
            relay.gate = gate
            if gate is not None:
                gate.come()
            relay.begin()
            return
        refuse = partial(self._refuse, peer, gate, place.loop.now)
        Greeting(place, client, partial(self._greeted, peer, gate), refuse)
        place.counters.connections += 1
        place.counters.active += 1
        if gate is not None:
            gate.come()

    def _greeted(self, peer: Address, gate: Gate | None, client: _socket.socket, said: Header) -> None:
        relay, counters = self._relay(client, origin(client, peer, said)), self._place.counters
        counters.connections -= 1  # it is counted as every other from now on
        counters.active -= 1
        if gate is None and self._gate is not None:  # the limit came meanwhile
            gate = self._gate
            gate.enter()
        relay.gate = gate
        relay.begin()

    def _relay(self, client: _socket.socket, whose: Origin) -> Relay:
        session = Session(self._pick or self.lead.picker(whose.source[0]), self._watch)
        relay = Relay(self._place, client, session, self)
        relay.origin = whose
        return relay

    def _refuse(self, peer: Address, gate: Gate | None, came: float, client: _socket.socket, why: Why) -> None:
        place, log = self._place, self._place.log
        if why is not Why.FAULT:
            self.own_tally.add(BAD_HEADERS)
        if log is not None and log.is_due():
            entry = Entry(self.name, origin(client, peer), None, 0, 0, None, place.loop.now - came, 0, why)
            if not log.note(entry):
                self.own_tally.add(LOG_LOST)
        place.counters.active -= 1
        if gate is not None:
            gate.leave()
        reset_on_close(client)
        place.loop.bury(client)
        place.budget.give(DESCRIPTORS)
