"""One TCP connection through the proxy: the shell around a Session.

Owns: the two sockets, the dial, the delivery of ends and resets. Must not decide where to dial or what an end means:
the session does.
"""

import _socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from select import EPOLLOUT
from socket import IPPROTO_TCP, SO_ERROR, SOL_SOCKET, TCP_KEEPIDLE
from typing import TYPE_CHECKING

from svcnet.proxy.account import settle
from svcnet.proxy.counts import REDISPATCHES, RETRIES, TIMED_OUT, Tally
from svcnet.proxy.dial import IN_PROGRESS, kind_of, socket_to
from svcnet.proxy.flush import Flush, reset_on_close
from svcnet.proxy.hedge import Hedge
from svcnet.proxy.host import Host
from svcnet.proxy.loop import LOST, Timer
from svcnet.proxy.origin import NOWHERE, Origin
from svcnet.proxy.patience import silent_seconds, watch_for_dead_peer
from svcnet.proxy.place import Place
from svcnet.proxy.pump import End, client_end, finish, pump, push, send_now, server_end
from svcnet.proxy.row import Backend
from svcnet.proxy.session import CLIENT, SERVER, Act, Command, Session, Side
from svcnet.proxy.wait import Wait

if TYPE_CHECKING:
    from svcnet.proxy.gate import Gate
    from svcnet.proxy.header import Place as Address

DESCRIPTORS = 2
"""Taken of the budget by each connection, from its begin."""
_DIAL, _FINISH, _CLOSE = Act.DIAL, Act.FINISH, Act.CLOSE  # as CLIENT in session.py


