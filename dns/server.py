"""UDP and TCP sockets that answer. Shell (asyncio).

Owns: reading, writing, back-pressure, time-outs. Must not know what is answered: that is the responder's.

A turn of the loop takes a bounded number of datagrams, so that TCP, answers from upstream and changes of records get
their share however many come.
"""

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from svcnet.dns.batch import ID_BYTES, Batch, Calls
from svcnet.dns.crowd import Crowd, Guest
from svcnet.dns.forward import Forwarder
from svcnet.dns.query import Query
from svcnet.dns.responder import Ask, Pull, Responder
from svcnet.dns.selector import Selector
from svcnet.dns.transfer import Transfers

if TYPE_CHECKING:
    from svcnet.dns.query_log import QueryLog

log = logging.getLogger(__name__)

DRAIN = 32
"""Datagrams of a turn where they are taken one by one."""
LARGEST_DATAGRAM = 4096
"""A query is far shorter; of what is longer the rest is cut off, and the message refused."""
IDLE_SECONDS = 10.0
"""For the next query on a connection, and for the client to take its replies (RFC 7766 §6.2.3)."""
LAST_SECONDS = 1.0
"""For what is on its way on connections, before all are closed."""
BREATH_SECONDS = 0.1
"""Before a connection is accepted again when there was no file descriptor for it."""
MOST_PIPELINED = 32
"""Queries of one connection that wait for upstream at a time; the next is read when one of them is answered."""
CONTROL_BYTES = 64
MOST_TRANSFERS = 8
"""Zones that go out by TCP at a time; each may hold copies of the tables of one serial."""
TCP = 2
"""Where it begins in svcnet.dns.counts.WAYS."""

Send = Callable[[bytes], None]
Caller = Guest[asyncio.StreamWriter]


