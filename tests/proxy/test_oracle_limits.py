"""Limits, load and ejection, through a worker and through HAProxy where that is installed: clients fare alike.

Known differences, which are not asked of HAProxy here:

* Who waited too long, or found the queue full, gets a reset of ours, and a plain end from HAProxy.
* `leastconn` of HAProxy looks at every endpoint; ours draws two, which with two endpoints is the same. HAProxy counts
  the connections of all its threads, each of our workers its own, with its share of every limit.
* HAProxy has a queue for each endpoint, for clients with a cookie, and one for all others; ours has one length for
  both, and its clients with affinity go elsewhere when that is reached.
* With HAProxy's `observe layer4` an endpoint comes back by a health check alone, which it needs; with our `eject` by
  time, and never more are out than their share.
* When HAProxy's `maxconn` of a service is reached it accepts again with the first end; ours when a 20th has ended.
* HAProxy has nothing like `hedge`: test_choice.py has that alone.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from svcnet.model.terms import Eject, EndpointLimit, Terms
from svcnet.proxy.row import Backend, Choice
from tests.harness.until import until
from tests.proxy.oracle import BOTH, Connect, Front, haproxy
from tests.proxy.stage import PATIENCE_SECONDS, Stage, read_all, reset

CONFIG = """
global
  nbthread 1
defaults
  mode tcp
  timeout connect 250ms
  timeout client 30s
  timeout server 30s
  timeout queue {queue}
  retries 3
  option redispatch 1
listen test
  bind fd@{listener}
  {lines}
"""


class Asked(NamedTuple):
    """The same, in the words of both."""

    terms: Terms
    choice: Choice = Choice.TURN
    listen: str = ""
    """A line of HAProxy's section."""
    server: str = ""
    """Words behind each of its servers."""
    queue: str = "30s"


PLAIN_LIMIT = Asked(Terms(endpoint_limit=EndpointLimit(1, seconds=30.0)), server="maxconn 1")
SHORT_QUEUE = Asked(Terms(endpoint_limit=EndpointLimit(1, seconds=0.1)), server="maxconn 1", queue="100ms")
SERVICE_LIMIT = Asked(Terms(most_connections=2), listen="maxconn 2")
LEAST = Asked(Terms(), Choice.LEAST, listen="balance leastconn")
OBSERVED = Asked(
    Terms(eject=Eject(failures=3, base_seconds=3600)),
    server="check inter 1h observe layer4 error-limit 3 on-error mark-down",
)


@pytest.fixture(params=BOTH)
def front(request: pytest.FixtureRequest, stage: Stage, tmp_path: Path) -> Iterator[Front]:
    """Makes a frontend to backends, as asked; gives what connects to it."""
    with ExitStack() as stack:

        def ours(asked: Asked, *backends: Backend) -> Connect:
            ident = stage.frontend(*backends, choice=asked.choice, terms=asked.terms)
            return lambda: stage.client(ident)

        def theirs(asked: Asked, *backends: Backend) -> Connect:
            servers = [f"server s{n} {backend} {asked.server}" for n, backend in enumerate(backends)]
            lines = "\n  ".join([asked.listen, *servers])
            config = partial(CONFIG.format, lines=lines, queue=asked.queue)
            return haproxy(stack, stage, tmp_path, lambda listener: config(listener=listener))

        yield ours if request.param == "svcnet" else theirs


def came(stage: Stage, server: socket.socket) -> socket.socket:
    """The next connection with a word of its client; HAProxy's checks have none."""
    while True:
        inner = stage.accept(server)
        with suppress(ConnectionResetError):
            if inner.recv(1, socket.MSG_PEEK):
                return inner


def nobody_comes(stage: Stage, server: socket.socket) -> bool:
    """Nor has the proxy anything left to do."""
    stage.rest()
    server.setblocking(False)
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        server.settimeout(PATIENCE_SECONDS)


def asking(connect: Connect, word: bytes) -> socket.socket:
    client = connect()
    client.sendall(word)
    client.shutdown(socket.SHUT_WR)
    return client


def answer(inner: socket.socket, word: bytes) -> None:
    """To one of `asking`, once it has said all: an endpoint that closes before that resets."""
    read_all(inner)
    inner.sendall(word)
    inner.close()


