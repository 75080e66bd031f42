"""What a worker has counted, in memory that the daemon reads too: no message, and nothing is lost with the worker.

Owns: the block and its slots. Who a slot belongs to is the daemon's to say: one for each frontend, one for each of its
backends. Slot 0 is nobody's: what is counted for who is gone.
"""

import mmap
import os

FIELDS = 4
CONNECTIONS, BYTES_IN, BYTES_OUT, FAILURES = range(FIELDS)
"""Connections (of UDP: flows); bytes from clients; bytes to them; dials that failed. 64 bits each."""
SLOT_BYTES = FIELDS * 8
MOST_SLOTS = 1 << 20
"""The block is a file in memory without pages until they are written to: its size costs nothing."""
NOBODY = 0


def create(number: int) -> int:
    """A new block, of a worker with this number; its file descriptor."""
    fd = os.memfd_create(f"svcnet-counts-{number}", os.MFD_CLOEXEC)
    os.ftruncate(fd, MOST_SLOTS * SLOT_BYTES)
    return fd


class Counts:
    """A worker's view of its block; without one (fd -1) what it counts is seen by nobody."""

    def __init__(self, fd: int = -1) -> None:
        size = SLOT_BYTES if fd < 0 else MOST_SLOTS * SLOT_BYTES
        self._one = fd < 0
        self.cells = memoryview(mmap.mmap(fd, size)).cast("Q")

    def at(self, slot: int) -> int:
        """Where the cells of a slot begin."""
        return 0 if self._one or not 0 <= slot < MOST_SLOTS else slot * FIELDS


class Tally:
    """Where what happens between one frontend and one backend is counted. `at` changes when the backend goes."""

    __slots__ = ("__weakref__", "at", "cells")

    def __init__(self, counts: Counts, slot: int = NOBODY) -> None:
        self.cells = counts.cells
        self.at = counts.at(slot)

    def move(self, counts: Counts, slot: int) -> None:
        """Count there from now on, also for connections that are open."""
        self.cells, self.at = counts.cells, counts.at(slot)

    def add(self, field: int, number: int = 1) -> None:
        """Count."""
        self.cells[self.at + field] += number
