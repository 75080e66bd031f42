"""Other names: asked of the servers upstream, one after the other, in bounded time. Shell (asyncio).

Owns: sockets to the servers upstream, ids, ports, time, and that the same question is in flight once. Must not know our
zones.

Every try has a socket of its own, connected, so that the kernel picks a random port and drops what others send; the id
is random too (RFC 5452). A server that says SERVFAIL or REFUSED is passed over like one that says nothing.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

from svcnet.dns.answer import FORMERR, HEADER_BYTES, NOERROR, NXDOMAIN
from svcnet.dns.query import CD, QR, RD, TC, UDP_BYTES, Query

Upstream = tuple[str, int]

WHOLE_SECONDS = 4.0
"""For one question: a stub resolver asks again after 5 s."""
ROUNDS = 2
"""How often every server is asked: a datagram may be lost."""
LEAST_TRY_SECONDS = 0.8
MOST_IN_FLIGHT = 1000
Key = tuple[bytes, int, bool, bool]


class Forwarder:
    """Asks upstream servers in the order given."""

    def __init__(self, upstreams: Sequence[Upstream], whole_seconds: float = WHOLE_SECONDS) -> None:
        self.upstreams = tuple(upstreams)
        self._whole_seconds = whole_seconds
        self._in_flight: dict[Key, asyncio.Task[bytes | None]] = {}

    async def ask(self, query: Query, wanted: bytes) -> bytes | None:
        """Return the reply to `wanted` with the type, class and flags of `query`; None: nobody gave one."""
        question = wanted + query.question[-4:]
        key = (question, query.flags & CD, query.edns, query.wants_dnssec)
        task = self._in_flight.get(key)
        if task is None:
            if len(self._in_flight) >= MOST_IN_FLIGHT:
                return None
            task = asyncio.create_task(self._ask_all(question, query))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await asyncio.shield(task)

    async def _ask_all(self, question: bytes, query: Query) -> bytes | None:
        last: bytes | None = None
        seconds = max(self._whole_seconds / (ROUNDS * len(self.upstreams)), LEAST_TRY_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._whole_seconds):
                for upstream in self.upstreams * ROUNDS:
                    reply = await _ask_one(upstream, _message(question, query), seconds)
                    if reply is not None:
                        last = reply
                        if reply[3] & 0xF in {NOERROR, NXDOMAIN}:
                            break
        return last


async def _ask_one(upstream: Upstream, message: bytes, seconds: float) -> bytes | None:
    """One server: by UDP, and again by TCP when the reply was cut short (RFC 7766 §5). None: it gave none."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(seconds):
            reply = await _by_udp(upstream, message)
            return await _by_tcp(upstream, message) if int.from_bytes(reply[2:4]) & TC else reply
    return None


def _message(question: bytes, query: Query) -> bytes:
    flags = RD | query.flags & CD
    opt = b"\0\0\x29" + UDP_BYTES.to_bytes(2) + (b"\0\0\x80\0\0\0" if query.wants_dnssec else bytes(6))
    counts = b"\0\1\0\0\0\0\0\1" if query.edns else b"\0\1\0\0\0\0\0\0"
    return secrets.token_bytes(2) + flags.to_bytes(2) + counts + question + (opt if query.edns else b"")


def answers(reply: bytes, message: bytes) -> bool:
    """Whether a packet is a reply to this message: id, direction, and the question as it was asked."""
    end = message.index(0, HEADER_BYTES) + 5 if len(message) > HEADER_BYTES else 0
    if len(reply) < HEADER_BYTES or reply[:2] != message[:2] or not reply[2] & QR >> 8:
        return False
    if reply[4:6] == b"\0\0":  # an error may come without the question
        return reply[3] & 0xF >= FORMERR and len(reply) == HEADER_BYTES
    same = reply[HEADER_BYTES : end - 4].lower() == message[HEADER_BYTES : end - 4]
    return reply[4:6] == b"\0\1" and same and reply[end - 4 : end] == message[end - 4 : end]


class _Once(asyncio.DatagramProtocol):
    """Waits for the one datagram that answers `message`."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if not self.reply.done() and answers(data, self._message):
            self.reply.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(exc)


async def _by_udp(upstream: Upstream, message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, once = await loop.create_datagram_endpoint(lambda: _Once(message), remote_addr=upstream)
    try:
        transport.sendto(message)
        return await once.reply
    finally:
        once.reply.cancel()
        transport.close()


async def _by_tcp(upstream: Upstream, message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(len(message).to_bytes(2) + message)
        while True:
            reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            if answers(reply, message):
                return reply
    finally:
        writer.close()
