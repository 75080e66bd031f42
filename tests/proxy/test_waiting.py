"""Limits of connections to one endpoint, seen from outside: a worker whose endpoints are full."""

import socket
from collections.abc import Callable

import pytest

from svcnet.model.terms import EndpointLimit, Terms
from svcnet.proxy.counts import NO_ROOM, NOW, QUEUE_TIMEOUTS, QUEUED_NOW, part_of
from svcnet.proxy.hashed import Hashed
from svcnet.proxy.row import Backend, Choice
from tests.harness.until import until
from tests.proxy.stage import PATIENCE_SECONDS, Stage, read_all, reset

ONE = Terms(endpoint_limit=EndpointLimit(1, seconds=3600.0))


def queued(stage: Stage, front: int) -> int:
    return part_of(stage.counted(front, NOW), QUEUED_NOW)


def waiting(stage: Stage, front: int, number: int) -> Callable[[], bool]:
    return lambda: queued(stage, front) == number


def test_a_client_waits_with_its_request_unread_until_an_endpoint_has_room(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=ONE)
    first = stage.client(front)
    inner = stage.accept(server)
    second = stage.client(front)
    second.sendall(b"request")
    until(waiting(stage, front, 1))
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()
    server.setblocking(True)
    first.close()
    inner.close()
    later = stage.accept(server)
    assert later.recv(100) == b"request"
    later.sendall(b"reply")
    later.close()
    assert read_all(second) == b"reply"
    until(waiting(stage, front, 0))