class Relay:
    """Begin with `begin`; it ends by itself. It is in `Place.relays` meanwhile."""

    __slots__ = (
        "_at",
        "_place",
        "client",
        "dial_seconds",
        "gate",
        "hedge",
        "host",
        "origin",
        "peer",
        "server",
        "session",
        "since",
        "timer",
        "wait",
        "watched",
    )

    def __init__(self, place: Place, client: _socket.socket, session: Session, host: Host) -> None:
        self._place = place
        self.client = client_end(client)
        self.server: End | None = None
        self.session = session
        self.timer: Timer | None = None
        """Of the dial; None while bytes are moved."""
        self.hedge: Hedge | None = None
        """What may become a second dial."""
        self.wait: Wait | None = None
        """For a backend with room."""
        self.gate: Gate | None = None
        """Where it is counted."""
        self.host = host
        self._at = self.since = place.loop.now
        """When the last dial began, and when the client came, on the loop's clock."""
        self.dial_seconds = -1.0
        """What the dial took that was answered; below 0 until then."""
        self.origin: Origin | None = None
        """Whose connection it is, where that is known from its begin."""
        self.peer: Address = NOWHERE
        """Who came, where that matters at its end only: it is one to log."""
        self.watched = False
        """The kernel asks whether its peers are there: from the first look on, as short ones need not pay for it."""

    def begin(self) -> None:
        """A client was accepted."""
        place = self._place
        place.relays[self] = None
        place.counters.connections += 1
        place.counters.active += 1
        try:
            sock = self.client.sock
            sock.setblocking(False)
            place.loop.add(sock.fileno(), self._on_client)
            self._obey(self.session.begin())
        except Exception as error:  # noqa: BLE001 - a bug, which is this client's trouble alone
            place.loop.on_fault(self, error)

    def probe(self, idle_seconds: int) -> None:
        """Let the kernel ask the client, from when nothing was said for so long; keepalive is on, as the listener's."""
        self.watched = True  # no look shall make it longer again
        with suppress(OSError):  # it has ended
            self.client.sock.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, idle_seconds)

    def lose_patience(self) -> None:
        """End it if nothing was said for too long."""
        if self.server is None or self.timer is not None:
            return
        if not self.watched:
            self.watched = True
            for end in (self.client, self.server):
                watch_for_dead_peer(end.sock)
        half = self in self._place.half_closed
        limit = self.host.half_closed_seconds if half else self.host.idle_seconds
        if silent_seconds(self.client.sock) >= limit and silent_seconds(self.server.sock) >= limit:
            self._place.counters.idle += 1
            self._obey(self.session.abandoned())

    def drain(self) -> None:
        """End it, as its endpoint is gone for too long."""
        self._obey(self.session.drained())

    def _on_client(self, events: int) -> None:
        client, server = self.client, self.server
        if events == EPOLLOUT and client.out is None and not client.held:
            return  # our FIN was acknowledged: nothing waits to be written
        client.notice(events)
        if server is not None and self.timer is None:
            self._turn(server)
        elif events & LOST:
            self._obey(self.session.client_lost())
        elif self.wait is not None and client.fin:
            self._obey(self.session.hung_up())

    def _on_server(self, events: int) -> None:
        server = self.server
        if server is None:
            return
        if self.timer is not None:
            self._dialled(server, events)
            if self.timer is not None or self.server is not server:
                return
        server.notice(events)
        self._turn(server)

    def _turn(self, server: End) -> None:
        """Move what can be moved, and pass ends on."""
        client = self.client
        more = (client.readable or server.held > 0 or server.out is not None) and pump(self._place, client, server)
        if (server.readable or client.held or client.out is not None) and pump(self._place, server, client):
            more = True
        if client.lost and client.readable and not client.ended:
            more = True  # writing to it failed just now: what it said before that is still to be read
        if client.ended and not server.held and server.out is None:
            self._pass_end(CLIENT, client)
        if server.ended and not client.held and client.out is None and self.server is server:
            self._pass_end(SERVER, server)
        if more and self.server is server:
            self._place.loop.again(self._again)

    def _again(self) -> None:
        if self.server is not None and self.timer is None:
            self._turn(self.server)

    def _pass_end(self, side: Side, source: End) -> None:
        """All that it said was passed on."""
        self._obey(self.session.broken(side) if source.lost else self.session.finished(side))

    def _obey(self, command: Command) -> None:
        if (act := command.act) is _DIAL:
            assert command.backend is not None
            self._dial(command.backend, command.seconds)
        elif act is _FINISH:
            self._place.half_closed.add(self)
            finish(self._end(command.side))
        elif act is _CLOSE:
            self._close()
        elif act is Act.RESET:
            self._reset(command.side)
        elif act is Act.WAIT:
            self.timer = self._place.loop.later(command.seconds, self._timed_out)
        elif act is Act.SWAP:
            self._swap()
        elif act is Act.QUEUE:
            self._queue(command.seconds)

    def _end(self, side: Side) -> End:
        if side is CLIENT:
            return self.client
        assert self.server is not None
        return self.server

    def _dial(self, backend: Backend, seconds: float) -> None:
        if self.server is not None:
            self._drop_server()
        before, tally = self.client.tally, self.host.tally(backend)
        if before is not None:
            tally.add(RETRIES if before is tally else REDISPATCHES)
        self.client.tally = tally
        self._at = self._place.loop.now
        try:
            sock = socket_to(backend)
        except OSError:
            # No descriptor, no memory: another backend would fare no better.
            self._obey(self.session.stuck())
            return
        server = self.server = server_end(sock)
        server.tally = tally
        self._drop_hedge()
        if 0 < (alone := self.session.watch.hedge_seconds) < seconds:
            self.timer = self._place.loop.later(alone, partial(self._late, seconds - alone))
        else:
            self.timer = self._place.loop.later(seconds, self._timed_out)
        error = sock.connect_ex(backend)
        if error in IN_PROGRESS:
            self._place.loop.add(sock.fileno(), self._on_server)
        else:  # in a turn of its own: hundreds that refuse at once would be hundreds of calls deep
            self._place.loop.again(partial(self._refused, server, error))

    def _queue(self, seconds: float) -> None:
        """Wait until the ticket is called."""
        self._drop_server()
        self._drop_hedge()
        self.wait = Wait(self._place.loop, self.host.own_tally, seconds, self._waited)
        assert self.session.ticket is not None
        self.session.ticket.call = self._seated
        if self.client.fin:
            self._obey(self.session.hung_up())

    def _waited(self) -> None:
        self._obey(self.session.waited())

    def _seated(self) -> bool:
        try:
            command = self.session.seated()
            if command.act is Act.NOTHING:
                return False
            self._stop_waiting()
            self._obey(command)
        except Exception as error:  # noqa: BLE001 - a bug, which shall not stop the queue
            self._place.loop.on_fault(self, error)
        return True

    def _stop_waiting(self) -> None:
        if self.wait is not None:
            self.wait.leave()
            self.wait = None

    def _refused(self, server: End, error: int) -> None:
        if self.server is server and self.timer is not None:
            self._fail_dial(self.session.refused, kind_of(error))

    def _dialled(self, server: End, events: int) -> None:
        """Something happened to the socket that is being connected: room to write is there once it is."""
        if not events & LOST and events & EPOLLOUT:
            self._stop_timer()
            self.session.connected()
            if self.hedge is not None:
                self._drop_hedge()
            self.dial_seconds = took = self._place.loop.now - self._at
            if server.tally is not None:
                server.tally.dialled(took)
            if self.origin is not None:
                self._introduce(server, self.origin)
        elif error := server.sock.getsockopt(SOL_SOCKET, SO_ERROR):
            self._fail_dial(self.session.refused, kind_of(error))

    def _introduce(self, server: End, whose: Origin) -> None:
        """Tell the backend whose connection it is, before all else: in one packet with what the client has said."""
        introduction = self.host.introduction
        if introduction is None:
            return
        push(self._place, server, introduction(whose), more=self.client.readable)
        if self.client.readable:
            self._turn(server)
            if self.server is server:
                send_now(server)  # nothing was there after all

    def _timed_out(self) -> None:
        self._fail_dial(self.session.timed_out, TIMED_OUT)

    def _fail_dial(self, event: Callable[[], Command], kind: int) -> None:
        self.count_failure(self.client.tally, kind)
        self._stop_timer()
        command = event()
        if command.act is Act.RESET:
            self._place.counters.given_up += 1
        self._obey(command)

    def tally(self, backend: Backend) -> Tally:
        """Where what happens with a backend is counted."""
        return self.host.tally(backend)

    def count_failure(self, tally: Tally | None, kind: int) -> None:
        """A dial failed."""
        self._place.counters.dial_failures += 1
        if tally is not None:
            tally.add(kind)

    def win(self, server: End, began: float) -> None:
        """The rival, whose dial began then, answered first. The first one's socket is the caller's."""
        self._stop_timer()
        self._adopt(server)
        self.hedge = None
        self.dial_seconds = took = self._place.loop.now - began
        if server.tally is not None:
            server.tally.dialled(took)
        if self.origin is not None:
            self._introduce(server, self.origin)

    def _swap(self) -> None:
        """The dial failed: that of the rival goes on in its place."""
        self._drop_server()
        assert self.hedge is not None
        server, self._at, left = self.hedge.release()
        self.timer = self._place.loop.later(left, self._timed_out)
        self._adopt(server)
        self.hedge = Hedge(self, self._place)
        self.hedge.wait(self.session.watch.hedge_seconds)

    def _adopt(self, server: End) -> None:
        self.server, self.client.tally = server, server.tally
        self._place.loop.add(server.sock.fileno(), self._on_server)  # which tells how it is

    def _late(self, seconds: float) -> None:
        """The dial takes long: it may have a rival from now on, and so many seconds more."""
        self.timer = self._place.loop.later(seconds, self._timed_out)
        self.hedge = Hedge(self, self._place)
        self.hedge.look()

    def _drop_hedge(self) -> None:
        hedge, self.hedge = self.hedge, None
        if hedge is not None:
            hedge.cancel()

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _drop_server(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.drop(self._place)
            self._place.loop.bury(server.sock)

    def _reset(self, side: Side) -> None:
        """Close all but `side`, and that one by a reset once it has all that it was sent."""
        self._stop_timer()
        target = self._end(side)
        send_now(target)
        self._place.loop.remove(target.sock.fileno())
        Flush(self._place, target.sock)
        self._leave(keep=target)

    def _close(self) -> None:
        self._stop_timer()
        self._leave(keep=None)

    def abort(self) -> None:
        """A fault came up in it: reset both sides at once, if they are there still."""
        self._stop_timer()
        for end in (self.client, self.server):
            if end is not None:
                reset_on_close(end.sock)
        self.session.aborted()
        self._leave(keep=None)

    def _leave(self, keep: End | None) -> None:
        place = self._place
        if self not in place.relays:
            return
        del place.relays[self]
        try:
            self._let_go()
        finally:  # its descriptors are free again, whatever was wrong with it
            for end in (self.client, self.server):
                if end is not None and end is not keep:
                    if keep is not None:  # an end of a broken connection has no more to say
                        reset_on_close(end.sock)
                    place.loop.bury(end.sock)
            self.server = None
            place.budget.give(DESCRIPTORS if keep is None else DESCRIPTORS - 1)

    def _let_go(self) -> None:
        """Give back what it has of others, and tell of it."""
        place = self._place
        place.half_closed.discard(self)
        place.counters.active -= 1
        for end in (self.client, self.server):
            if end is not None:
                end.drop(place)
        if self.gate is not None:
            self.gate.leave()
        if self.hedge is not None:
            self._drop_hedge()
        if self.wait is not None:
            self._stop_waiting()
        settle(self, place)
        self.session.leave()
