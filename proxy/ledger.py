"""What the workers have counted, from the daemon's side: whose each slot of their blocks is, and what is new in them.

Owns: the slots, and what was read of them. A slot goes to another owner only after a last look at it, and nothing is
ever set to zero: workers write, the ledger reads. Must not know what the sums are for.
"""

import os
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from svcnet.model.frontend import Frontend
from svcnet.proxy.counts import (
    BUCKETS,
    BYTES_IN,
    BYTES_OUT,
    CARRIED,
    CELLS,
    CONNECTIONS,
    DIALS,
    FIELDS,
    LIVES,
    MOST_SLOTS,
    NOBODY,
    SLOT_BYTES,
    create,
    written,
)
from svcnet.proxy.row import Backend

CHUNK_BYTES = 4096
"""Compared with the last time at once: who is idle costs next to nothing."""
_NOTHING = bytes(CHUNK_BYTES)


class Counted(NamedTuple):
    """What happened between a frontend and a backend since the last time; of None: where no backend took part."""

    front: Frontend
    backend: Backend | None
    cells: tuple[int, ...]
    """By the fields of counts.py."""
    dials: tuple[int, ...]
    lives: tuple[int, ...]
    """By bucket: dials that were answered, and connections that ended."""

    @property
    def connections(self) -> int:
        """Of UDP: flows."""
        return self.cells[CONNECTIONS]

    @property
    def bytes_in(self) -> int:
        """From clients."""
        return self.cells[BYTES_IN]

    @property
    def bytes_out(self) -> int:
        """To clients."""
        return self.cells[BYTES_OUT]


Owner = tuple[Frontend, Backend | None]
_CELLS, _WORDS = struct.Struct(f"={CELLS}Q"), struct.Struct(f"={2 * FIELDS}I")
_HALF, _SMALL = 1 << 63, 1 << 32


class Ledger:
    """Of so many workers. Each has a block of its own, with the same slots."""

    def __init__(self, workers: int) -> None:
        self._blocks = [create(number) for number in range(workers)]
        self._before: list[dict[int, bytes]] = [{} for _ in range(workers)]
        """By place in the block."""
        self._lock = threading.Lock()
        self._owners: list[Owner | None] = [None]
        self._slots: dict[Frontend, dict[Backend | None, int]] = {}
        self._leaving: list[int] = []
        self._free: list[int] = []
        self._news: list[Counted] = []
        self._is_read = True

    def forgo(self) -> None:
        """Nobody will `take`: keep nothing for it."""
        self._is_read = False

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
                self._news += self._read() if self._is_read else ()
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
        for fd, before in zip(self._blocks, self._before, strict=True):
            for begin, end in written(fd):  # pages are whole chunks
                read = os.pread(fd, end - begin, begin)
                for at in range(0, len(read), CHUNK_BYTES):
                    now, old = read[at : at + CHUNK_BYTES], before.get(begin + at, _NOTHING)
                    if now != old:
                        before[begin + at] = now
                        yield from self._differences((begin + at) // SLOT_BYTES, now, old)

    def _differences(self, first: int, now: bytes, before: bytes) -> Iterator[Counted]:
        for at in range(0, len(now), SLOT_BYTES):
            new, old = now[at : at + SLOT_BYTES], before[at : at + SLOT_BYTES]
            number = first + at // SLOT_BYTES
            owner = self._owners[number] if number < len(self._owners) else None
            if owner is not None and new != old:
                yield Counted(*owner, *_more(new, old))


def _more(new: bytes, old: bytes) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What came to the cells, and to both histograms, of one slot."""
    cells = [n - o for n, o in zip(_CELLS.unpack_from(new), _CELLS.unpack_from(old), strict=True)]
    cells[CARRIED] = (cells[CARRIED] + _HALF) % (2 * _HALF) - _HALF  # it goes both ways
    small = [(n - o) % _SMALL for n, o in zip(_WORDS.unpack_from(new), _WORDS.unpack_from(old), strict=True)]
    return tuple(cells), tuple(small[DIALS : DIALS + BUCKETS]), tuple(small[LIVES : LIVES + BUCKETS])
