"""UDP through the proxy: one flow for each client of a frontend, each with a socket of its own towards its backend.

Owns: the flow table of one frontend. A socket for each flow tells which client a reply is for, and an ICMP refusal
comes to the flow that it is about. Datagrams stay whole and are never split, joined or cut.
"""

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from svcnet.model.terms import USUAL, Terms
from svcnet.proxy.counts import BYTES_IN, BYTES_OUT, NO_ROOM, REDISPATCHES, REFUSED, Tally
from svcnet.proxy.lead import Lead
from svcnet.proxy.loop import EDGES, Timer
from svcnet.proxy.place import Place
from svcnet.proxy.tallies import NO_SLOTS, Slots, Tallies

if TYPE_CHECKING:
    from svcnet.proxy.pool import Pool
    from svcnet.proxy.row import Backend

IDLE_SECONDS = 20.0
"""A flow without a datagram for this long is forgotten (contract, `idle-timeout`)."""
DRAINED_SECONDS, DRAINED_IDLE_SECONDS = 20.0, 2.0
"""A flow that is no longer led by its frontend gets so long for replies, and less if there are none."""
DATAGRAMS_A_TURN = 64
LARGEST_BYTES = 65535
RECEIVE_BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
"""asm-generic/socket.h; Python has no name for it."""

Client = tuple[str, int] | tuple[str, int, int, int]


