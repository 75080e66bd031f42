"""A worker: moves the bytes of all frontends it is told of. `python -m svcnet.proxy.worker FD`.

Owns: the process. FD is its end of the socket to the daemon, from which listeners and rows come (wire.py); it ends when
that does, or with its parent, until it is told to `stay`. Never reads a store, opens no listener of its own.

A message has `counts`: where it counts comes with it (counts.py), first of all; `pods`: the networks of pods, before
all `put`, as is `log`: one connection of so many is logged; `put`, rows of [id, protocol, listener, filtered, rule,
slot, slots], where listener says whether its socket comes with it, filtered whether that lets in some alone, rule is
what `Rule.encoded` gives; slot (of the frontend) and slots ([address, port, slot] of each backend) are where is
counted; `drop`, ids; and `ack`, a number that comes back when all of it is in force. `wait`: accept nothing until
`serve`; `stay`: when the daemon is gone, serve on, and be found by the next one (heirs.py); `probe`: let connections
that are idle for so many seconds send a packet; `drain`: accept no more, and end with the last connection; `end`: at
once. A message, or a row of one, that can't be obeyed is a fault as any other (faults.py): what was so before stays so.

What it says itself: `ack`, 0 where nobody asked, with what it has counted; `trace` is of a fault.
"""

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from svcnet.proxy.account import note
from svcnet.proxy.connection_log import ConnectionLog
from svcnet.proxy.counts import NOBODY, Counts
from svcnet.proxy.datagram import UdpDoor
from svcnet.proxy.faults import Faults
from svcnet.proxy.heirs import Heirs
from svcnet.proxy.lead import Lead, Neighbours
from svcnet.proxy.listener import Door, Hall, TcpDoor
from svcnet.proxy.loop import Loop
from svcnet.proxy.notes import Room
from svcnet.proxy.patience import Patience
from svcnet.proxy.place import Place
from svcnet.proxy.pool import Pool
from svcnet.proxy.relay import DESCRIPTORS
from svcnet.proxy.row import Backend, Rule, Service
from svcnet.proxy.tallies import Slots
from svcnet.proxy.way import Ways
from svcnet.proxy.why import Why
from svcnet.wire import Inbox, send

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
SPARE, WORKER = b"proxy-spare", b"proxy-worker"
"""What ps(1) calls the process (comm): while it waits in case that another ends, and once it serves."""
TELLING_SECONDS = 0.05
"""Faults of so long are told together."""
DRAINED_SECONDS = 0.05
"""How often a worker that accepts no more looks whether connections are left."""


