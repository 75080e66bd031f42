"""What the connections of one worker share: the loop, the buffer, the pipes, the file descriptors that are left.

Owns: their numbers. Must not know what a connection does with them.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from svcnet.proxy.counts import Counts
from svcnet.proxy.loop import Loop

if TYPE_CHECKING:
    from svcnet.proxy.connection_log import ConnectionLog
    from svcnet.proxy.relay import Relay

BUFFER_BYTES = 256 * 1024
PIPE_BYTES = 256 * 1024
"""With four times as much one connection goes in lockstep: the far ends sleep while the pipe is filled and emptied."""
MOST_HELD_BYTES = 64 << 20
"""What slow readers may leave in this process's memory; beyond it no read takes more than SMALL_READ_BYTES."""
SMALL_READ_BYTES = 4096
RESERVED = 24
"""File descriptors that are never given to connections: epolls, the control socket, what Python opens."""
MOST_AHEAD = 256
"""More that are kept for listeners to come, in a large process; an eighth in a small one."""
HYSTERESIS = 0.95


class Pipe(NamedTuple):
    """Where spliced bytes are between two sockets."""

    read: int
    write: int


class Budget:
    """File descriptors of this process: `total` may be given out, listeners and pipes among them."""

    def __init__(self, limit: int) -> None:
        self.total = max(2, limit - RESERVED - min(MOST_AHEAD, limit // 8))
        self.used = 0
        self._waiting: Callable[[], None] | None = None

    def take(self, number: int) -> bool:
        """Whether there are so many left; then they are given out."""
        if self.used + number > self.total:
            return False
        self.used += number
        return True

    def give(self, number: int) -> None:
        """Back; whoever waits is called once a little room is there."""
        self.used -= number
        if self._waiting is not None and self.used <= self.total * HYSTERESIS:
            waiting, self._waiting = self._waiting, None
            waiting()

    def wait(self, callback: Callable[[], None]) -> None:
        """Call once there is room again."""
        self._waiting = callback


class Pipes:
    """Pipes that are lent while they hold bytes, and kept for the next one. None when there can't be another."""

    def __init__(self, budget: Budget, most: int) -> None:
        self._budget = budget
        self._most = most
        self._made = 0
        self._free: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe."""
        if self._free:
            return self._free.pop()
        if self._made >= self._most or not self._budget.take(2):
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            self._budget.give(2)
            return None
        self._made += 1
        with contextlib.suppress(OSError):  # a smaller one serves too (pipe-user-pages-soft)
            fcntl.fcntl(pipe.write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Back, empty."""
        self._free.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Back, with bytes that nobody wants."""
        os.close(pipe.read)
        os.close(pipe.write)
        self._made -= 1
        self._budget.give(2)


class Counters:
    """What happened so far; plain numbers."""

    __slots__ = ("active", "connections", "dial_failures", "flows", "given_up", "idle", "refused_for_room")

    def __init__(self) -> None:
        self.connections = self.active = self.dial_failures = self.given_up = self.flows = self.refused_for_room = 0
        self.idle = 0
        """Connections that were ended because nothing was said for too long."""

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Place:
    """All of it."""

    def __init__(self, loop: Loop, limit: int) -> None:
        self.loop = loop
        self.budget = Budget(limit)
        self.pipes = Pipes(self.budget, max(2, limit // 32))
        self.counters = Counters()
        self.counts = Counts()
        self.log: ConnectionLog | None = None
        """Of connections, if anybody wants one."""
        self.relays: dict[Relay, None] = {}
        """Every open TCP connection: a set of so many takes twice the memory."""
        self.half_closed: set[Relay] = set()
        """Those of them of which one side has finished."""
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.read_bytes = BUFFER_BYTES
        """How much one read may take."""
        self._held = 0

    def hold(self, number: int) -> None:
        """So many bytes more (less) wait for slow readers."""
        self._held += number
        self.read_bytes = SMALL_READ_BYTES if self._held > MOST_HELD_BYTES else BUFFER_BYTES
