"""Who gets a connection, seen from outside: a worker with live, refusing and silent backends."""

import socket

import pytest

from svcnet.model.terms import Eject, EndpointLimit, Terms
from svcnet.proxy.counts import AT_LIMIT, EJECTIONS, TIMED_OUT
from svcnet.proxy.row import Backend, Choice, Rule, Service
from tests.harness.client import BRIEF_SECONDS
from tests.harness.until import until
from tests.proxy.stage import HOST, PATIENCE_SECONDS, Stage, read_all, reset

LONG_OUT = Eject(base_seconds=3600.0)
"""Nobody comes back while a test goes on."""


def talk(stage: Stage, front: int, server: socket.socket) -> None:
    """A request and a reply."""
    with stage.client(front) as client:
        client.sendall(b"?")
        with stage.accept(server) as inner:
            assert inner.recv(10) == b"?"
            inner.sendall(b"!")
        assert read_all(client) == b"!"


def led_to(stage: Stage, front: int, server: socket.socket) -> bool:
    """Whether a connection came to this one; `server` does not block."""
    with stage.client(front):
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return False
        return True


def test_a_backend_that_refused_three_times_gets_no_more_dials(stage: Stage) -> None:
    server, live = stage.server()
    front = stage.frontend(stage.dead(), live, terms=Terms(eject=LONG_OUT))
    for _ in range(30):
        talk(stage, front, server)
    assert stage.happened("dial_failures") == 3


def test_with_eject_off_it_is_dialled_on_and_on_but_only_in_its_turn(stage: Stage) -> None:
    server, live = stage.server()
    front = stage.frontend(stage.dead(), live, terms=Terms(eject=None))
    for _ in range(30):
        talk(stage, front, server)
    assert stage.happened("dial_failures") == 15


def test_a_backend_that_was_out_serves_again_once_its_time_is_over(stage: Stage) -> None:
    server, live = stage.server()
    gone = stage.keep(socket.create_server((HOST, 0)))
    back = Backend(*gone.getsockname())
    gone.close()
    front = stage.frontend(back, live, terms=Terms(eject=Eject(failures=1, base_seconds=0.05)))
    for _ in range(2):
        talk(stage, front, server)
    assert stage.counted(front, EJECTIONS)
    again = stage.keep(socket.create_server(back))
    again.setblocking(False)
    until(lambda: led_to(stage, front, again))


def test_open_connections_to_a_backend_that_is_out_go_on(stage: Stage) -> None:
    server, flaky = stage.server()
    other, live = stage.server()
    front = stage.frontend(flaky, live, terms=Terms(eject=LONG_OUT))
    client = stage.client(front)
    client.sendall(b"before")
    inner = stage.accept(server)
    assert inner.recv(10) == b"before"
    server.close()
    for _ in range(20):
        talk(stage, front, other)
    assert stage.happened("dial_failures") == 3
    client.sendall(b"after")
    assert inner.recv(10) == b"after"


def test_a_flow_s_refusals_count_too(stage: Stage) -> None:
    server, live = stage.server(socket.SOCK_DGRAM)
    front = stage.frontend(stage.dead(socket.SOCK_DGRAM), live, protocol="udp", terms=Terms(eject=LONG_OUT))
    for _ in range(30):
        client = stage.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.connect(stage.address(front))
        client.send(b"?")
        data, there = server.recvfrom(10)
        server.sendto(data, there)
        assert client.recv(10) == b"?"
    assert stage.happened("dial_failures") == 3


def test_a_silent_backend_costs_as_long_as_the_hedge_says_and_has_not_failed(stage: Stage) -> None:
    server, live = stage.server()
    terms = Terms(connect_seconds=(20.0,), hedge_seconds=0.01)
    front = stage.frontend(stage.silent(), live, terms=terms)
    for _ in range(8):
        talk(stage, front, server)
    assert stage.happened("dial_failures") == 0


def test_a_silent_backend_that_always_loses_is_found_out(stage: Stage) -> None:
    server, live = stage.server()
    terms = Terms(connect_seconds=(0.05, 20.0), hedge_seconds=0.01, eject=LONG_OUT)
    front = stage.frontend(stage.silent(), live, terms=terms)
    for _ in range(6):
        talk(stage, front, server)
    until(lambda: stage.counted(front, EJECTIONS) == 1)
    assert stage.counted(front, TIMED_OUT) == 3


def test_a_rival_that_refuses_makes_room_for_the_next(stage: Stage) -> None:
    server, live = stage.server()
    terms = Terms(connect_seconds=(20.0,), hedge_seconds=0.01, eject=None)
    front = stage.frontend(stage.silent(), stage.dead(), stage.dead(), live, terms=terms)
    for _ in range(12):
        talk(stage, front, server)


def test_a_client_that_leaves_while_two_are_dialled_costs_nothing(stage: Stage) -> None:
    terms = Terms(connect_seconds=(20.0,), hedge_seconds=0.01)
    front = stage.frontend(stage.silent(), stage.silent(), terms=terms)
    clients = [stage.client(front) for _ in range(20)]
    until(lambda: stage.happened("active") == len(clients))
    for client in clients:
        reset(client)
    until(lambda: not stage.happened("active"))


