"""One connection of so many, as a line of JSON when it has ended (docs/connections.md). Shell: a thread writes.

Owns: which connections are logged, and the fields of a line. Must not slow a connection: a line that can't be written
soon is counted as lost. Connections that are not logged pay nothing: the kernel has counted the bytes (TCP_INFO).
"""

import _socket
import json
import os
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from svcnet.proxy.header import Place
from svcnet.proxy.row import Backend
from svcnet.proxy.why import Why

if TYPE_CHECKING:
    from svcnet.proxy.origin import Origin

MOST_LINES = 1000
"""That wait to be written."""
LINES_A_WRITE = 256
PAUSE_SECONDS = 0.05
"""Between two writes: each has two threads contend for the interpreter, which connections feel more than the lines."""
CLOSE_SECONDS = 0.5
"""How long the end of the process may wait for what is still to be written."""
STDERR = 2
_TCP_INFO = struct.Struct("=200x2Q")
"""linux/tcp.h, tcp_info: tcpi_bytes_sent and tcpi_bytes_retrans, of payload alone; since Linux 4.19."""


class Entry(NamedTuple):
    """One connection. Times in seconds; what never was is None."""

    service: str
    whose: "Origin"
    backend: Backend | None
    bytes_in: int | None
    """That were sent to the backend; what came before them is not among them."""
    bytes_out: int | None
    dial: float | None
    duration: float
    tries: int
    why: Why


class ConnectionLog:
    """Logs on average one of `every` connections, to a file descriptor."""

    def __init__(self, every: int, out: int = STDERR, now: Callable[[], float] = time.time) -> None:
        self._every = every
        self._now = now
        self._left = 1
        self._out = out
        self._said: queue.Queue[tuple[float, Entry] | None] = queue.Queue(MOST_LINES)
        """When each ended, in seconds since 1970; None is the end of all."""
        self._ended = threading.Event()
        threading.Thread(target=self._write, daemon=True, name="connection log").start()

    def is_due(self) -> bool:
        """Whether a connection is one to log. Ask once for each."""
        self._left -= 1
        if self._left:
            return False
        # By chance: connections may come in turn from this client and that, and every second would be of one.
        self._left = random.randint(1, 2 * self._every - 1)  # noqa: S311 (no secret)
        return True

    def note(self, entry: Entry) -> bool:
        """Log it; whether there was room."""
        try:
            self._said.put_nowait((self._now(), entry))
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Write what waits, if that does not take long."""
        with suppress(queue.Full):
            self._said.put(None, timeout=CLOSE_SECONDS)  # it may be full, of lines that are counted as written
            self._ended.wait(CLOSE_SECONDS)

    def _write(self) -> None:
        while True:
            ones = [self._said.get()]
            with suppress(queue.Empty):
                while len(ones) < LINES_A_WRITE:
                    ones.append(self._said.get_nowait())
            text = b"".join(_line(*one) for one in ones if one is not None)
            with suppress(OSError):  # nobody reads any more
                while text:
                    text = text[os.write(self._out, text) :]
            if None in ones:
                self._ended.set()
            if len(ones) < LINES_A_WRITE:
                time.sleep(PAUSE_SECONDS)


def _line(ended: float, entry: Entry) -> bytes:
    whose = entry.whose
    said: dict[str, object] = {
        "time": round(ended, 6),
        "service": entry.service,
        "frontend": _text(whose.destination),
        "client": _text(whose.source),
        "endpoint": str(entry.backend) if entry.backend is not None else None,
        "bytes_in": entry.bytes_in,
        "bytes_out": entry.bytes_out,
        "dial_ms": _milliseconds(entry.dial),
        "duration_ms": _milliseconds(entry.duration),
        "tries": entry.tries,
        "why": entry.why.value,
    }
    if whose.by is not None:
        said["by"] = _text(whose.by)
    return json.dumps(said).encode() + b"\n"


def bytes_sent(sock: _socket.socket) -> int | None:
    """Payload that was sent to a peer, each byte once; None when the kernel does not say."""
    with suppress(OSError, struct.error):
        sent, again = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        return int(sent - again)
    return None


def _text(place: Place) -> str:
    return str(Backend(*place))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
