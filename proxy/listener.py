"""A worker's side of one frontend: who accepts, who is picked, which connections or flows it has.

Owns: accepting, and stopping to when file descriptors run out. Must not know where listeners come from.
"""

import errno
import select
import socket
from typing import Protocol

from svcnet.balance import RoundRobin
from svcnet.proxy.loop import Loop
from svcnet.proxy.place import Place
from svcnet.proxy.relay import DESCRIPTORS, Relay
from svcnet.proxy.row import Backend, Weights
from svcnet.proxy.session import Session

ACCEPTS_A_TURN = 64
RETRY_SECONDS = 0.1
"""When to accept again after the kernel had no descriptor or memory although the budget had room."""


class Door(Protocol):
    """What a frontend is to the worker."""

    def update(self, weights: Weights) -> None:
        """Send what is new to these."""
        ...

    def probe(self, idle_seconds: int) -> None:
        """Ask each client that is idle for so long whether it is there."""
        ...

    def let_in(self) -> None:
        """Take who waits."""
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
        self._doors[door.fd] = door
        self._epoll.register(door.fd, select.EPOLLIN)

    def remove(self, door: "TcpDoor") -> None:
        """Accept for it no more."""
        if self._doors.pop(door.fd, None) is not None:
            self._epoll.unregister(door.fd)

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

    def _on_ready(self, _events: int) -> None:
        for fd, _ in self._epoll.poll(0, ACCEPTS_A_TURN):
            door = self._doors.get(fd)
            if door is not None and self._open:
                door.accept()


class TcpDoor:
    """One TCP frontend."""

    def __init__(self, place: Place, hall: Hall, sock: socket.socket) -> None:
        self._place, self._hall, self._sock = place, hall, sock
        self._picker: RoundRobin[Backend] = RoundRobin()
        self._relays: set[Relay] = set()
        self.fd = sock.fileno()
        sock.setblocking(False)
        hall.add(self)

    def update(self, weights: Weights) -> None:
        """New connections go to these; those that are open stay where they are."""
        self._picker.update(weights)

    def probe(self, idle_seconds: int) -> None:
        """Ask each client that is idle for so long whether it is there."""
        for relay in self._relays:
            relay.probe(idle_seconds)

    def let_in(self) -> None:
        """Take all clients from the queue."""
        before = -1
        while before != self._place.counters.connections:
            before = self._place.counters.connections
            self.accept()

    def close(self) -> None:
        """Accept no more; open connections go on."""
        self._hall.remove(self)
        self._place.loop.bury(self._sock)
        self._place.budget.give(1)

    def accept(self) -> None:
        """Take clients from the queue."""
        place = self._place
        for _ in range(ACCEPTS_A_TURN):
            if not place.budget.take(DESCRIPTORS):
                self._hall.pause()
                return
            try:
                client, _ = self._sock.accept()
            except BlockingIOError:
                place.budget.give(DESCRIPTORS)
                return
            except ConnectionError:
                place.budget.give(DESCRIPTORS)  # the client left while it waited
                continue
            except OSError as error:
                place.budget.give(DESCRIPTORS)
                if error.errno == errno.EINVAL:  # the parent has shut it down, and is about to say so
                    self._hall.remove(self)
                else:  # no descriptor, no memory
                    self._hall.pause(RETRY_SECONDS)
                return
            relay = Relay(place, client, Session(self._picker.pick), self._gone)
            self._relays.add(relay)
            place.counters.connections += 1
            place.counters.active += 1
            relay.begin()

    def _gone(self, relay: Relay) -> None:
        self._relays.discard(relay)
        self._place.counters.active -= 1