def test_the_ladder_is_the_service_s(stage: Stage) -> None:
    front = stage.frontend(stage.silent(), terms=Terms(connect_seconds=(0.01, 0.01)))
    with pytest.raises(ConnectionResetError):
        stage.client(front).recv(1)
    assert stage.happened("dial_failures") == 2


def test_by_load_who_keeps_its_connections_gets_few_more(stage: Stage) -> None:
    slow, fast = stage.server(), stage.server()
    front = stage.frontend(slow[1], fast[1], choice=Choice.LEAST)
    for server in (slow[0], fast[0]):
        server.setblocking(False)
    kept = []
    for _ in range(40):
        client = stage.client(front)
        inner = None
        while inner is None:
            for server in (slow[0], fast[0]):
                try:
                    inner, _ = server.accept()
                except BlockingIOError:
                    continue
                if server is slow[0]:
                    kept.append((client, stage.keep(inner)))
                else:
                    inner.close()
                    assert client.recv(1) == b""
                    client.close()
        until(lambda: stage.happened("active") == len(kept))
    assert 1 <= len(kept) <= 2


def test_beyond_its_limit_a_service_s_clients_wait_and_those_of_others_do_not(stage: Stage) -> None:
    server, backend = stage.server()
    limited = stage.frontend(backend, terms=Terms(most_connections=2))
    free = stage.frontend(backend)
    first, second = stage.client(limited), stage.client(limited)
    inner = [stage.accept(server), stage.accept(server)]
    third = stage.client(limited)
    third.sendall(b"third")
    until(lambda: stage.counted(limited, AT_LIMIT) == 1)
    talk(stage, free, server)
    until(lambda: stage.happened("active") == 2)
    reset(first)
    assert stage.accept(server).recv(10) == b"third"
    second.close()
    assert len(inner) == 2


def test_a_limit_that_comes_later_counts_who_is_there_and_one_that_goes_lets_all_in(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    kept = [stage.client(front) for _ in range(3)]
    for _ in kept:
        stage.accept(server)
    stage.update(front, backend, terms=Terms(most_connections=3))
    waiting = stage.client(front)
    waiting.sendall(b"waiting")
    until(lambda: stage.counted(front, AT_LIMIT) == 1)
    assert stage.happened("active") == 3
    stage.update(front, backend)
    assert stage.accept(server).recv(10) == b"waiting"


@pytest.mark.parametrize("terms", [Terms(most_connections=1), Terms(endpoint_limit=EndpointLimit(1, seconds=3600.0))])
def test_connections_of_before_an_endpoint_went_and_came_back_count(stage: Stage, terms: Terms) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=terms)
    kept, inner = stage.client(front), stage.accept(server)
    stage.reopen(front, backend, terms=terms)
    waiting = stage.client(front)
    waiting.sendall(b"waiting")
    until(lambda: stage.counted(front, AT_LIMIT) == 2 or stage.happened("active") == 2)
    kept.sendall(b"still")
    assert inner.recv(10) == b"still"
    server.settimeout(BRIEF_SECONDS)
    with pytest.raises(TimeoutError):
        server.accept()
    server.settimeout(PATIENCE_SECONDS)
    kept.close()
    inner.close()
    assert stage.accept(server).recv(10) == b"waiting"


def test_a_frontend_at_its_limit_can_be_dropped(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend, terms=Terms(most_connections=1))
    kept = stage.client(front)
    inner = stage.accept(server)
    stage.client(front)
    until(lambda: stage.counted(front, AT_LIMIT) == 1)
    stage.drop(front)
    kept.sendall(b"still")
    assert inner.recv(10) == b"still"
    kept.close()
    inner.close()
    until(lambda: not stage.happened("active"))
    talk(stage, stage.frontend(backend), server)


SHARES = [(10, 1, [10]), (10, 3, [4, 3, 3]), (1, 2, [1, 1]), (0, 2, [0, 0])]


@pytest.mark.parametrize(("most", "workers", "shares"), SHARES)
def test_each_worker_has_its_share_of_a_limit(most: int, workers: int, shares: list[int]) -> None:
    rule = Rule(Service("web", {}, terms=Terms(most_connections=most)))
    assert [rule.share(number, workers).service.terms.most_connections for number in range(workers)] == shares


def test_a_rate_lets_clients_wait_their_time_and_those_of_others_do_not(stage: Stage) -> None:
    server, backend = stage.server()
    slow = stage.frontend(backend, terms=Terms(most_rate=1))
    talk(stage, slow, server)
    waiting = stage.client(slow)
    waiting.sendall(b"waiting")
    until(lambda: stage.counted(slow, AT_LIMIT) == 1)
    talk(stage, stage.frontend(backend), server)
    assert stage.accept(server).recv(10) == b"waiting"
    last = stage.client(slow)
    last.sendall(b"last")
    stage.update(slow, backend)
    assert stage.accept(server).recv(10) == b"last", "without a rate nobody waits"