def test_what_is_said_while_a_retry_waits_comes_to_the_one_that_has_room(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(stage.dead(), backend, terms=ONE._replace(eject=None))
    first = stage.client(front)
    inner = stage.accept(server)
    second = stage.client(front)
    until(waiting(stage, front, 1))
    second.sendall(b"request")
    first.close()
    inner.close()
    later = stage.accept(server)
    assert later.recv(100) == b"request"
    later.sendall(b"reply")
    assert second.recv(100) == b"reply"


def test_a_client_that_resets_leaves_the_line(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=ONE)
    first = stage.client(front)
    inner = stage.accept(server)
    gone = stage.client(front)
    until(waiting(stage, front, 1))
    reset(gone)
    until(waiting(stage, front, 0))
    last = stage.client(front)
    last.sendall(b"last")
    first.close()
    inner.close()
    assert stage.accept(server).recv(10) == b"last"


@pytest.mark.parametrize("said", [b"", b"a request"])
@pytest.mark.parametrize("aborts", [False, True])
def test_a_client_that_closes_has_its_turn_or_leaves_the_line_as_the_service_asks(
    stage: Stage, said: bytes, aborts: bool
) -> None:
    server, backend = stage.server()
    limit = EndpointLimit(1, seconds=3600.0, abort_on_close=aborts)
    front = stage.frontend(backend, terms=Terms(endpoint_limit=limit))
    first = stage.client(front)
    inner = stage.accept(server)
    gone, patient = stage.client(front), stage.client(front)
    until(waiting(stage, front, 2))
    gone.sendall(said)
    gone.shutdown(socket.SHUT_WR)
    patient.sendall(b"mine")
    patient.shutdown(socket.SHUT_RD)  # which nobody hears of
    if aborts:
        until(waiting(stage, front, 1))
    first.close()
    inner.close()
    if not aborts:
        its = stage.accept(server)
        assert read_all(its) == said
        its.sendall(b"an answer")
        its.close()
        assert read_all(gone) == b"an answer"
    assert stage.accept(server).recv(10) == b"mine"


def test_a_line_that_is_full_ends_in_a_reset_of_who_comes_last(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(endpoint_limit=EndpointLimit(1, queue=1, seconds=3600)))
    client, inner = stage.client(front), stage.accept(server)
    waits = stage.client(front)
    until(waiting(stage, front, 1))
    with pytest.raises(ConnectionResetError):  # maybe before connect has returned
        stage.client(front).recv(1)
    until(lambda: stage.counted(front, NO_ROOM) == 1)
    client.close()
    inner.close()
    stage.accept(server).sendall(b"!")
    assert waits.recv(1) == b"!"


def test_a_line_that_takes_too_long_ends_in_a_reset(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(endpoint_limit=EndpointLimit(1, seconds=0.05)))
    client, inner = stage.client(front), stage.accept(server)
    with pytest.raises(ConnectionResetError):
        stage.client(front).recv(1)
    until(lambda: stage.counted(front, QUEUE_TIMEOUTS) == 1)
    client.sendall(b"x")
    assert inner.recv(1) == b"x"


def test_a_limit_that_comes_later_counts_who_is_there_and_one_that_goes_lets_all_in(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    first, inner = stage.client(front), stage.accept(server)
    stage.update(front, backend, terms=ONE)
    clients = [stage.client(front) for _ in range(3)]
    until(waiting(stage, front, 3))
    first.sendall(b"x")
    assert inner.recv(1) == b"x"
    stage.update(front, backend)
    for _ in clients:
        stage.accept(server)
    until(waiting(stage, front, 0))


def test_who_waits_when_the_service_goes_is_reset_at_once_and_who_is_connected_stays(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(endpoint_limit=EndpointLimit(1, seconds=3600)))
    first, inner = stage.client(front), stage.accept(server)
    waits = stage.client(front)
    until(waiting(stage, front, 1))
    stage.drop(front)
    with pytest.raises(ConnectionResetError):
        waits.recv(1)
    until(waiting(stage, front, 0))
    first.sendall(b"x")
    assert inner.recv(1) == b"x"


def test_who_waits_for_an_endpoint_that_goes_is_served_by_another_in_his_turn(stage: Stage) -> None:
    (one, going), (other, staying) = stage.server(), stage.server()
    hashed, clients = Hashed(), [f"127.0.0.{number}" for number in range(2, 34)]
    hashed.update({going: 1, staying: 1})
    first, waits = [client for client in clients if hashed.pick(client, ()) == going][:2]
    holds = next(client for client in clients if hashed.pick(client, ()) == staying)
    front = stage.frontend(going, staying, choice=Choice.HASH, terms=ONE)

    def come(client: str) -> socket.socket:
        return stage.keep(socket.create_connection(stage.address(front), PATIENCE_SECONDS, (client, 0)))

    come(first)
    stage.accept(one)
    holder = come(holds)
    inner = stage.accept(other)
    waiter = come(waits)
    until(waiting(stage, front, 1))
    stage.update(front, staying, terms=ONE)
    waiter.sendall(b"request")
    stage.rest()
    assert queued(stage, front) == 1
    holder.close()
    inner.close()
    assert stage.accept(other).recv(100) == b"request"


def test_two_hundred_clients_are_all_served_one_at_a_time_by_each_of_two(stage: Stage) -> None:
    servers = [stage.server()[0] for _ in range(2)]
    front = stage.frontend(*(Backend(*server.getsockname()) for server in servers), terms=ONE)
    clients = [stage.client(front) for _ in range(200)]
    served = [0, 0]

    def serve(number: int) -> bool:
        try:
            inner = servers[number].accept()[0]
        except BlockingIOError:
            return False
        inner.settimeout(PATIENCE_SECONDS)
        assert inner.recv(10) == b"?"
        with pytest.raises(BlockingIOError):
            servers[number].accept()
        inner.sendall(b"!")
        inner.close()
        served[number] += 1
        return sum(served) == len(clients)

    for client in clients:
        client.sendall(b"?")
        client.shutdown(socket.SHUT_WR)
    for server in servers:
        server.setblocking(False)
    until(lambda: any([serve(0), serve(1)]))
    assert all(served)
    assert all(read_all(client) == b"!" for client in clients)