class Worker:
    """The frontends of one process."""

    def __init__(self, control: socket.socket, limit: int) -> None:
        self._control = control
        self.faults = Faults(time.monotonic, self._say)
        self._loop = Loop(on_fault=self._take_fault)
        self._place = Place(self._loop, limit)
        self._hall = Hall(self._place)
        self._patience = Patience(self._place)
        self._patience.start()
        self._doors: dict[int, Door] = {}
        self._closed: WeakValueDictionary[tuple[str, tuple[str, int]], TcpDoor] = WeakValueDictionary()
        """By service and address, as long as connections of theirs are open."""
        self._pools: dict[str, Pool] = {}
        self._room = Room()
        self._ways = Ways()
        self._neighbours = Neighbours((), self._ways.is_local)
        self._inbox = Inbox()
        self._heirs = Heirs(self._loop, self)
        self._traces: list[str] = []
        self._is_telling = False
        """Of faults, in a moment."""
        self._called = self._waits = self._stays = self._drains = False
        self.is_led = True
        # Level-triggered: one read a turn, however much there is.
        self._loop.add(control.fileno(), self._on_control, select.EPOLLIN)

    def run(self) -> None:
        """Serve until the daemon ends, or beyond that."""
        self._loop.run()
        log = self._place.log
        if log is not None:
            for relay in self._place.relays:
                note(relay, log, Why.SHUTDOWN, self._loop.now)
            log.close()

    def on_term(self, _number: int, _frame: object) -> None:
        """Service managers send it to all processes at once: as long as a daemon is there, the end is its to say."""
        if not self.is_led and not self._heirs.are_there:
            self._loop.stop()

    def listeners(self) -> Iterable[int]:
        """File descriptors of what it accepts at."""
        return [door.fd for door in self._doors.values() if door.is_open]

    def hold(self) -> None:
        """Accept nothing."""
        self._waits = True
        for door in self._doors.values():
            door.hold()

    def release(self) -> None:
        """Accept."""
        self._waits = False
        for door in self._doors.values():
            door.attend()

    def _on_control(self, _events: int) -> None:
        if not self._called:
            self._called = True
            call_it(WORKER)
        try:
            alive = self._inbox.receive(self._control)
        except ConnectionError:  # it went without having read all that we said
            alive = False
        except OSError as error:
            sys.exit(f"proxy worker: {error}")  # the next one is told everything again
        while self._hear():
            pass
        if not alive:
            self._lose_daemon()

    def _hear(self) -> bool:
        """Obey one message; whether there was one."""
        try:
            got = self._inbox.take()
            if got is not None:
                self._obey(*got)
        except Exception as error:  # noqa: BLE001 - what was so before stays so
            self._loop.on_fault(self, error)
            return True
        return got is not None

    def _take_fault(self, owner: object, error: Exception) -> None:
        self.faults.take(owner, error)
        if not self._is_telling:
            self._is_telling = True
            self._loop.later(TELLING_SECONDS, self._tell_faults)

    def _say(self, trace: str) -> None:
        self._traces.append(trace)

    def _tell_faults(self) -> None:
        """Tell the daemon, which counts them and has a log; without one there is stderr."""
        self._is_telling = False
        trace, self._traces = "".join(self._traces), []
        if not self.is_led:
            sys.stderr.write(trace)
        elif self._is_heard():  # one that does not read is not waited for
            self._confirm(0, trace)

    def _is_heard(self) -> bool:
        """Whether there is room for a word to the daemon. By poll(2), as select(2) knows no descriptor above 1023."""
        asks = select.poll()
        asks.register(self._control, select.POLLOUT)
        return bool(asks.poll(0))

    def _lose_daemon(self) -> None:
        self.is_led = False
        self._loop.bury(self._control)
        if not (self._stays or self._drains):
            self._loop.stop()

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        self._loop.call([partial(self._drop, ident) for ident in message.get("drop", ())])
        if "counts" in message:
            self._place.counts = Counts(fds[0])
            os.close(fds[0])
        if message.get("log"):
            self._place.log = ConnectionLog(message["log"])
        if "pods" in message:
            self._neighbours = Neighbours(message["pods"], self._ways.is_local)
        given = iter(fds)
        self._loop.call([partial(self._put, given, row) for row in message.get("put", ())])
        if "stay" in message:
            self._stay()
        if "wait" in message or "serve" in message:
            (self.hold if "wait" in message else self.release)()
        self.carry_out(message)
        if "ack" in message:  # when the sockets that were dropped are closed
            self._loop.again(partial(self._confirm, message["ack"]))

    def carry_out(self, message: dict[str, Any]) -> None:
        """What whoever may tell it anything may ask: `probe`, `drain`, `end`."""
        if "probe" in message:
            self._loop.call([partial(relay.probe, message["probe"]) for relay in self._place.relays])
        if "drain" in message and not self._drains:
            self._drains = True
            self._drain_all()
        if "end" in message:
            self._loop.stop()

    def _put(self, given: Iterator[int], row: list[Any]) -> None:
        """A frontend. One that is new is opened whatever its rule is: who comes is refused then, not left to wait."""
        ident, protocol, listener, filtered, told, *slots = row
        if listener:
            self._open(ident, protocol, socket.socket(fileno=next(given)), told[0])
        rule, door = Rule.decoded(told), self._doors[ident]
        door.lead.is_filtered = filtered
        self._follow(door, rule, _slots(*slots))

    def _drop(self, ident: int) -> None:
        door = self._doors.pop(ident, None)
        if door is not None:
            if isinstance(door, TcpDoor):
                self._closed[door.name, door.address] = door
            self._forget(door.lead.follow(None))
            door.close()

    def _stay(self) -> None:
        try:
            self._heirs.listen()
        except OSError as error:  # nobody could take over what it serves: better that it ends
            sys.stderr.write(f"proxy worker: ends with its daemon: {error}\n")
            return
        self._stays = True
        end_with_parent(0)

    def _follow(self, door: Door, rule: Rule, slots: Slots) -> None:
        pool = self._pools.get(rule.service.name)
        if pool is None:
            pool = self._pools[rule.service.name] = Pool(rule.service.name, self._room, self._loop)
        pool.update(rule.service)
        self._forget(door.lead.follow(pool, rule.reach))
        door.update(slots, rule.service.terms)

    def _forget(self, idle: Pool | None) -> None:
        """A pool that no frontend leads to."""
        if idle is not None:
            idle.update(Service(idle.name, {}))  # nowhere: who waits for an endpoint is told so
            del self._pools[idle.name]

    def _drain_all(self) -> None:
        """Serve who is here, or waits to be accepted, and nobody else."""
        end_with_parent(0)
        self._loop.call([door.drain for door in self._doors.values()])
        self._end_when_empty()

    def _end_when_empty(self) -> None:
        if self._place.counters.active or self._place.counters.flows:
            self._loop.later(DRAINED_SECONDS, self._end_when_empty)
        else:
            self._loop.stop()

    def _confirm(self, number: int, trace: str = "") -> None:
        with contextlib.suppress(OSError):  # the daemon is gone, which the next read will tell
            said = {"most_connections": self._place.budget.total // DESCRIPTORS, "faults": self.faults.count}
            told = {"fault": self.faults.last, "trace": trace} if self.faults.count else {}
            send(self._control, {"ack": number, **said, **told, **self._place.counters.as_dict()})

    def _open(self, ident: int, protocol: str, sock: socket.socket, service: str) -> None:
        # A listener always gets its place: the daemon keeps their number below what a worker can have.
        self._place.budget.used += 1
        place, lead = self._place, Lead(self._neighbours, lambda: self._loop.now)
        if protocol == "udp":
            door: Door = UdpDoor(place, sock, lead)
        elif (closed := self._closed.pop((service, sock.getsockname()[:2]), None)) is not None:
            closed.open(sock)  # its endpoints, those that are back, keep their connections
            door = closed
        else:
            door = TcpDoor(place, self._hall, sock, lead, self._patience)
        self._doors[ident] = door
        if self._waits:
            door.hold()


def _slots(own: int = NOBODY, others: Iterable[tuple[str, int, int]] = ()) -> Slots:
    return {None: own} | {Backend(address, port): slot for address, port, slot in others}


def end_with_parent(number: int) -> None:
    """Ask for a signal at the end of the thread that started us; 0: for none."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: the end of the socket ends us too
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def call_it(name: bytes) -> None:
    """Give this process a name."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name)


def main() -> None:
    """Entry point."""
    end_with_parent(signal.SIGKILL)
    call_it(SPARE)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the daemon blocks some while it starts
    for number in (signal.SIGINT, signal.SIGHUP):  # meant for the daemon, which a terminal would not tell apart
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    worker = Worker(control, limit)
    signal.signal(signal.SIGTERM, worker.on_term)
    # Connections break their cycles when they end: nothing is left for a collector to find.
    gc.freeze()
    gc.disable()
    worker.run()


if __name__ == "__main__":
    main()
