"""Bytes from one socket to another: by copy, and by splice while much comes at a time.

Owns: one end of a connection, the moving, the change between the two ways. Must not know why bytes are moved, nor what
an end or a break of one side means for the other.

Copying costs least for small messages (one recv, one send); splice for bulk (half of the CPU per byte). A read of
SPLICE_FROM_BYTES or more is followed by splice, a splice of less than COPY_BELOW_BYTES by copies: measured figures.
"""

import _socket
import os
import select
from contextlib import suppress

from svcnet.proxy.counts import BYTES_IN, BYTES_OUT, Tally
from svcnet.proxy.loop import READABLE
from svcnet.proxy.place import PIPE_BYTES, Pipe, Place

SPLICE_FROM_BYTES = 64 * 1024
COPY_BELOW_BYTES = 4 * 1024
MOVES_A_TURN = 16
"""Reads of one direction, after a first, until others get a turn."""
_SPLICE = 1 | 2
"""SPLICE_F_MOVE | SPLICE_F_NONBLOCK (splice(2))."""
_MORE_THAN_DATA = ~(select.EPOLLIN | select.EPOLLOUT)
_FIN = select.EPOLLRDHUP
_NOT_FIN_ALONE = select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLPRI


class End:
    """A socket, what epoll said of it since it was last found empty or full, and what waits to be written to it."""

    __slots__ = (
        "bulk",
        "deaf",
        "ended",
        "field",
        "fin",
        "held",
        "hung_up",
        "lost",
        "out",
        "pipe",
        "readable",
        "sock",
        "tally",
    )

    def __init__(self, sock: _socket.socket, field: int) -> None:
        self.sock = sock
        self.field = field
        """As what is counted that it says."""
        self.tally: Tally | None = None
        self.readable = False
        self.hung_up = False
        """A FIN, an RST or an urgent byte came: a short read proves nothing, they go on until one says so."""
        self.fin = False
        """It was a FIN, and no urgent byte comes before it, where reads stop short: the next short one is the last."""
        self.ended = False
        """There is nothing more to read."""
        self.lost = False
        """The end was a reset, or another error."""
        self.deaf = False
        """Writing fails: what is for it is thrown away."""
        self.out: memoryview | None = None
        self.pipe: Pipe | None = None
        self.held = 0
        """Bytes in the pipe, on their way to this end; they or `out` wait to be written, never both."""
        self.bulk = False
        """What comes for this end is spliced."""

    def notice(self, events: int) -> None:
        """Remember what epoll said."""
        if events & READABLE:
            self.readable = True
            if events & _MORE_THAN_DATA:
                self.hung_up = True
                self.fin = events & _NOT_FIN_ALONE == _FIN

    def lose(self) -> None:
        """Writing failed. What it said before can still be read."""
        self.deaf = self.lost = self.readable = self.hung_up = True
        self.fin = False

    def drop(self, place: Place) -> None:
        """Nothing more comes for it: give back what it has of others."""
        if self.out is not None:
            self.drop_out(place)
        if self.pipe is not None:
            self.drop_pipe(place)

    def drop_out(self, place: Place) -> None:
        """Give back the memory of what waits."""
        if self.out is not None:
            place.hold(-memoryview(self.out.obj).nbytes)  # what was written of it takes memory until then
            self.out = None

    def drop_pipe(self, place: Place) -> None:
        """Give the pipe back."""
        if self.pipe is not None:
            (place.pipes.discard if self.held else place.pipes.give)(self.pipe)
            self.pipe, self.held = None, 0


def client_end(sock: _socket.socket) -> End:
    """Of the client's socket. No class of its own: Python finds attributes faster where there is but one class."""
    return End(sock, BYTES_IN)


def server_end(sock: _socket.socket) -> End:
    """Of the backend's socket."""
    return End(sock, BYTES_OUT)


