"""What a worker has counted, in memory that the daemon reads too: no message, and nothing is lost with the worker.

Owns: the block, its slots, and what is in one. Who a slot belongs to is the daemon's to say: one for each frontend, one
for each of its backends. Slot 0 is nobody's: what is counted for who is gone. Nobody sets a cell to zero: what is read
is differences.

A slot has CELLS of 64 bits, then the buckets of two histograms, of 32 bits, which begin again at 2**32. How many
connections are open is no cell: it is CONNECTIONS, less all that are in the buckets of LIVES, and CARRIED.
"""

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator

CELLS = 23
(
    CONNECTIONS,
    BYTES_IN,
    BYTES_OUT,
    REFUSED,
    TIMED_OUT,
    UNREACHABLE,
    RETRIES,
    REDISPATCHES,
    CLIENT_RESETS,
    SERVER_RESETS,
    IDLE,
    DRAINED,
    GIVEN_UP,
    NO_ROOM,
    BAD_HEADERS,
    EJECTIONS,
    NOW,
    AT_LIMIT,
    QUEUE_TIMEOUTS,
    LOG_LOST,
    CARRIED,
    DIAL_MICROSECONDS,
    LIFE_MILLISECONDS,
) = range(CELLS)
"""Connections that a backend has taken (of UDP: flows); bytes from clients; bytes to them. Dials that failed, by kind.
Dials after one that failed, to the same backend and to another one. Connections that ended by a reset of one side, by
silence, by a drain. Clients that nobody answered, that there was no room for, whose PROXY header was bad. How often the
backend was ejected. What is so now (below), the only cell that falls. How often accepting stopped, as there were as
many connections as may be. Clients that waited too long for a backend with room. Lines of the log that could not be
written. Open connections that came from another slot, less those that went to one. What was spent on dials, and between
a client's coming and the end of its connection."""
EJECTED_NOW, LIMITED_NOW, QUEUED_NOW = (0, 24), (24, 16), (40, 24)
"""What is in NOW: the first bit of each, and how many bits it has in a slot. Whether the backend is ejected; whether
accepting has stopped; how many clients wait."""
DIAL_BOUNDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0, 2.5)
LIFE_BOUNDS = (0.01, 0.1, 0.5, 1.0, 10.0, 60.0, 600.0, 3600.0)
"""Upper bounds of the buckets, in seconds; there is one more, of what is above."""
BUCKETS = len(DIAL_BOUNDS) + 1
FIELDS = 32
"""The length of a slot, in units of 64 bits: a page holds whole slots. What is not used comes before the buckets."""
DIALS, LIVES = 2 * (FIELDS - BUCKETS), 2 * FIELDS - BUCKETS
"""Where the buckets begin, in units of 32 bits."""
SLOT_BYTES = FIELDS * 8
MOST_SLOTS = 1 << 20
"""The block is a file in memory without pages until they are written to: its size costs nothing."""
NOBODY = 0
_WORD, _LONG = (1 << 32) - 1, (1 << 64) - 1


def create(number: int) -> int:
    """A new block, of a worker with this number; its file descriptor."""
    fd = os.memfd_create(f"svcnet-counts-{number}", os.MFD_CLOEXEC)
    os.ftruncate(fd, MOST_SLOTS * SLOT_BYTES)
    return fd


def written(fd: int) -> Iterator[tuple[int, int]]:
    """The parts of a block that have pages, as bytes from and to: the others are 0, and must not be looked at."""
    end = 0
    while True:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: there are no more
            return
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end