def test_who_finds_the_endpoint_full_is_served_in_his_turn_and_whole(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    connect = front(PLAIN_LIMIT, backend)
    clients = []
    first = asking(connect, b"0")
    inner = came(stage, server)
    for number in range(1, 4):
        clients.append(asking(connect, b"%d" % number))
        assert nobody_comes(stage, server)
    answer(inner, b"first")
    assert read_all(first) == b"first"
    for number, client in enumerate(clients, 1):
        inner = came(stage, server)
        assert read_all(inner) == b"%d" % number
        answer(inner, b"reply")
        assert read_all(client) == b"reply"


def test_a_full_endpoint_is_passed_over(front: Front, stage: Stage) -> None:
    servers = [stage.server() for _ in range(3)]
    connect = front(PLAIN_LIMIT, *(backend for _, backend in servers))
    held = connect()
    held.sendall(b"0")
    clients = [asking(connect, b"%d" % number) for number in (1, 2)]
    words = []
    for server, _ in servers:
        inner = came(stage, server)
        words.append(inner.recv(10))
        if words[-1] != b"0":
            answer(inner, b"")
    assert sorted(words) == [b"0", b"1", b"2"]
    assert all(read_all(client) == b"" for client in clients)


def test_who_waits_too_long_is_ended(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    connect = front(SHORT_QUEUE, backend)
    first = asking(connect, b"0")
    inner = came(stage, server)
    with suppress(ConnectionResetError):  # ours alone, maybe before connect has returned
        late = connect()
        late.sendall(b"late")
        assert late.recv(10) == b""
    answer(inner, b"reply")
    assert read_all(first) == b"reply"
    assert nobody_comes(stage, server)


def test_who_resets_while_he_waits_is_not_led_to_the_endpoint(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    connect = front(PLAIN_LIMIT, backend)
    first = asking(connect, b"0")
    inner = came(stage, server)
    gone = connect()
    gone.sendall(b"gone")
    assert nobody_comes(stage, server)
    reset(gone)
    stage.rest()
    last = asking(connect, b"last")
    assert nobody_comes(stage, server)
    answer(inner, b"reply")
    assert read_all(first) == b"reply"
    inner = came(stage, server)
    assert read_all(inner) == b"last"
    answer(inner, b"reply")
    assert read_all(last) == b"reply"


def test_beyond_the_limit_of_a_service_clients_wait_unseen(front: Front, stage: Stage) -> None:
    server, backend = stage.server()
    connect = front(SERVICE_LIMIT, backend)
    clients = [asking(connect, b"%d" % number) for number in range(3)]
    inner = [came(stage, server) for _ in range(2)]
    assert nobody_comes(stage, server)
    for one in inner:
        answer(one, b"reply")
    answer(came(stage, server), b"reply")
    assert all(read_all(client) == b"reply" for client in clients)


def test_by_load_who_keeps_its_connections_gets_few_more(front: Front, stage: Stage) -> None:
    slow, fast = stage.server(), stage.server()
    connect = front(LEAST, slow[1], fast[1])
    for server, _ in (slow, fast):
        server.setblocking(False)
    kept: list[socket.socket] = []
    for _ in range(40):
        stage.rest()
        client = asking(connect, b"?")

        def is_led(client: socket.socket = client) -> bool:
            for server, keeps in ((slow[0], True), (fast[0], False)):
                with suppress(BlockingIOError):
                    inner = stage.keep(server.accept()[0])
                    if keeps:
                        kept.append(inner)
                    else:
                        answer(inner, b"!")
                        assert read_all(client) == b"!"
                    return True
            return False

        until(is_led)
    assert 1 <= len(kept) <= 4


def test_who_failed_three_dials_gets_no_more_though_it_is_back(front: Front, stage: Stage) -> None:
    server, live = stage.server()
    flaky, backend = stage.server()
    connect = front(OBSERVED, backend, live)
    until(lambda: _is_used(stage, connect, flaky, server))
    flaky.close()
    for _ in range(12):
        client = asking(connect, b"?")
        answer(came(stage, server), b"!")
        assert read_all(client) == b"!"
    back = stage.keep(socket.create_server(backend))
    for _ in range(12):
        client = asking(connect, b"?")
        answer(came(stage, server), b"!")
        assert read_all(client) == b"!"
    assert nobody_comes(stage, back)


def _is_used(stage: Stage, connect: Connect, flaky: socket.socket, live: socket.socket) -> bool:
    """Whether one of two connections is led to each."""
    clients = [asking(connect, b"?") for _ in range(2)]
    for server in (flaky, live):
        answer(came(stage, server), b"!")
    return all(read_all(client) == b"!" for client in clients)