def pump(place: Place, source: End, sink: End) -> bool:
    """Move what can be moved; True when it is others' turn and there may be more."""
    if sink.out is not None and not _flush(place, sink):
        return False
    if not sink.bulk and not sink.held and (not source.readable or source.ended or not _copy(place, source, sink)):
        return False  # as mostly: one read was all
    for _ in range(MOVES_A_TURN):
        if sink.bulk or sink.held:
            if not _splice(place, source, sink):
                return False
        elif not source.readable or source.ended or not _copy(place, source, sink):
            return False
    return True


def _copy(place: Place, source: End, sink: End) -> bool:
    """One read and one write; whether to go on."""
    try:
        number = source.sock.recv_into(place.buffer, place.read_bytes)
    except BlockingIOError:
        source.readable = False
        if source.hung_up:
            send_now(sink)
        return False
    except OSError:
        source.ended = source.lost = True
        return False
    if not number:
        source.ended = True
        return False
    if number < place.read_bytes:
        if source.fin:
            source.ended = True
        elif not source.hung_up:
            source.readable = False  # a short read emptied it; what comes after makes a new edge
    if sink.deaf:
        return source.readable
    tally = source.tally
    if tally is not None:
        tally.cells[tally.at + source.field] += number
    try:
        # What comes before a FIN goes into one packet with it; before a reset, `send_now`.
        sent = sink.sock.send(place.view[:number], _socket.MSG_MORE if source.hung_up else 0)
    except BlockingIOError:
        sent = 0
    except OSError:
        sink.lose()
        return source.readable
    if sent < number:
        sink.out = memoryview(bytes(place.view[sent:number]))
        place.hold(number - sent)
        return False
    if number >= SPLICE_FROM_BYTES:
        sink.bulk = True
    return source.readable and not source.ended


def _flush(place: Place, sink: End) -> bool:
    """Write what waits; whether all went."""
    assert sink.out is not None
    try:
        sent = sink.sock.send(sink.out)
    except BlockingIOError:
        return False
    except OSError:
        sink.drop_out(place)
        sink.lose()
        return True
    if sent < len(sink.out):
        sink.out = sink.out[sent:]
        return False
    sink.drop_out(place)
    return True


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
        sink.drop_pipe(place)
        if source.hung_up:  # it may be an urgent byte that is next, which only a read passes over
            sink.bulk = False
            return True
        source.readable = False  # empty, which says nothing of how much comes next
        return False
    except OSError:
        source.ended = source.lost = True
    sink.held = number
    if not number:
        sink.drop_pipe(place)
    elif source.tally is not None:
        source.tally.add(source.field, number)
    sink.bulk = number >= COPY_BELOW_BYTES
    return number > 0


def _drain(place: Place, sink: End) -> bool:
    """From the pipe to the socket; whether to go on."""
    assert sink.pipe is not None
    try:
        sink.held -= os.splice(sink.pipe.read, sink.sock.fileno(), sink.held, None, None, _SPLICE)
    except BlockingIOError:
        return False
    except OSError:
        sink.lose()
        sink.drop_pipe(place)
    if not sink.held and not sink.bulk:
        sink.drop_pipe(place)
    return True


def push(place: Place, sink: End, data: bytes, *, more: bool) -> None:
    """Send what no other end has said, before all else. `more` follows at once: let it be in the same packet."""
    try:
        sent = sink.sock.send(data, _socket.MSG_MORE if more else 0)
    except BlockingIOError:
        sent = 0
    except OSError:
        sink.lose()
        return
    if sent < len(data):
        sink.out = memoryview(data)[sent:]
        place.hold(len(data))


def send_now(end: End) -> None:
    """Wait for nothing more to send with what was pushed (tcp(7), TCP_NODELAY)."""
    with suppress(OSError):  # it went away meanwhile, which its next read will tell
        end.sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def finish(end: End) -> None:
    """Send a FIN."""
    try:  # noqa: SIM105  # suppress() makes four calls, for each connection
        end.sock.shutdown(_socket.SHUT_WR)
    except OSError:  # it went away meanwhile, which its next read will tell
        pass