class Counts:
    """A worker's view of its block; without one (fd -1) what it counts is seen by nobody."""

    def __init__(self, fd: int = -1) -> None:
        size = SLOT_BYTES if fd < 0 else MOST_SLOTS * SLOT_BYTES
        self._one = fd < 0
        block = memoryview(mmap.mmap(fd, size))
        self.cells = block.cast("Q")
        self.small = block.cast("I")
        """The same memory by 32 bits."""
        if fd >= 0:
            self._bury(fd)

    def at(self, slot: int) -> int:
        """Where the cells of a slot begin."""
        return 0 if self._one or not 0 <= slot < MOST_SLOTS else slot * FIELDS

    def _bury(self, fd: int) -> None:
        """A worker that was killed here before has no open connections any more, and leaves nobody alone."""
        for begin, end in written(fd):
            for slot in range(-(-begin // SLOT_BYTES), end // SLOT_BYTES):
                at = slot * FIELDS
                left = still_open(self.cells[at : at + CELLS].tolist(), self.small[2 * at : 2 * at + 2 * FIELDS])
                self.cells[at + CARRIED] = (self.cells[at + CARRIED] - left) & _LONG
                self.cells[at + NOW] = 0


def still_open(cells: list[int], small: memoryview) -> int:
    """How many connections a slot has now."""
    return (cells[CONNECTIONS] + cells[CARRIED] - sum(small[LIVES : LIVES + BUCKETS])) & _WORD


def part_of(now: int, part: tuple[int, int]) -> int:
    """How many are so, of what is in NOW; sums of several slots may have it too."""
    first, bits = part
    return now >> first & (1 << bits) - 1


class Tally:
    """Where what happens between one frontend and one backend is counted. `at` changes when the backend goes."""

    __slots__ = ("__weakref__", "at", "cells", "gone_at", "open", "small", "so_now")

    def __init__(self, counts: Counts, slot: int = NOBODY) -> None:
        self.cells, self.small = counts.cells, counts.small
        self.at = counts.at(slot)
        self.open = 0
        """Connections now."""
        self.so_now = 0
        """What it put in NOW."""
        self.gone_at: float | None = None
        """Since when the backend is gone, on the loop's clock."""

    @property
    def is_out(self) -> bool:
        """What was marked last."""
        return part_of(self.cells[self.at + NOW], EJECTED_NOW) > 0

    def move(self, counts: Counts, slot: int) -> None:
        """Count there from now on, also for connections that are open."""
        self._go(counts.cells, counts.small, counts.at(slot))

    def join(self, other: "Tally") -> None:
        """Count where another does."""
        self._go(other.cells, other.small, other.at)

    def mark(self, *, out: bool, news: bool = True) -> None:
        """It is out from now on, or no more; `news`: since this moment."""
        self.now(EJECTED_NOW, out - self.is_out)
        self.cells[self.at + EJECTIONS] += out and news

    def add(self, field: int, number: int = 1) -> None:
        """Count."""
        self.cells[self.at + field] += number

    def now(self, part: tuple[int, int], more: int) -> None:
        """So many more, or less, are so now."""
        number = more << part[0]
        self.so_now += number
        self.cells[self.at + NOW] = (self.cells[self.at + NOW] + number) & _LONG

    def began(self) -> None:
        """A backend has taken a connection, or a flow leads to it."""
        self.open += 1
        self.cells[self.at + CONNECTIONS] += 1

    def dialled(self, seconds: float) -> None:
        """The same, after a dial of so long."""
        self.open += 1
        cells, at = self.cells, self.at
        cells[at + CONNECTIONS] += 1
        cells[at + DIAL_MICROSECONDS] += int(seconds * 1e6)
        bucket = 2 * at + DIALS + bisect_left(DIAL_BOUNDS, seconds)
        self.small[bucket] = (self.small[bucket] + 1) & _WORD

    def ended(self, seconds: float) -> None:
        """One ends that lived for so long."""
        self.open -= 1
        self.cells[self.at + LIFE_MILLISECONDS] += int(seconds * 1e3)
        bucket = 2 * self.at + LIVES + bisect_left(LIFE_BOUNDS, seconds)
        self.small[bucket] = (self.small[bucket] + 1) & _WORD

    def _go(self, cells: memoryview, small: memoryview, at: int) -> None:
        if self.so_now:
            self.cells[self.at + NOW] = (self.cells[self.at + NOW] - self.so_now) & _LONG
            cells[at + NOW] = (cells[at + NOW] + self.so_now) & _LONG
        if self.open:
            self.cells[self.at + CARRIED] = (self.cells[self.at + CARRIED] - self.open) & _LONG
            cells[at + CARRIED] = (cells[at + CARRIED] + self.open) & _LONG
        self.cells, self.small, self.at = cells, small, at
