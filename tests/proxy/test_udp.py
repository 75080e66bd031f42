"""UDP through a worker process, as clients and backends see it."""

import resource
import socket

import pytest

from svcnet.model.terms import Terms
from svcnet.proxy.counts import NO_ROOM
from svcnet.proxy.row import Backend
from tests.harness.until import until
from tests.proxy.stage import Stage, file_limit

DGRAM = socket.SOCK_DGRAM


def client(stage: Stage, front: int) -> socket.socket:
    one = stage.keep(socket.socket(socket.AF_INET, DGRAM))
    one.connect(stage.address(front))
    return one


def serve(server: socket.socket, expected: bytes) -> None:
    data, peer = server.recvfrom(1 << 17)
    assert data == expected
    server.sendto(data, peer)


@pytest.mark.parametrize("size", [0, 1, 512, 1472, 9000, 65_507])
def test_datagrams_stay_whole(stage: Stage, size: int) -> None:
    server, backend = stage.server(DGRAM)
    one = client(stage, stage.frontend(backend, protocol="udp"))
    data = bytes(range(256)) * 256
    one.send(data[:size])
    serve(server, data[:size])
    assert one.recv(1 << 17) == data[:size]


def test_a_flow_stays_with_its_backend_and_another_goes_to_the_next(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(DGRAM), stage.server(DGRAM)
    front = stage.frontend(a, b, protocol="udp")
    first, second = client(stage, front), client(stage, front)
    for _ in range(3):
        first.send(b"first")
        serve(one, b"first")
        second.send(b"second")
        serve(two, b"second")
        assert first.recv(100) == b"first"
        assert second.recv(100) == b"second"


def test_a_backend_that_refuses_is_passed_over_with_the_datagram_it_refused(stage: Stage) -> None:
    server, live = stage.server(DGRAM)
    front = stage.frontend(stage.dead(DGRAM), stage.dead(DGRAM), live, protocol="udp")
    for _ in range(4):
        one = client(stage, front)
        one.send(b"question")
        serve(server, b"question")
        assert one.recv(100) == b"question"


def test_a_backend_that_dies_in_a_conversation_is_passed_over(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(DGRAM), stage.server(DGRAM)
    talker = client(stage, stage.frontend(a, b, protocol="udp"))
    talker.send(b"hello")
    serve(one, b"hello")
    assert talker.recv(100) == b"hello"
    one.close()
    talker.send(b"again")
    serve(two, b"again")
    assert talker.recv(100) == b"again"


def test_flows_of_a_removed_backend_go_elsewhere_at_once_others_stay(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(DGRAM), stage.server(DGRAM)
    front = stage.frontend(a, b, protocol="udp")
    first, second = client(stage, front), client(stage, front)
    first.send(b"1")
    serve(one, b"1")
    second.send(b"2")
    data, place = two.recvfrom(100)
    assert data == b"2"
    stage.update(front, b, protocol="udp")
    first.send(b"3")
    serve(two, b"3")
    second.send(b"4")
    assert two.recvfrom(100) == (b"4", place), "its flow is the same"


def test_without_a_living_backend_nothing_breaks(stage: Stage) -> None:
    front = stage.frontend(stage.dead(DGRAM), protocol="udp")
    client(stage, front).send(b"anyone?")
    server, live = stage.server(DGRAM)
    stage.update(front, live, protocol="udp")
    one = client(stage, front)
    one.send(b"now?")
    serve(server, b"now?")


def test_a_closed_frontend_refuses(stage: Stage) -> None:
    _, backend = stage.server(DGRAM)
    front = stage.frontend(backend, protocol="udp")
    one = client(stage, front)
    stage.drop(front)
    one.send(b"?")
    with pytest.raises(ConnectionRefusedError):
        one.recv(100)


def test_unroutable_backends_are_passed_over(stage: Stage) -> None:
    server, live = stage.server(DGRAM)
    front = stage.frontend(Backend("255.255.255.255", 9), live, protocol="udp")
    for _ in range(2):
        one = client(stage, front)
        one.send(b"?")
        serve(server, b"?")


def test_without_a_descriptor_left_a_datagram_is_lost_and_the_worker_goes_on(stage: Stage) -> None:
    server, backend = stage.server(DGRAM)
    front = stage.frontend(backend, protocol="udp")
    one, pid = client(stage, front), stage.child.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, file_limit()))
    one.send(b"lost")
    until(lambda: stage.counted(front, NO_ROOM) == 1)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    one.send(b"found")
    serve(server, b"found")
    assert one.recv(100) == b"found"
    assert stage.child.pid == pid
    assert stage.happened("flows") == 1


def test_a_flow_of_which_the_replies_are_known_is_over_with_the_last_of_them(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(DGRAM), stage.server(DGRAM)
    front = stage.frontend(a, b, protocol="udp", terms=Terms(udp_replies=2))
    asking = client(stage, front)
    for server in (one, two, one):
        asking.send(b"?")
        data, peer = server.recvfrom(100)
        for reply in (b"first", b"second"):
            server.sendto(reply, peer)
        assert data == b"?"
        assert [asking.recv(100), asking.recv(100)] == [b"first", b"second"]
        until(lambda: not stage.happened("flows"))


def test_datagrams_that_are_on_their_way_keep_such_a_flow(stage: Stage) -> None:
    (server, backend) = stage.server(DGRAM)
    front = stage.frontend(backend, protocol="udp", terms=Terms(udp_replies=1))
    asking = client(stage, front)
    for _ in range(2):
        for number in b"12":
            asking.send(bytes([number]))
        seen = [server.recvfrom(100) for _ in range(2)]
        for data, peer in seen:
            server.sendto(data, peer)
        assert {data for data, _ in seen} == {asking.recv(100), asking.recv(100)} == {b"1", b"2"}
        until(lambda: not stage.happened("flows"))
