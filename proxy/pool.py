"""The backends of one service port, as all of its frontends and clients share them. Pure; `now` is an argument.

Owns: who gets a client's next connection, and which client stays where. A client without a note goes where its address
leads by source hash, so that all workers, and one that was just started, agree about it without telling each other.
"""

import socket
import struct
from collections.abc import Container
from functools import lru_cache

from svcnet.balance import RoundRobin
from svcnet.jhash import jhash, scaled
from svcnet.proxy.row import Backend, Choice, Service, Weights
from svcnet.rendezvous import Rendezvous

MOST_NOTES = 1 << 18
"""Clients with a note, in one worker, over all services. Beyond it the client of a service that was away longest is
forgotten for the newest; it goes on by source hash."""
HASH_SEED = 1
"""The kernel paths have the same: a client has one endpoint in every mode."""
_PORT = struct.Struct(">H2x")
_EXPIRED_AT_ONCE = 2


class Hashed:
    """Source hash, with the slots that the kernel paths have (svcnet/rendezvous.py)."""

    def __init__(self) -> None:
        self._table = Rendezvous()
        self._weights: Weights = {}
        self._slots: list[Backend] | None = []

    def update(self, weights: Weights) -> None:
        """Lead to these. The slots are filled when the first client comes."""
        if weights != self._weights:
            self._weights, self._slots = weights, None

    def pick(self, client: str, without: Container[Backend]) -> Backend | None:
        """Where a client belongs; instead of those `without`, always to the same other one."""
        if self._slots is None:
            named = {_key(backend): backend for backend in self._weights}
            self._slots = [named[key] for key in self._table.assign({k: self._weights[b] for k, b in named.items()})]
        slots = self._slots
        if not slots:
            return None
        at = scaled(hash_of(client), len(slots))
        if slots[at] not in without:
            return slots[at]
        after = (backend for backend in (*slots[at:], *slots[:at]) if backend not in without)
        return next(after, None)


class Room:
    """How many notes there may be."""

    def __init__(self, most: int = MOST_NOTES) -> None:
        self.most = most
        self.used = 0


class Notes:
    """Client → where it was last, and when; those that were away longest come first."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._found: dict[str, tuple[Backend, float]] = {}

    def __len__(self) -> int:
        """How many clients."""
        return len(self._found)

    def of(self, client: str, seconds: int, now: float) -> Backend | None:
        """Where a client stays. `seconds` 0: for ever."""
        note = self._found.get(client)
        return note[0] if note is not None and (not seconds or now - note[1] < seconds) else None

    def write(self, client: str, backend: Backend, seconds: int, now: float) -> None:
        """It stays there, from now on."""
        found = self._found
        self.forget(client)
        for _ in range(_EXPIRED_AT_ONCE):  # twice as fast as they come
            oldest = next(iter(found), None)
            if oldest is None or not (
                (seconds and now - found[oldest][1] >= seconds) or self._room.used >= self._room.most
            ):
                break
            self.forget(oldest)
        if self._room.used < self._room.most:
            found[client] = (backend, now)
            self._room.used += 1

    def forget(self, client: str) -> None:
        """It stays nowhere."""
        if self._found.pop(client, None) is not None:
            self._room.used -= 1

    def clear(self) -> None:
        """Nobody stays."""
        self._room.used -= len(self._found)
        self._found.clear()


class Scope:
    """Backends between which a choice is made: all of a service's, or those of this minion.

    Each has its own notes: a client that comes in both ways stays where it is on each.
    """

    def __init__(self, room: Room) -> None:
        self.weights: Weights = {}
        self.turns: RoundRobin[Backend] = RoundRobin()
        self.hashed = Hashed()
        self.notes = Notes(room)

    def update(self, weights: Weights) -> None:
        """From now on these."""
        if weights != self.weights:
            self.weights = weights
            self.turns.update(weights)
            self.hashed.update(weights)


class Pool:
    """Ask `pick` for each try of a connection; `without` are the backends that failed it."""

    def __init__(self, name: str, room: Room) -> None:
        self.name = name
        self.scopes = {False: Scope(room), True: Scope(room)}
        """Whether those of this minion alone → the scope."""
        self.choice = Choice.TURN
        self._seconds = 0
        self.users = 0
        """Frontends that lead here."""

    def update(self, service: Service) -> None:
        """What the daemon says of the service now."""
        self.scopes[False].update(service.targets)
        self.scopes[True].update(service.local)
        if service.choice is not Choice.AFFINITY:
            self.forget()
        self.choice, self._seconds = service.choice, service.seconds

    def forget(self) -> None:
        """No client stays where it is."""
        for scope in self.scopes.values():
            scope.notes.clear()

    def pick(self, client: str, now: float, without: Container[Backend] = (), *, local: bool = False) -> Backend | None:
        """The backend for a client's new connection, or for its next try; None when there is none."""
        scope = self.scopes[local]
        if self.choice is Choice.TURN:
            return scope.turns.pick(without)
        if self.choice is Choice.HASH:
            return scope.hashed.pick(client, without)
        stays = scope.notes.of(client, self._seconds, now)
        if stays is None or stays not in scope.weights or stays in without:
            stays = scope.hashed.pick(client, without)
        if stays is None:  # all failed
            scope.notes.forget(client)
        else:
            scope.notes.write(client, stays, self._seconds, now)
        return stays


@lru_cache(maxsize=4096)
def hash_of(client: str) -> int:
    """32 bits of a client's address."""
    return jhash(packed(client), HASH_SEED)


def packed(address: str) -> bytes:
    """An address as 4 or 16 bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address.partition("%")[0])


def _key(backend: Backend) -> bytes:
    """The bytes by which the kernel paths name an endpoint."""
    return packed(backend.address) + _PORT.pack(backend.port)
