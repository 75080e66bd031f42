"""The sockets by which secondaries are notified. Shell (asyncio).

Owns: one connected UDP socket and one timer a secondary. Must not know when what is told: that is the outbox'.

A message leaves from an address that this server answers on, as secondaries take none from elsewhere.
"""

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Iterable, Sequence

from svcnet.dns.notify import Outbox, message
from svcnet.dns.serials import Serials
from svcnet.dns.zone import Zone

log = logging.getLogger(__name__)

Address = tuple[str, int]
REPLY_BYTES = 512
DRAIN = 32
LOOK_SECONDS, MOST_SECONDS = 0.02, 5.0
"""How often it is looked whether all workers serve a change; for how long it waits for one that doesn't."""
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 (to know them)


class Notifier:
    """Tells `secondaries` of changes of `zone`; `own` are the addresses that it is served on.

    `serials`: other workers answer there too. They are told when all of them serve the change: who is told asks for the
    SOA, and whoever of the workers gets the question must not say that nothing is new.
    """

    def __init__(
        self, zone: Zone, secondaries: Iterable[Address], own: Sequence[str], serials: Serials | None = None
    ) -> None:
        self._zone = zone
        self._serials = serials
        self._told: dict[bytes, int] = {}
        self._lines = [Line(zone, secondary, own, self._reached) for secondary in secondaries]

    def _reached(self) -> bool:
        return self._serials is None or self._serials.reached(self._zone.serial)

    def look(self) -> None:
        """A change may be served now: tell of the zones that it concerned."""
        if self._serials is not None and self._zone.loaded:
            self._serials.set(self._zone.serial)
        if self._lines and self._zone.loaded:
            fresh = [apex for apex, serial in self._zone.changed.items() if self._told.get(apex) != serial]
            self._told = dict(self._zone.changed)
            for line in self._lines if fresh else ():
                line.changed(fresh)


class Line:
    """The way to one secondary. `reached`: whether it may be told of what this worker serves."""

    def __init__(self, zone: Zone, secondary: Address, own: Sequence[str], reached: Callable[[], bool]) -> None:
        self._zone = zone
        self._reached = reached
        self._due_since: float | None = None
        self._secondary = secondary
        self._own = own
        self._outbox = Outbox()
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._code = 0

    def changed(self, apexes: Iterable[bytes]) -> None:
        """Tell of these zones soon."""
        self._outbox.changed(apexes, asyncio.get_running_loop().time())
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self._outbox.next()
        self._timer = asyncio.get_running_loop().call_at(at, self._send) if at is not None else None

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._reached() and now - (self._due_since or now) < MOST_SECONDS:
            self._due_since = self._due_since or now
            self._timer = loop.call_at(now + LOOK_SECONDS, self._send)
            return
        self._due_since = None
        for ident, apex in self._outbox.take(loop.time(), lambda: random.getrandbits(16)):
            with contextlib.suppress(OSError):  # no way there at the moment: it goes again
                if self._socket is None:
                    self._socket = connected(self._secondary, self._own)
                    loop.add_reader(self._socket, self._read, self._socket)
                self._socket.send(message(ident, self._zone.soa(self._zone.mounts[apex])))
        self._schedule()

    def _read(self, bound: socket.socket) -> None:
        for _ in range(DRAIN):
            try:
                code = self._outbox.answered(bound.recv(REPLY_BYTES), asyncio.get_running_loop().time())
            except BlockingIOError:
                break
            except OSError:  # nobody listens there
                continue
            if code not in {None, self._code}:
                log.info("dns notify secondary=%s code=%s", self._secondary[0], code)
                self._code = code or 0
        self._schedule()


def connected(secondary: Address, own: Sequence[str]) -> socket.socket:
    """Return a UDP socket to a secondary, from one of our `own` addresses if one leads there. OSError: no way."""
    usual = _from("", secondary)
    those = [address for address in own if (":" in address) == (":" in secondary[0])]
    if usual.getsockname()[0] in those or WILDCARDS & set(those):
        return usual
    for address in those:
        with contextlib.suppress(OSError):
            chosen = _from(address, secondary)
            usual.close()
            return chosen
    return usual


def _from(source: str, secondary: Address) -> socket.socket:
    fresh = socket.socket(socket.AF_INET6 if ":" in secondary[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        fresh.setblocking(False)
        if source:
            fresh.bind((source, 0))
        fresh.connect(secondary)
    except OSError:
        fresh.close()
        raise
    return fresh