class Server:
    """Answers on sockets that are bound already. `selector`: of the running loop; `batches`: to take many at once."""

    def __init__(
        self,
        responder: Responder,
        forwarder: Forwarder,
        transfers: Transfers,
        selector: Selector,
        batches: Calls | None = None,
    ) -> None:
        self._responder = responder
        self._selector = selector
        self._forwarder = forwarder
        self._transfers = transfers
        self._batches = batches
        self._transferring = asyncio.Semaphore(MOST_TRANSFERS)
        self._counts = responder.counts
        self._tasks: set[asyncio.Task[None]] = set()
        self._bound: list[socket.socket] = []
        self._entering = 0
        """Connections that the crowd doesn't know yet."""
        self._asked = 0
        """Questions that wait for upstream, and zones that go out."""
        self._apart = 0
        """Of the packets of this turn: those whose time is counted one by one."""
        self._began = False
        """Whether this turn had a question for upstream, or a transfer."""
        self._answered = asyncio.Event()
        self._finishing = False
        self._crowd: Crowd[asyncio.StreamWriter] = Crowd()
        self.log: QueryLog | None = None
        """Where queries are logged, if they are."""

    async def serve(self, bound: socket.socket) -> None:
        """Answer on a UDP socket, or on a listening TCP one."""
        bound.setblocking(False)
        self._bound.append(bound)
        if bound.type == socket.SOCK_STREAM:
            self._listen(bound)
            return
        any_address = bound.getsockname()[0] in {"0.0.0.0", "::"}  # noqa: S104 (to know it, not to bind it)
        if any_address:
            _tell_destination(bound)
        drain = partial(self._drain, bound)
        if self._batches is not None:
            drain = partial(self._drain_batch, Batch(bound, self._batches, any_address), bound)
        way = int(bound.family == socket.AF_INET6)
        self._selector.serve(bound.fileno(), partial(self._turn, drain, way))

    async def finish(self, seconds: float) -> None:
        """Take no more in, and answer what was; others may have the sockets."""
        self._finishing = True
        for bound in self._bound:
            self._selector.leave(bound.fileno())
            asyncio.get_running_loop().remove_reader(bound)
        if self.open_connections or self._entering:
            await asyncio.sleep(LAST_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._asked:
                    self._answered.clear()
                    await self._answered.wait()

    @property
    def open_connections(self) -> int:
        """TCP connections that are there."""
        return len(self._crowd)

    def _turn(self, drain: Callable[[], int], way: int) -> bool:
        """Answer what is there, and count it; return whether anything was begun that takes longer."""
        begin = time.perf_counter()
        self._counts.way = way
        self._apart = 0
        self._began = False
        try:
            number = drain() - self._apart
        except Exception as error:  # noqa: BLE001 (as asyncio does of its callbacks: others are answered all the same)
            asyncio.get_running_loop().call_exception_handler({"message": "datagrams", "exception": error})
            return True
        if number:
            self._counts.took(time.perf_counter() - begin, number)
        return self._began

    def _drain_batch(self, batch: Batch, bound: socket.socket) -> int:
        """Answer what is there, as much as one call takes; return how many packets that was."""
        packets = batch.receive()
        if not packets:
            return 0
        replies = self._responder.ready(packets)
        if not all(replies):
            self._work_out(batch, bound, packets, replies)
        lost = batch.send(replies)
        if self.log is not None:
            for n, reply in enumerate(replies):
                if reply is not None:
                    self.log.note(batch.client(n)[0], self._counts.way, reply)
        if lost:
            self._counts.add("dropped", "not sent", by=lost)
        return len(packets)

    def _work_out(
        self, batch: Batch, bound: socket.socket, packets: Sequence[bytes], replies: list[bytes | None]
    ) -> None:
        """Put in the replies that were not ready, as far as there are any at once."""
        for n, ready in enumerate(replies):
            if ready is not None:
                continue
            client = batch.client(n)
            reply = self._responder.respond(batch.whole(n, packets[n]), False, self._responder.may_ask(client[0]))
            if isinstance(reply, bytes):
                replies[n] = reply[ID_BYTES:]
            elif reply is not None:
                self._onward(reply, client[0], _to(bound, client, batch.control(n)))

    def _drain(self, bound: socket.socket) -> int:
        """The same one by one, up to DRAIN: what there is where the C library has no batches."""
        for number in range(DRAIN):
            try:
                packet, control, _, client = bound.recvmsg(LARGEST_DATAGRAM, CONTROL_BYTES)
            except OSError:
                return number
            reply = self._responder.respond(packet, False, self._responder.may_ask(client[0]))
            if isinstance(reply, bytes):
                try:
                    bound.sendmsg([reply], control, 0, client)
                except OSError:
                    self._counts.add("dropped", "not sent")
                self._note(client[0], self._counts.way, reply)
            elif reply is not None:
                self._onward(reply, client[0], _to(bound, client, control))
        return DRAIN

    def _send(self, guest: Caller, way: int, data: bytes) -> None:
        if not guest.connection.is_closing():  # the client may be gone: asyncio would log each write
            guest.connection.write(len(data).to_bytes(2) + data)
        self._note(guest.address, way, data)

    def _note(self, client: str, way: int, reply: bytes) -> None:
        if self.log is not None:
            self.log.note(client, way, reply[ID_BYTES:])

    def _onward(self, wish: Ask | Pull, client: str, send_now: Send) -> None:
        way = self._counts.way
        self._began = True

        def send(reply: bytes) -> None:
            send_now(reply)
            self._note(client, way, reply)

        if isinstance(wish, Ask):
            self._forward(wish, send)
            return
        reply = self._transfers.datagram(wish.query, client)
        self._counts.answered(reply, wish.query.type)
        try:
            send(reply)
        except OSError:
            self._counts.add("dropped", "not sent")

    async def _transfer(self, query: Query, writer: asyncio.StreamWriter, send: Send, way: int) -> None:
        """Send a zone, one message a turn of the loop; what the client asks meanwhile waits, and so does our end."""
        self._asked += 1
        try:
            async with self._transferring:
                writer.transport.set_write_buffer_limits(0)  # what the kernel has arrives, whatever becomes of us
                for number, message in enumerate(self._transfers.stream(query, writer.get_extra_info("peername")[0])):
                    send(message)
                    if number == 0:  # one query, however many messages
                        self._counts.answered(message, query.type, way)
                    async with asyncio.timeout(IDLE_SECONDS):
                        await writer.drain()
                    await asyncio.sleep(0)
        finally:
            writer.transport.set_write_buffer_limits()
            self._asked -= 1
            self._answered.set()

    def _forward(self, ask: Ask, send: Send) -> None:
        """Send the reply when there is one: now, when it is kept."""
        begin, way = time.perf_counter(), self._counts.way
        self._asked += 1
        self._apart += 1

        def done(reply: bytes) -> None:
            self._asked -= 1
            self._answered.set()
            self._counts.answered(reply, ask.query.type, way)
            self._counts.took(time.perf_counter() - begin)
            try:
                send(reply)
            except OSError:
                self._counts.add("dropped", "not sent")

        self._forwarder.ask(ask, done)

    def _later(self, ask: Ask, send: Send) -> asyncio.Task[None]:
        over = asyncio.get_running_loop().create_future()

        def send_once(reply: bytes) -> None:
            if not over.done():  # the client may be gone
                send(reply)
                over.set_result(None)

        self._forward(ask, send_once)

        async def finish() -> None:
            await over

        return self._keep(finish())

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _respond(self, packet: bytes, allowed: bool, way: int) -> bytes | Ask | Pull | None:
        """Answer a query of a connection."""
        begin = time.perf_counter()
        self._counts.way = way
        reply = self._responder.respond(packet, True, allowed)
        if isinstance(reply, bytes):
            self._counts.took(time.perf_counter() - begin)
        return reply

    def _end(self, guest: Caller | None) -> None:
        """End a connection at once; its conversation notices."""
        if guest is not None:
            self._counts.add("tcp_connections_ended")
            guest.connection.transport.abort()

    def _accept(self, bound: socket.socket) -> None:
        """Take one connection in; the next when the crowd knows of it, so that there are never more."""
        loop = asyncio.get_running_loop()
        try:
            connection, address = bound.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another worker has it, or it is gone
            return
        except OSError as error:  # no descriptor
            log.info("dns can't accept why=%s", error.strerror)
            self._end(self._crowd.make_room())
            loop.remove_reader(bound)
            loop.call_later(BREATH_SECONDS, self._listen, bound)
            return
        loop.remove_reader(bound)
        connection.setblocking(False)
        self._entering += 1
        self._keep(self._enter(bound, connection, address[0]))

    def _listen(self, bound: socket.socket) -> None:
        if not self._finishing:
            asyncio.get_running_loop().add_reader(bound, self._accept, bound)

    async def _enter(self, bound: socket.socket, connection: socket.socket, address: str) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except OSError:
            connection.close()
            return
        finally:
            self._entering -= 1
            self._listen(bound)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        guest, first = self._crowd.enter(address, writer, files)
        self._counts.add("tcp_connections")
        self._end(first)
        way = TCP + int(bound.family == socket.AF_INET6)
        await self._connected(reader, guest, self._responder.may_ask(address), way)

    async def _connected(self, reader: asyncio.StreamReader, guest: Caller, allowed: bool, way: int) -> None:
        waiting: set[asyncio.Task[None]] = set()
        try:
            await self._converse(reader, guest, waiting, allowed, way)
            guest.connection.close()
            async with asyncio.timeout(IDLE_SECONDS):  # it may still read, or never
                await guest.connection.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            guest.connection.transport.abort()  # the client went, had to go, or takes too long
        finally:
            self._crowd.leave(guest)
            for task in waiting:
                task.cancel()
            guest.connection.close()

    async def _converse(
        self, reader: asyncio.StreamReader, guest: Caller, waiting: set[asyncio.Task[None]], allowed: bool, way: int
    ) -> None:
        """Answer query after query; those that wait for upstream hold up no other (RFC 7766 §6.2.1.1)."""
        send = partial(self._send, guest, way)

        def done(task: asyncio.Task[None]) -> None:
            waiting.discard(task)
            guest.busy -= 1

        while True:
            while len(waiting) >= MOST_PIPELINED:  # TCP holds the client up (RFC 7766 §6.2.1.1 leaves us how many)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            except asyncio.IncompleteReadError:
                # It says no more, and may still wait for what it asked.
                if waiting:
                    await asyncio.wait(waiting, timeout=IDLE_SECONDS)
                return
            self._crowd.active(guest)
            reply = self._respond(packet, allowed, way)
            if reply is None:
                return
            if isinstance(reply, bytes):
                send(reply)
            elif isinstance(reply, Pull):
                guest.busy += 1
                await self._transfer(reply.query, guest.connection, send, way)
                guest.busy -= 1
            else:
                task = self._later(reply, send)
                waiting.add(task)
                guest.busy += 1
                task.add_done_callback(done)
            guest.busy += 1
            async with asyncio.timeout(IDLE_SECONDS):
                await guest.connection.drain()
            guest.busy -= 1


def _to(bound: socket.socket, client: Any, control: Any = ()) -> Send:
    """Return what sends to this client, from the address that `control` names; both are the kernel's own words."""

    def send(data: bytes) -> None:
        bound.sendmsg([data], control, 0, client)

    return send


def _tell_destination(bound: socket.socket) -> None:
    """Ask the kernel for the address that each datagram came to (ip(7) IP_PKTINFO, RFC 3542 §6.2)."""
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


_IP_PKTINFO = 8
"""linux/in.h; Python's socket module names it from 3.14 on."""
