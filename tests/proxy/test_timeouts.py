"""How long connections may last, by the annotations of their service, as clients and backends see it."""

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from svcnet.model.terms import Terms
from svcnet.proxy.counts import CLIENT_RESETS, CONNECTIONS, DRAINED, GIVEN_UP, IDLE, REFUSED, SERVER_RESETS
from tests.harness.until import until
from tests.proxy.stage import PATIENCE_SECONDS, Stage, read_all, reset

SOON = 0.2


def talking(stage: Stage, front: int, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client and the backend's end of its connection, after a word each way."""
    client = stage.client(front)
    inner = stage.accept(server)
    client.sendall(b"hello")
    assert inner.recv(5) == b"hello"
    inner.sendall(b"hi")
    assert client.recv(2) == b"hi"
    return client, inner


def assert_reset(*ends: socket.socket) -> None:
    for end in ends:
        with pytest.raises(ConnectionResetError):
            read_all(end)


def test_a_connection_that_says_nothing_for_its_services_time_is_reset_others_go_on(stage: Stage) -> None:
    server, backend = stage.server()
    usual = stage.frontend(backend)
    front = stage.frontend(backend, terms=Terms(idle_seconds=SOON))
    spared = talking(stage, usual, server)
    assert_reset(stage.client(front), stage.accept(server))
    spared[0].sendall(b"still")
    assert spared[1].recv(5) == b"still"
    until(lambda: stage.counted(front, IDLE) == 1)
    assert not stage.counted(usual, IDLE)


def test_a_new_timeout_holds_for_connections_that_are_open(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    ends = talking(stage, front, server)
    stage.update(front, backend, terms=Terms(idle_seconds=SOON))
    assert_reset(*ends)


def test_open_connections_of_a_closed_frontend_keep_their_timeout(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(idle_seconds=SOON))
    ends = stage.client(front), stage.accept(server)
    stage.drop(front)
    assert_reset(*ends)


def test_half_closed_connections_have_a_time_of_their_own(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(half_closed_seconds=SOON))
    client, inner = talking(stage, front, server)
    client.shutdown(socket.SHUT_WR)
    with suppress(ConnectionResetError):  # it may have come by now
        assert inner.recv(1) == b""
    assert_reset(client)


def test_a_flow_of_udp_ends_after_its_services_time(stage: Stage) -> None:
    server, backend = stage.server(socket.SOCK_DGRAM)
    front = stage.frontend(backend, protocol="udp", terms=Terms(idle_seconds=SOON))
    client = stage.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.connect(stage.address(front))
    places: set[tuple[str, int]] = set()

    def another_flow() -> bool:
        client.send(b"x")
        places.add(server.recvfrom(10)[1])
        for _ in range(8):  # a pause that is longer than the timeout
            server.settimeout(SOON / 4)
            with pytest.raises(TimeoutError):
                server.recv(10)
        server.settimeout(PATIENCE_SECONDS)
        return len(places) > 1

    until(another_flow)


def test_each_step_of_the_services_ladder_is_a_try(stage: Stage) -> None:
    full, silent = stage.server(backlog=0)
    for _ in range(3):  # what the queue takes; after that nobody answers
        waiting = stage.keep(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(silent)
    front = stage.frontend(silent, terms=Terms(connect_seconds=(0.05, 0.05, 0.05)))
    assert_reset(stage.client(front))
    until(lambda: stage.counted(front, GIVEN_UP) == 1)
    full.close()


Leave = Callable[[Stage, int, Terms], None]


def other_endpoint(stage: Stage, front: int, terms: Terms) -> None:
    stage.update(front, stage.server()[1], terms=terms)


def no_service(stage: Stage, front: int, _terms: Terms) -> None:
    stage.drop(front)


def end_of_the_worker(stage: Stage, _front: int, _terms: Terms) -> None:
    stage.child.tell([({"drain": True}, ())])


@pytest.mark.parametrize("leave", [other_endpoint, no_service, end_of_the_worker])
def test_connections_of_what_is_gone_are_reset_after_the_services_drain(stage: Stage, leave: Leave) -> None:
    server, backend = stage.server()
    terms = Terms(drain_seconds=SOON)
    front = stage.frontend(backend, terms=terms)
    ends = talking(stage, front, server)
    leave(stage, front, terms)
    assert_reset(*ends)


def test_drained_connections_are_counted_and_those_of_others_go_on(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(), stage.server()
    terms = Terms(drain_seconds=0.0)
    front = stage.frontend(a, b, terms=terms)
    gone, stays = talking(stage, front, one), talking(stage, front, two)
    stage.update(front, b, terms=terms)
    assert_reset(*gone)
    stays[0].sendall(b"still")
    assert stays[1].recv(5) == b"still"
    until(lambda: stage.counted(front, DRAINED) == 1)


def test_an_endpoint_that_comes_back_in_time_keeps_its_connections(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(), stage.server()
    terms = Terms(drain_seconds=SOON)
    front = stage.frontend(a, b, terms=terms)
    first, second = talking(stage, front, one), talking(stage, front, two)
    stage.tell({"put": [stage.row(front, terms=terms), stage.row(front, a, terms=terms)]})  # no time between
    assert_reset(*second)
    first[0].sendall(b"still")
    assert first[1].recv(5) == b"still"


def test_the_last_endpoint_that_comes_back_in_time_keeps_its_connections_too(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(), stage.server()
    terms = Terms(drain_seconds=SOON)
    front = stage.frontend(a, b, terms=terms)
    first, second = talking(stage, front, one), talking(stage, front, two)
    stage.reopen(front, a, terms=terms)
    assert_reset(*second)
    for end in (first, talking(stage, front, one)):
        end[0].sendall(b"still")
        assert end[1].recv(5) == b"still"
    stage.update(front, terms=terms)
    assert_reset(*first)


def test_a_drain_that_is_asked_for_later_holds_for_what_is_gone(stage: Stage) -> None:
    (one, a), (_, b) = stage.server(), stage.server()
    front = stage.frontend(a, b)
    ends = talking(stage, front, one)
    stage.update(front, b)
    stage.update(front, b, terms=Terms(drain_seconds=0.0))
    assert_reset(*ends)


def test_who_reset_a_connection_is_counted_and_every_refusal(stage: Stage) -> None:
    server, backend = stage.server()
    dead = stage.dead()
    front = stage.frontend(dead, backend)
    client, _ = talking(stage, front, server)
    reset(client)
    client, inner = talking(stage, front, server)
    reset(inner)
    assert_reset(client)
    assert stage.counted(front, REFUSED)
    wanted = {CONNECTIONS: 2, CLIENT_RESETS: 1, SERVER_RESETS: 1}
    until(lambda: {field: stage.counted(front, field) for field in wanted} == wanted)
