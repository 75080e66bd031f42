"""Which client of a service stays with which backend (sessionAffinity). Pure.

Owns: how many notes there may be, and which is forgotten for another.
"""

from svcnet.proxy.row import Backend

MOST_NOTES = 1 << 18
"""Clients with a note, in one worker, over all services. Beyond it the client of a service that was away longest is
forgotten for the newest; it goes on by source hash."""
_EXPIRED_AT_ONCE = 2


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
