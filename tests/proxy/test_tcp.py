"""TCP through a worker process, as clients and backends see it."""

import hashlib
import os
import socket
import sys
import threading
from contextlib import suppress

import pytest

from tests.proxy.stage import Stage, read_all, reset

BULK = 24 << 20
"""Bytes: far more than all socket buffers and pipes on the way hold."""


def test_bytes_go_both_ways(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    client.sendall(b"question")
    assert inner.recv(100) == b"question"
    inner.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_a_server_that_speaks_first_is_heard(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    stage.accept(server).sendall(b"220 hello")
    assert client.recv(100) == b"220 hello"


def test_the_reply_to_a_client_that_half_closed_arrives(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    client.sendall(b"all of it")
    client.shutdown(socket.SHUT_WR)
    inner = stage.accept(server)
    assert read_all(inner) == b"all of it"
    inner.sendall(b"the reply")
    inner.close()
    assert read_all(client) == b"the reply"


def test_what_comes_with_an_end_is_passed_on_in_one_packet_with_it(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    stage.stop()  # so that it finds both at once
    client.sendall(b"all of it")
    client.shutdown(socket.SHUT_WR)
    before = packets(inner)
    stage.go_on()
    assert read_all(inner) == b"all of it"
    assert packets(inner) == before + 1


@pytest.mark.parametrize("ends", [True, False], ids=["an end follows", "nothing follows"])
def test_what_comes_after_an_urgent_byte_is_passed_on(stage: Stage, ends: bool) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    stage.stop()  # so that one read finds all, and stops short at the urgent byte
    client.sendall(b"before")
    client.send(b"!", socket.MSG_OOB)
    client.sendall(b"after")
    if ends:
        client.shutdown(socket.SHUT_WR)
    stage.go_on()
    got = b""
    while len(got) < len(b"beforeafter"):
        got += inner.recv(100)
    assert got == b"beforeafter"  # the urgent byte itself is not on the way of the others (tcp(7), MSG_OOB)


def packets(sock: socket.socket) -> int:
    """How many came so far (linux/tcp.h, tcp_info: tcpi_segs_in)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)[140:], sys.byteorder)


def test_a_client_goes_on_after_the_server_half_closed(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    inner.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.sendall(b"x" * 10_000)
    client.close()
    assert read_all(inner) == b"x" * 10_000


def test_a_reset_of_the_server_is_one_for_the_client_after_the_bytes_before_it(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    inner.sendall(b"half of a")
    assert client.recv(9, socket.MSG_PEEK | socket.MSG_WAITALL) == b"half of a"
    reset(inner)
    assert client.recv(9) == b"half of a"
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_reset_of_the_client_is_one_for_the_server_after_the_bytes_before_it(stage: Stage) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    client.sendall(b"never mi")
    assert inner.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL) == b"never mi"
    reset(client)
    assert inner.recv(100) == b"never mi"
    with pytest.raises(ConnectionResetError):
        inner.recv(1)


def test_what_a_server_said_before_it_closed_on_unread_bytes_arrives(stage: Stage) -> None:
    """A server that answers early and closes without reading resets: its answer comes first."""
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    client.sendall(b"x" * 1000)
    inner.recv(1, socket.MSG_PEEK)
    inner.sendall(b"413 too large")
    inner.close()
    assert client.recv(13, socket.MSG_WAITALL) == b"413 too large"
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_connections_go_round(stage: Stage) -> None:
    servers = [stage.server() for _ in range(3)]
    front = stage.frontend(*(backend for _, backend in servers))
    for _ in range(3):
        for server, _ in servers:
            stage.client(front)
            stage.accept(server)


def test_weights_are_shares(stage: Stage) -> None:
    (one, a), (two, b) = stage.server(), stage.server()
    front = stage.frontend(a, b, weights={a: 3})
    for _ in range(8):
        stage.client(front)
    for server, number in ((one, 6), (two, 2)):
        for _ in range(number):
            stage.accept(server)


def test_the_round_goes_on_over_an_update(stage: Stage) -> None:
    (one, a), (two, b), (three, c) = (stage.server() for _ in range(3))
    front = stage.frontend(a, b)
    stage.client(front)
    stage.accept(one)
    stage.update(front, a, b, c)
    for server in (two, one, three, two):
        stage.client(front)
        stage.accept(server)


def test_dead_backends_are_passed_over_and_the_request_is_whole(stage: Stage) -> None:
    server, live = stage.server()
    front = stage.frontend(stage.dead(), live, stage.dead())
    for _ in range(12):
        client = stage.client(front)
        client.sendall(b"request")
        inner = stage.accept(server)
        assert inner.recv(100) == b"request"


def test_a_silent_backend_is_passed_over(stage: Stage) -> None:
    server, live = stage.server()
    front = stage.frontend(stage.silent(), live)
    for _ in range(2):
        client = stage.client(front)
        client.sendall(b"request")
        assert stage.accept(server).recv(100) == b"request"


def test_without_a_living_backend_the_client_is_reset(stage: Stage) -> None:
    client = stage.client(stage.frontend(*(stage.dead() for _ in range(300))))
    client.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_client_that_leaves_before_a_backend_answers_costs_nothing(stage: Stage) -> None:
    server, live = stage.server()
    front = stage.frontend(stage.dead(), live)
    for _ in range(20):
        reset(stage.client(front))
    client = stage.client(front)
    client.sendall(b"still there")
    heard = b""
    while not heard:
        with suppress(ConnectionResetError):  # one of those that left, whose dial was done by then
            heard = stage.accept(server).recv(100)
    assert heard == b"still there"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_bulk_arrives_whole_at_a_reader_that_comes_late(stage: Stage, direction: str) -> None:
    server, backend = stage.server()
    client = stage.client(stage.frontend(backend))
    inner = stage.accept(server)
    source, sink = (client, inner) if direction == "up" else (inner, client)
    data = os.urandom(1 << 20) * (BULK >> 20)

    def send() -> None:
        source.sendall(data)
        source.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    got = hashlib.sha256()
    total = 0
    while piece := sink.recv(1 << 17):
        got.update(piece)
        total += len(piece)
    sender.join()
    assert total == BULK
    assert got.digest() == hashlib.sha256(data).digest()


def test_sizes_that_change_the_way_of_moving_arrive_whole(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    sizes = (1, 70_000, 10, 3 << 20, 4095, 65_536, 300_000, 2, 1 << 20, 5)
    for turn in range(6):
        client = stage.client(front)
        inner = stage.accept(server)
        data = [os.urandom(size) for size in (*sizes[turn:], *sizes[:turn])]

        def speak(client: socket.socket = client, data: list[bytes] = data) -> None:
            for piece in data:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)

        def echo(inner: socket.socket = inner) -> None:
            while piece := inner.recv(1 << 18):
                inner.sendall(piece)
            inner.close()

        threads = [threading.Thread(target=speak), threading.Thread(target=echo)]
        for thread in threads:
            thread.start()
        assert read_all(client) == b"".join(data)
        for thread in threads:
            thread.join()


def test_open_connections_outlive_their_frontend(stage: Stage) -> None:
    server, backend = stage.server()
    front = stage.frontend(backend)
    address = stage.address(front)
    client = stage.client(front)
    inner = stage.accept(server)
    stage.drop(front)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    client.sendall(b"going on")
    assert inner.recv(100) == b"going on"


def test_an_update_leaves_open_connections_where_they_are(stage: Stage) -> None:
    (server, a), (other, b) = stage.server(), stage.server()
    front = stage.frontend(a)
    client = stage.client(front)
    inner = stage.accept(server)
    stage.update(front, b)
    client.sendall(b"going on")
    assert inner.recv(100) == b"going on"
    stage.client(front)
    stage.accept(other)


def test_many_at_once_are_spread_evenly(stage: Stage) -> None:
    servers = dict(stage.server(backlog=512)[::-1] for _ in range(4))
    front = stage.frontend(*servers)
    clients = [stage.client(front) for _ in range(200)]
    for server in servers.values():
        for _ in range(len(clients) // len(servers)):
            stage.accept(server)


def test_what_comes_after_an_urgent_byte_in_bulk_is_passed_on(stage: Stage) -> None:
    """A splice ends before it as a read does, and does not pass over it."""
    size = 1 << 20
    server, backend = stage.server()
    front = stage.frontend(backend)
    client = stage.client(front)
    inner = stage.accept(server)

    def write() -> None:
        client.sendall(b"a" * size)
        client.send(b"!", socket.MSG_OOB)

    for _ in range(3):
        writer = threading.Thread(target=write)
        writer.start()
        heard = 0
        while heard < size:
            heard += len(inner.recv(1 << 20))
        writer.join()
    client.sendall(b"end")
    assert inner.recv(10) == b"end"
