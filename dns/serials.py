"""Which serial each worker of a crew serves, in memory that they share: a number each, no message.

Owns: the block and what is behind. Must not know who is told of it.

The number behind the workers' is the control process': a serial before all that these workers serve, for as long as
workers of an earlier program answer on the same sockets.
"""

import mmap
import os

from svcnet.dns.journal import later

SERIAL_BYTES = 4


def block(workers: int) -> int:
    """Return the descriptor of a block for so many workers and those before them, for the caller to close."""
    fd = os.memfd_create("svcnet-dns-serials", os.MFD_CLOEXEC)
    os.ftruncate(fd, SERIAL_BYTES * (workers + 1))
    return fd


class Serials:
    """The block as worker `number` sees it. It begins anew: a worker that was killed had left its last serial."""

    def __init__(self, fd: int, number: int) -> None:
        self._cells = memoryview(mmap.mmap(fd, os.fstat(fd).st_size)).cast("I")
        self._number = number
        self.set(0)

    def set(self, serial: int) -> None:
        """What this worker serves. 0: nothing yet; then queries wait in its sockets, and find the newest."""
        self._cells[self._number] = serial

    def before(self, serial: int) -> None:
        """Somebody serves one before this."""
        self.set((serial - 1) & 0xFFFFFFFF or 0xFFFFFFFF)

    def reached(self, serial: int) -> bool:
        """Whether nobody is asked who would still tell of one before."""
        return not any(cell and later(serial, cell) for cell in self._cells)
