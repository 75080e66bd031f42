"""Connections that say nothing, and readers that do not read: what one process does with them."""

import _socket
import socket
from collections.abc import Iterator

import pytest

from svcnet.proxy.counts import Counts, Tally
from svcnet.proxy.flush import FLUSH_SECONDS
from svcnet.proxy.loop import Loop
from svcnet.proxy.origin import HEADERS
from svcnet.proxy.patience import LONGEST_ROUND_SECONDS, Patience, silent_seconds
from svcnet.proxy.place import BUFFER_BYTES, MOST_HELD_BYTES, SMALL_READ_BYTES, Place
from svcnet.proxy.relay import Relay
from svcnet.proxy.row import Backend
from svcnet.proxy.session import Session
from tests.harness.until import until
from tests.proxy.stage import PATIENCE_SECONDS


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Host:
    """A frontend with these timeouts."""

    def __init__(self, idle_seconds: float, half_closed_seconds: float) -> None:
        self.idle_seconds, self.half_closed_seconds = idle_seconds, half_closed_seconds
        self.own_tally = Tally(Counts())
        self.introduction = HEADERS.get("")
        self.name = "service"

    def tally(self, _backend: Backend) -> Tally:
        return Tally(Counts())


class Talk:
    """A client, a backend, and a relay between them in a loop that a test turns."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.place = Place(Loop(self.clock), 1000)
        self.listener, self.server = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.client = socket.create_connection(self.listener.getsockname(), PATIENCE_SECONDS)
        Patience(self.place).start()

    def begin(self, host: Host) -> None:
        """Let the client in."""
        backend = Backend(*self.server.getsockname())
        accepted = _socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self.listener.accept()[0].detach())
        self.place.budget.take(2)
        Relay(self.place, accepted, Session(lambda _without: backend), host).begin()
        self.inner, _ = self.server.accept()
        self.client.sendall(b"x")
        self.inner.setblocking(False)
        until(self._heard)

    def _heard(self) -> bool:
        self.turn()
        try:
            return self.inner.recv(1) == b"x"
        except BlockingIOError:
            return False

    def turn(self) -> bool:
        """One turn that waits for nothing; True."""
        self.place.loop.again(lambda: None)
        self.place.loop.turn()
        return True

    def wait(self, seconds: float) -> None:
        """So much later on the loop's clock."""
        self.clock.now += seconds
        for _ in range(4):
            self.turn()

    def close(self) -> None:
        for relay in tuple(self.place.relays):
            relay.host = Host(0.0, 0.0)
            relay.lose_patience()
        self.wait(FLUSH_SECONDS)
        for sock in (self.listener, self.server, self.client, self.inner):
            sock.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.close()


def test_a_connection_that_says_nothing_is_reset(talk: Talk) -> None:
    talk.begin(Host(0.0, 3600.0))
    talk.wait(LONGEST_ROUND_SECONDS)
    assert not talk.place.relays
    assert talk.place.counters.idle == 1
    with pytest.raises(ConnectionResetError):
        until(lambda: talk.turn() and talk.client.recv(1))


def test_one_that_spoke_lately_goes_on(talk: Talk) -> None:
    talk.begin(Host(3600.0, 0.0))
    talk.wait(LONGEST_ROUND_SECONDS)
    assert talk.place.counters.active == 1


def test_half_closed_ones_have_a_time_of_their_own(talk: Talk) -> None:
    talk.begin(Host(3600.0, 0.0))
    talk.client.shutdown(socket.SHUT_WR)
    until(lambda: talk.turn() and talk.place.half_closed)
    talk.wait(LONGEST_ROUND_SECONDS)
    assert not talk.place.relays
    assert not talk.place.half_closed


def test_the_kernel_looks_for_peers_that_are_gone_from_the_first_round_on(talk: Talk) -> None:
    talk.begin(Host(3600.0, 3600.0))
    (relay,) = talk.place.relays
    assert relay.server is not None
    ends = relay.client.sock, relay.server.sock
    assert not any(end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for end in ends), "short ones pay nothing"
    talk.wait(LONGEST_ROUND_SECONDS)
    for end in ends:
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        found = [end.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert [*found, end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)] == [60, 15, 4], "two minutes in all"


def test_the_kernel_says_how_long_nothing_was_said(talk: Talk) -> None:
    talk.begin(Host(3600.0, 3600.0))
    assert 0 <= silent_seconds(talk.client) < PATIENCE_SECONDS


def test_while_much_waits_for_slow_readers_little_is_read() -> None:
    place = Place(Loop(), 1000)
    place.hold(MOST_HELD_BYTES + 1)
    assert place.read_bytes == SMALL_READ_BYTES
    place.hold(-1)
    assert place.read_bytes == BUFFER_BYTES
