"""Bytes from one socket to another: by copy, and by splice while much comes at a time.

Owns: one end of a connection, the moving, the change between the two ways. Must not know why bytes are moved, nor what
an end or a break of one side means for the other.

Copying costs least for small messages (one recv, one send); splice for bulk (half of the CPU per byte). A read of
SPLICE_FROM_BYTES or more is followed by splice, a splice of less than COPY_BELOW_BYTES by copies: measured figures.
"""

import os
import select
import socket
from contextlib import suppress

from svcnet.proxy.loop import READABLE
from svcnet.proxy.place import BUFFER_BYTES, PIPE_BYTES, Pipe, Place

SPLICE_FROM_BYTES = 64 * 1024
COPY_BELOW_BYTES = 4 * 1024
MOVES_A_TURN = 16
"""Reads of one direction until others get a turn."""
_SPLICE = 1 | 2
"""SPLICE_F_MOVE | SPLICE_F_NONBLOCK (splice(2))."""


class End:
    """A socket, what epoll said of it since it was last found empty or full, and what waits to be written to it."""

    __slots__ = ("bulk", "deaf", "ended", "held", "hung_up", "lost", "out", "pipe", "readable", "sock", "writable")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.readable = False
        self.writable = False
        self.hung_up = False
        """A FIN or RST came: reads go on until they say so, a short one proves nothing."""
        self.ended = False
        """There is nothing more to read."""
        self.lost = False
        """The end was a reset, or another error."""
        self.deaf = False
        """Writing fails: what is for it is thrown away."""
        self.out: memoryview | None = None
        self.pipe: Pipe | None = None
        self.held = 0
        """Bytes in the pipe, on their way to this end."""
        self.bulk = False
        """What comes for this end is spliced."""

    def notice(self, events: int) -> None:
        """Remember what epoll said."""
        if events & READABLE:
            self.readable = True
            if events & ~(select.EPOLLIN | select.EPOLLOUT):
                self.hung_up = True
        if events & select.EPOLLOUT:
            self.writable = True

    @property
    def pending(self) -> bool:
        """Whether something waits to be written."""
        return self.out is not None or self.held > 0

    def lose(self) -> None:
        """Writing failed. What it said before can still be read."""
        self.deaf = self.lost = self.readable = self.hung_up = True
        self.out = None

    def drop_pipe(self, place: Place) -> None:
        """Give the pipe back."""
        if self.pipe is not None:
            (place.pipes.discard if self.held else place.pipes.give)(self.pipe)
            self.pipe, self.held = None, 0


def pump(place: Place, source: End, sink: End) -> bool:
    """Move what can be moved; True when it is others' turn and there may be more."""
    if sink.out is not None and not _flush(sink):
        return False
    for _ in range(MOVES_A_TURN):
        if sink.bulk or sink.held:
            if not _splice(place, source, sink):
                return False
        elif not _copy(place, source, sink):
            return False
    return True


def _copy(place: Place, source: End, sink: End) -> bool:
    """One read and one write; whether to go on."""
    if not source.readable or source.ended:
        return False
    number = _receive(place, source)
    if number == 0:
        return False
    if number < BUFFER_BYTES and not source.hung_up:
        source.readable = False  # a short read emptied it; what comes after makes a new edge
    if sink.deaf:
        return source.readable
    try:
        sent = sink.sock.send(place.view[:number])
    except BlockingIOError:
        sent = 0
    except OSError:
        sink.lose()
        return source.readable
    if sent < number:
        sink.out = memoryview(bytes(place.view[sent:number]))
        sink.writable = False
        return False
    sink.bulk = number >= SPLICE_FROM_BYTES
    return source.readable


def _receive(place: Place, source: End) -> int:
    """Read into the shared buffer; 0: nothing now, or (source.ended) nothing ever."""
    try:
        number = source.sock.recv_into(place.buffer)
    except BlockingIOError:
        source.readable = False
        return 0
    except OSError:
        source.ended = source.lost = True
        return 0
    if number == 0:
        source.ended = True
    return number


def _flush(sink: End) -> bool:
    """Write what waits; whether all went."""
    assert sink.out is not None
    try:
        sent = sink.sock.send(sink.out)
    except BlockingIOError:
        sent = 0
    except OSError:
        sink.lose()
        return True
    sink.out = sink.out[sent:] if sent < len(sink.out) else None
    sink.writable = sink.out is None
    return sink.out is None


def _splice(place: Place, source: End, sink: End) -> bool:
    """One splice out, or in; whether to go on."""
    if sink.held:
        return _drain(place, sink)
    if not source.readable or source.ended or sink.deaf:
        sink.drop_pipe(place)
        sink.bulk = sink.bulk and not sink.deaf
        return sink.deaf and source.readable
    if sink.pipe is None:
        sink.pipe = place.pipes.take()
        if sink.pipe is None:
            sink.bulk = False
            return True
    number = 0
    try:
        number = os.splice(source.sock.fileno(), sink.pipe.write, PIPE_BYTES, None, None, _SPLICE)
        source.ended = number == 0
    except BlockingIOError:
        source.readable = False
    except OSError:
        source.ended = source.lost = True
    sink.held = number
    if not number:
        sink.drop_pipe(place)
    sink.bulk = number >= COPY_BELOW_BYTES
    return number > 0


def _drain(place: Place, sink: End) -> bool:
    """From the pipe to the socket; whether to go on."""
    assert sink.pipe is not None
    try:
        sink.held -= os.splice(sink.pipe.read, sink.sock.fileno(), sink.held, None, None, _SPLICE)
    except BlockingIOError:
        sink.writable = False
        return False
    except OSError:
        sink.lose()
        sink.drop_pipe(place)
    if not sink.held and not sink.bulk:
        sink.drop_pipe(place)
    return True


def finish(end: End) -> None:
    """Send a FIN."""
    with suppress(OSError):  # it went away meanwhile, which its next read will tell
        end.sock.shutdown(socket.SHUT_WR)
