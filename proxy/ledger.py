"""What the workers have counted, from the daemon's side: whose each slot of their blocks is, and what is new in them.

Owns: the slots, and what was read of them. A slot goes to another owner only after a last look at it, and nothing is
ever set to zero: workers write, the ledger reads. Must not know what the sums are for.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from svcnet.model.frontend import Frontend
from svcnet.proxy.counts import (
    BYTES_IN,
    BYTES_OUT,
    CONNECTIONS,
    FAILURES,
    FIELDS,
    MOST_SLOTS,
    NOBODY,
    SLOT_BYTES,
    create,
)
from svcnet.proxy.row import Backend

CHUNK_BYTES = 4096
"""Compared with the last time at once: who is idle costs next to nothing."""


class Counted(NamedTuple):
    """What happened between a frontend and a backend since the last time; of None: where no backend took part."""

    front: Frontend
    backend: Backend | None
    connections: int
    bytes_in: int
    bytes_out: int
    failures: int


Owner = tuple[Frontend, Backend | None]


class Ledger:
    """Of so many workers. Each has a block of its own, with the same slots."""

    def __init__(self, workers: int) -> None:
        self._blocks = [create(number) for number in range(workers)]
        self._before = [b"" for _ in range(workers)]
        self._lock = threading.Lock()
        self._owners: list[Owner | None] = [None]
        self._slots: dict[Frontend, dict[Backend | None, int]] = {}
        self._leaving: list[int] = []
        self._free: list[int] = []
        self._news: list[Counted] = []

    def block(self, number: int) -> int:
        """The file descriptor of a worker's block."""
        return self._blocks[number]

    def assign(self, front: Frontend, backends: Iterable[Backend]) -> dict[Backend | None, int]:
        """A slot for a frontend, and one for each of its backends, the same as before for who has one.

        Without a free one it is NOBODY's.
        """
        with self._lock:
            mine = self._slots.setdefault(front, {})
            wanted = {None, *backends}
            for gone in mine.keys() - wanted:
                self._leave(mine.pop(gone))
            for new in wanted - mine.keys():
                mine[new] = self._allot((front, new))
            return dict(mine)

    def forget(self, front: Frontend) -> None:
        """It is gone."""
        with self._lock:
            for slot in self._slots.pop(front, {}).values():
                self._leave(slot)

    def settle(self) -> None:
        """The workers know by now who is gone: nobody counts there any more."""
        with self._lock:
            if self._leaving:
                self._news += self._read()
                for slot in self._leaving:
                    self._owners[slot] = None
                self._free += self._leaving
                self._leaving.clear()

    def take(self) -> list[Counted]:
        """What is new since the last time."""
        with self._lock:
            news, self._news = [*self._news, *self._read()], []
            return news

    def close(self) -> None:
        """Forget the blocks."""
        with self._lock:
            for fd in self._blocks:
                os.close(fd)
            self._blocks.clear()

    def _allot(self, owner: Owner) -> int:
        if self._free:
            slot = self._free.pop()
            self._owners[slot] = owner
        elif len(self._owners) < MOST_SLOTS:
            slot = len(self._owners)
            self._owners.append(owner)
        else:
            slot = NOBODY
        return slot

    def _leave(self, slot: int) -> None:
        if slot != NOBODY:
            self._leaving.append(slot)

    def _read(self) -> Iterator[Counted]:
        size = len(self._owners) * SLOT_BYTES
        for number, fd in enumerate(self._blocks):
            before = self._before[number].ljust(size, b"\0")
            now = os.pread(fd, size, 0)
            for begin in range(0, size, CHUNK_BYTES):
                end = begin + CHUNK_BYTES
                if now[begin:end] != before[begin:end]:
                    yield from self._differences(begin // SLOT_BYTES, now[begin:end], before[begin:end])
            self._before[number] = now

    def _differences(self, first: int, now: bytes, before: bytes) -> Iterator[Counted]:
        new, old = memoryview(now).cast("Q"), memoryview(before).cast("Q")
        for number in range(len(new) // FIELDS):
            owner = self._owners[first + number]
            at = number * FIELDS
            if owner is None or new[at : at + FIELDS] == old[at : at + FIELDS]:
                continue
            more = [new[at + field] - old[at + field] for field in range(FIELDS)]
            yield Counted(*owner, more[CONNECTIONS], more[BYTES_IN], more[BYTES_OUT], more[FAILURES])