class Flow:
    """One client's datagrams, to one backend after another until one does not refuse."""

    __slots__ = (
        "_pool",
        "_refused",
        "_since",
        "_tally",
        "_unanswered",
        "awaited",
        "backend",
        "client",
        "door",
        "last",
        "sock",
        "timer",
    )

    def __init__(self, door: "UdpDoor", client: Client) -> None:
        self.door, self.client = door, client
        self.sock: socket.socket | None = None
        self.backend: Backend | None = None
        self._refused: tuple[Backend, ...] = ()
        self._tally: Tally | None = None
        self._since = 0.0
        """When it came to this backend."""
        self._pool: Pool | None = None
        """Of the backend."""
        self._unanswered: bytes | None = None
        """The last datagram of the client, until there is an answer: what a backend refuses, the next one gets."""
        self.awaited = 0
        """So many replies are to come, where it is known how many do."""
        self.last = door.place.loop.now
        self.timer: Timer = door.place.loop.later(door.idle_seconds, self._look)

    def send(self, data: bytes) -> None:
        """From the client to the backend."""
        self.last = self.door.place.loop.now
        self._unanswered = data
        while self.sock is not None or self._connect():
            assert self.sock is not None
            try:
                self.sock.send(data)
            except ConnectionRefusedError:
                self._fail()
            except OSError:
                return  # the kernel has no room, or no way: as if it was lost
            else:
                tally = self._tally
                if tally is not None:
                    tally.cells[tally.at + BYTES_IN] += len(data)
                return
        self.end()

    def end(self) -> None:
        """Forget it."""
        self.timer.cancel()
        try:
            self._disconnect()
        finally:
            self.door.forget(self)

    def abort(self) -> None:
        """A fault came up: the client's next datagram begins another one."""
        self.end()

    def _connect(self) -> bool:
        place = self.door.place
        pick = self.door.lead.picker(self.client[0])
        pool = self.door.lead.pool
        while (backend := pick(self._refused)) is not None:
            if pool is None or (self._refused and not pool.may_retry()):
                return False
            try:
                sock = socket.socket(self.door.family, socket.SOCK_DGRAM)
            except OSError:  # no descriptor, no memory: another backend would fare no better
                self.door.count_no_room()
                return False
            sock.setblocking(False)
            self.sock, self.backend, self._pool = sock, backend, pool
            pool.take(backend)
            try:
                sock.connect((backend.address, backend.port))
            except OSError:  # no way to it
                self._fail()
            else:
                place.loop.add(sock.fileno(), self._on_reply, EDGES)
                self._tally = self.door.tallies.of(backend)
                self._tally.began()
                self._since = place.loop.now
                if self._refused:
                    self._tally.add(REDISPATCHES)
                return True
        return False

    def _disconnect(self) -> None:
        sock, self.sock = self.sock, None
        if sock is not None:
            self.door.place.loop.bury(sock)
            if self._pool is not None and self.backend is not None:
                self._pool.give(self.backend)
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.ended(self.door.place.loop.now - self._since)

    def _fail(self) -> None:
        """The backend refuses."""
        self.door.place.counters.dial_failures += 1
        if self.backend is not None:
            self._refused += (self.backend,)
            self.door.tallies.of(self.backend).add(REFUSED)
            if self._pool is not None:
                self._pool.failed(self.backend)
        self._disconnect()

    def _on_reply(self, _events: int) -> None:
        sock, tally, client = self.sock, self._tally, self.client
        if sock is None or tally is None:
            return
        place = self.door.place
        take, reply, buffer, view = sock.recv_into, self.door.reply, place.buffer, place.view
        self.last = place.loop.now
        for _ in range(DATAGRAMS_A_TURN):
            try:
                number = take(buffer, LARGEST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._fail()
                if self._unanswered is not None:
                    self.send(self._unanswered)
                return
            if self._unanswered is not None:
                self._answer()
            tally.cells[tally.at + BYTES_OUT] += number
            try:  # noqa: SIM105 - suppress() costs a call more for each datagram
                reply(view[:number], client)
            except OSError:
                pass  # no room, no way: as if it was lost
            if self.awaited:
                self.awaited -= 1
                if not self.awaited:
                    self.end()
                    return
        place.loop.again(self._more)

    def _answer(self) -> None:
        """A reply came, the first since a datagram of the client."""
        self._unanswered, self._refused = None, ()
        if self._pool is not None and self._pool.alert and self.backend is not None:
            self._pool.answered(self.backend)

    def _more(self) -> None:
        self._on_reply(0)

    def _look(self) -> None:
        loop = self.door.place.loop
        left = self.last + self.door.idle_seconds - loop.now
        if left <= 0:
            self.end()
        else:
            self.timer = loop.later(left, self._look)


class UdpDoor:
    """One UDP frontend."""

    def __init__(self, place: Place, sock: socket.socket, lead: Lead) -> None:
        self.place, self.lead = place, lead
        self.tallies = Tallies(place.counts)
        self.family = sock.family
        self.idle_seconds = IDLE_SECONDS
        self.replies = 0
        """To each datagram of a client; 0: who knows."""
        self._sock = sock
        self.reply = sock.sendto
        """From the virtual IP to a client."""
        self.fd = sock.fileno()
        self.is_open = True
        self._flows: dict[Client, Flow] = {}
        self._drained: float | None = None
        """Since when."""
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):  # the second is not held to rmem_max, and needs CAP_NET_ADMIN
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER_BYTES)
        place.loop.add(sock.fileno(), self._on_datagram, EDGES)

    def update(self, slots: Slots = NO_SLOTS, terms: Terms = USUAL) -> None:
        """Flows whose backend is gone find another with their next datagram."""
        self.tallies.update(slots, self.place.loop.now)
        self.lead.show(self.tallies)
        self.idle_seconds, self.replies = terms.idle_seconds or IDLE_SECONDS, terms.udp_replies
        flows = self._flows.values()
        self.place.loop.call([f.end for f in flows if f.backend not in self.lead.weights(f.client[0])])

    def hold(self) -> None:
        """Let datagrams wait in the socket; replies go out."""
        self.place.loop.remove(self.fd)

    def attend(self) -> None:
        """Take them."""
        if self._drained is None:
            self.hold()  # to be told of those that wait
            self.place.loop.add(self.fd, self._on_datagram, EDGES)

    def drain(self) -> None:
        """Read no more: who has the socket too does. Replies to what was sent on still go out."""
        self.hold()
        self._drained = self.place.loop.now
        self._end_idle()

    def _end_idle(self) -> None:
        assert self._drained is not None
        now = self.place.loop.now
        patience = DRAINED_IDLE_SECONDS if now - self._drained < DRAINED_SECONDS else 0.0
        self.place.loop.call([f.end for f in self._flows.values() if now - f.last >= patience])
        if self._flows:
            self.place.loop.later(DRAINED_IDLE_SECONDS / 2, self._end_idle)
        else:
            self.close()

    def close(self) -> None:
        """Serve no more."""
        self.is_open = False
        self.place.loop.call([flow.end for flow in self._flows.values()])
        self.tallies.close()
        self.place.loop.bury(self._sock)
        self.place.budget.give(1)

    def abort(self) -> None:
        """A fault came up: what waits is still to be read."""
        self.place.loop.again(self._more)

    def count_no_room(self) -> None:
        """A flow could not be."""
        self.place.counters.refused_for_room += 1
        self.tallies.own.add(NO_ROOM)

    def forget(self, flow: Flow) -> None:
        """It ended."""
        if self._flows.pop(flow.client, None) is not None:
            self.place.budget.give(1)
            self.place.counters.flows -= 1

    def _on_datagram(self, _events: int) -> None:
        find, take, buffer, view = self._flows.get, self._sock.recvfrom_into, self.place.buffer, self.place.view
        for _ in range(DATAGRAMS_A_TURN):
            try:
                number, client = take(buffer, LARGEST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about a reply of ours: the client is gone
            flow = find(client)
            try:
                flow = flow or self._new_flow(client)
                if flow is not None:
                    flow.awaited += self.replies
                    flow.send(view[:number].tobytes())
            except Exception as error:  # noqa: BLE001 - a bug, which shall not stop the flows of others
                self.place.loop.on_fault(flow, error)
        self.place.loop.again(self._more)

    def _more(self) -> None:
        if self.place.loop.hears(self.fd) and self._sock.fileno() >= 0:
            self._on_datagram(0)

    def _new_flow(self, client: Client) -> Flow | None:
        if not self.place.budget.take(1):
            self.count_no_room()
            return None
        flow = self._flows[client] = Flow(self, client)
        self.place.counters.flows += 1
        return flow
