"""Who may stay connected when many are: no client takes the room of the others (RFC 7766 §6.2.2). Pure.

Owns: the count of connections by client, and which of them goes. Must not know sockets: it is told, and names who goes.
"""

import ipaddress
from collections import defaultdict
from typing import Generic, TypeVar

MOST_CONNECTIONS = 256
SHARE_OF_FILES = 4
"""Connections take one over this of the file descriptors that the process may have: other names upstream need some."""
SHARE_OF_ONE = 4
"""One client takes one over this of all connections."""

C = TypeVar("C")


class Guest(Generic[C]):
    """One connection from an address. `busy`: it waits for an answer, or for room to write one."""

    __slots__ = ("address", "busy", "client", "connection", "seen")

    def __init__(self, address: str, connection: C) -> None:
        self.address = address
        self.client = client_of(address)
        self.connection = connection
        self.busy = 0
        self.seen = 0


class Crowd(Generic[C]):
    """All connections."""

    def __init__(self) -> None:
        self._of: defaultdict[str, set[Guest[C]]] = defaultdict(set)
        self._number = 0
        self._clock = 0

    def __len__(self) -> int:
        return self._number

    def enter(self, address: str, connection: C, files: int) -> tuple[Guest[C], Guest[C] | None]:
        """Let a connection in; return it, and who has to go for it. `files`: descriptors that the process may have."""
        most = max(min(MOST_CONNECTIONS, files // SHARE_OF_FILES), 2)
        guest = Guest(address, connection)
        self._of[guest.client].add(guest)
        self._number += 1
        self.active(guest)
        if len(self._of[guest.client]) > max(most // SHARE_OF_ONE, 1):
            return guest, self._out(_first(self._of[guest.client], guest))
        return guest, self.make_room(guest) if self._number > most else None

    def active(self, guest: Guest[C]) -> None:
        """It asked something."""
        self._clock += 1
        guest.seen = self._clock

    def leave(self, guest: Guest[C]) -> None:
        """It is gone, as it may be already."""
        there = self._of.get(guest.client, set())
        if guest in there:
            there.remove(guest)
            self._number -= 1
            if not there:
                del self._of[guest.client]

    def make_room(self, but: Guest[C] | None = None) -> Guest[C] | None:
        """Let one out: of the clients with most connections the one that has been idle for longest. O(connections)."""
        most = max((len(there) for there in self._of.values()), default=0)
        return self._out(_first({guest for there in self._of.values() if len(there) == most for guest in there}, but))

    def _out(self, guest: Guest[C] | None) -> Guest[C] | None:
        if guest is not None:
            self.leave(guest)
        return guest


def client_of(address: str) -> str:
    """Return what counts as one client: an address, in IPv6 its /64, as a host has all of one."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False).network_address)


def _first(guests: set[Guest[C]], but: Guest[C] | None) -> Guest[C] | None:
    return min((g for g in guests if g is not but), key=lambda g: (g.busy > 0, g.seen), default=None)
