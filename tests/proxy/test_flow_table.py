"""The flow table of a UDP frontend over time: a loop that is turned by hand, on a clock of the test's."""

import socket
from collections.abc import Callable, Iterator

import pytest

from svcnet.proxy.datagram import IDLE_SECONDS, UdpDoor
from svcnet.proxy.lead import Lead, Neighbours
from svcnet.proxy.loop import Loop
from svcnet.proxy.notes import Room
from svcnet.proxy.place import Place
from svcnet.proxy.pool import Pool
from svcnet.proxy.row import Backend, Service

HOST = "127.0.0.1"
FEW = 40


class Table:
    """A frontend with one backend."""

    def __init__(self, limit: int, keep: Callable[[], socket.socket]) -> None:
        self.now = 1000.0
        self.place = Place(Loop(lambda: self.now), limit)
        self.keep = keep
        self.server = keep()
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((HOST, 0))
        self.address = listener.getsockname()
        self.place.budget.used += 1
        self.pool = Pool("web", Room(), self.place.loop)
        lead = Lead(Neighbours((), lambda _: False), lambda: self.now)
        lead.follow(self.pool)
        self.door = UdpDoor(self.place, listener, lead)
        self.lead_to(Backend(*self.server.getsockname()))

    def lead_to(self, *backends: Backend) -> None:
        self.pool.update(Service("web", dict.fromkeys(backends, 1)))
        self.door.update()

    def pass_on(self, client: socket.socket, data: bytes = b"?") -> tuple[str, int]:
        """Send from a client; the address that the backend sees it come from."""
        client.sendto(data, self.address)
        self.turn()
        got, (host, port) = self.server.recvfrom(100)
        assert got == data
        return host, port

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and what there is to do be done."""
        self.now += seconds
        self.place.loop.again(lambda: None)
        self.place.loop.turn()
        self.place.loop.again(lambda: None)
        self.place.loop.turn()

    @property
    def flows(self) -> int:
        return self.place.counters.flows


@pytest.fixture
def keep() -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def one() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
        sock.settimeout(30.0)
        made.append(sock)
        return sock

    yield one
    for sock in made:
        sock.close()


@pytest.fixture
def table(request: pytest.FixtureRequest, keep: Callable[[], socket.socket]) -> Iterator[Table]:
    made = Table(getattr(request, "param", 1000), keep)
    yield made
    made.door.close()
    made.turn()
    assert made.flows == 0
    assert made.place.budget.used == 0


def test_a_quiet_flow_is_forgotten_one_in_use_is_not(table: Table) -> None:
    quiet, busy = table.keep(), table.keep()
    table.pass_on(quiet)
    port = table.pass_on(busy)
    table.turn(IDLE_SECONDS - 1)
    assert table.flows == 2
    assert table.pass_on(busy) == port
    table.turn(2)
    assert table.flows == 1
    assert table.pass_on(busy) == port
    table.turn(2 * IDLE_SECONDS)
    assert table.flows == 0


def test_replies_keep_a_flow_too(table: Table) -> None:
    client = table.keep()
    place = table.pass_on(client)
    for _ in range(3):
        table.turn(IDLE_SECONDS - 1)
        table.server.sendto(b"news", place)
        table.turn()
        assert client.recv(100) == b"news"
    assert table.flows == 1


@pytest.mark.parametrize("table", [FEW], indirect=True)
def test_the_newest_are_refused_when_there_is_no_room_and_taken_when_there_is(table: Table) -> None:
    clients = [table.keep() for _ in range(FEW)]
    for client in clients:
        client.sendto(b"?", table.address)
        table.turn()
    taken = table.flows
    assert 0 < taken < FEW
    assert table.place.counters.refused_for_room == FEW - taken
    table.turn(IDLE_SECONDS)
    assert table.flows == 0
    clients[-1].sendto(b"?", table.address)
    table.turn()
    assert table.flows == 1


def test_flows_end_with_their_backend(table: Table) -> None:
    client = table.keep()
    table.pass_on(client)
    table.lead_to()
    assert table.flows == 0
