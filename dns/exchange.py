"""One question to one server, once: a message → the reply, or none. Shell.

Owns: the datagram's socket, what is believed of what comes in, and the way to TCP or TLS. Must not know why it is
asked, other servers, or who waits.

Every datagram leaves from a socket of its own, connected: so the kernel picks a random port and drops what others send;
the id is random too (RFC 5452 §4.5). Whoever gets a wrong id or question past that many times in one try is guessing:
then it is asked by TCP.
"""

import contextlib
import secrets
import socket
from collections.abc import Callable
from typing import Any, Protocol

from svcnet.dns.answer import FORMERR, HEADER_BYTES
from svcnet.dns.query import CD, DO, QR, RD, TC, UDP_BYTES
from svcnet.dns.upstream import Server

LARGEST_DATAGRAM = 65535
MOST_GUESSES = 4
CERTIFICATE = "certificate: "
"""Begins why a link failed when the server's can't be believed."""
PENDING = (BlockingIOError, InterruptedError)
Heard = Callable[[bytes | None], None]
"""Called once, with the reply or without one; never before the call that asked has returned."""


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Never call it."""
        ...


class Loop(Protocol):
    """What is needed of an event loop; asyncio's has it."""

    def time(self) -> float: ...  # noqa: D102 (asyncio documents them)
    def call_later(self, delay: float, callback: Callable[..., object], /, *args: Any) -> Timer: ...  # noqa: D102
    def add_reader(self, fd: int, callback: Callable[..., object], /, *args: Any) -> object: ...  # noqa: D102
    def remove_reader(self, fd: int, /) -> object: ...  # noqa: D102
    def add_writer(self, fd: int, callback: Callable[..., object], /, *args: Any) -> object: ...  # noqa: D102
    def remove_writer(self, fd: int, /) -> object: ...  # noqa: D102


class Link(Protocol):
    """A way by stream (svcnet.dns.stream.Stream)."""

    why: str
    """Why it failed, "" while it does not."""

    def ask(self, message: bytes, heard: Heard) -> Callable[[], None]:
        """Send a message, under an id of its own; return what forgets it."""
        ...

    def close(self) -> None:
        """End at once; nobody is told."""
        ...


def message(question: bytes, checking_disabled: bool, wants_dnssec: bool, edns: bool = True) -> bytes:
    """Return a query with a random id. It says nothing of the client: no subnet, no cookie."""
    flags = RD | (CD if checking_disabled else 0)
    opt = b"\0\0\x29" + UDP_BYTES.to_bytes(2) + b"\0\0" + (DO if wants_dnssec else 0).to_bytes(2) + b"\0\0"
    counts = b"\0\1\0\0\0\0\0\1" if edns else b"\0\1\0\0\0\0\0\0"
    return secrets.token_bytes(2) + flags.to_bytes(2) + counts + question + (opt if edns else b"")


def answers(reply: bytes, asked: bytes) -> bool:
    """Whether a packet is a reply to this message: id, direction, and the question as it was asked."""
    end = asked.index(0, HEADER_BYTES) + 5 if len(asked) > HEADER_BYTES else 0
    if len(reply) < HEADER_BYTES or reply[:2] != asked[:2] or not reply[2] & QR >> 8:
        return False
    if reply[4:6] == b"\0\0":  # an error may come without the question
        return reply[3] & 0xF >= FORMERR and len(reply) == HEADER_BYTES
    same = reply[HEADER_BYTES : end - 4].lower() == asked[HEADER_BYTES : end - 4].lower()
    return reply[4:6] == b"\0\1" and same and reply[end - 4 : end] == asked[end - 4 : end]


class Exchange:
    """By UDP, and again by `link` when the reply was cut short (RFC 7766 §5); by `link` alone where that has TLS."""

    def __init__(self, loop: Loop, server: Server, link: Link, asked: bytes, heard: Heard) -> None:
        self._loop = loop
        self._link = link
        self._message = asked
        self._heard = heard
        self._guesses = 0
        self._socket: socket.socket | None = None
        self._forget: Callable[[], None] | None = None
        self._soon: Timer | None = None
        if server.tls:
            self._by_stream()
        else:
            self._by_datagram(server)

    def cancel(self) -> None:
        """End it without a word."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._forget is not None:
            self._forget()
            self._forget = None
        if self._soon is not None:
            self._soon.cancel()

    def _by_datagram(self, server: Server) -> None:
        try:
            family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
            one = self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._loop.add_reader(one.fileno(), self._readable)
            one.connect(_address(server))
            one.send(self._message)
        except OSError:
            self._soon = self._loop.call_later(0, self._end, None)

    def _by_stream(self) -> None:
        self._forget = self._link.ask(self._message, self._end)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            packet = self._socket.recv(LARGEST_DATAGRAM)
        except PENDING:
            return
        except OSError:  # nobody listens there
            self._end(None)
            return
        if not answers(packet, self._message):
            self._guesses += 1
            if self._guesses < MOST_GUESSES:
                return
        elif not int.from_bytes(packet[2:4]) & TC:
            self._end(packet)
            return
        self.cancel()
        self._by_stream()

    def _end(self, reply: bytes | None) -> None:
        self.cancel()
        self._heard(reply)


def _address(server: Server) -> Any:
    """What connect() wants; the scope of a link-local address is looked up."""
    host, _, scope = server.host.partition("%")
    if not scope:
        return host, server.port
    with contextlib.suppress(ValueError):
        return host, server.port, 0, int(scope)
    return host, server.port, 0, socket.if_nametoindex(scope)
