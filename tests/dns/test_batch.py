"""Datagrams taken and answered by the batch, through real sockets."""

import asyncio
import contextlib
import random
import select
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from ipaddress import ip_network

import dns.flags
import pytest

from svcnet.dns.batch import LONGEST_BYTES, SHORT_BYTES, SIZE, Batch, calls
from svcnet.dns.forward import Forwarder, Options
from svcnet.dns.responder import Responder
from svcnet.dns.selector import Selector
from svcnet.dns.server import Server
from svcnet.dns.settings import Settings
from svcnet.dns.stream import links
from svcnet.dns.transfer import Transfers
from svcnet.dns.zone import Zone
from svcnet.endpoints import Networks
from svcnet.feed import Change, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.serving import PATIENCE_SECONDS, worker
from tests.dns.test_same_bytes import a_query, mutated
from tests.dns.world import EVERYONE, SHAPE, Asked, external, headless, virtual
from tests.harness.until import until

FUNCTIONS = calls()


@contextlib.contextmanager
def pair(host: str, bind: str = "", control: bool = False) -> Iterator[tuple[Batch, socket.socket]]:
    """A batch on a bound socket, and a client of it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as bound, socket.socket(family, socket.SOCK_DGRAM) as client:
        bound.bind((bind or host, 0))
        bound.setblocking(False)
        if control:
            level, option = (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) if ":" in host else (socket.IPPROTO_IP, 8)
            bound.setsockopt(level, option, 1)
        client.connect((host, bound.getsockname()[1]))
        client.settimeout(PATIENCE_SECONDS)
        assert FUNCTIONS is not None
        yield Batch(bound, FUNCTIONS, control), client


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_packets_of_every_length_come_whole_and_replies_go_to_who_asked(host: str) -> None:
    lengths = (0, 1, 2, 3, 12, SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 1500, LONGEST_BYTES, LONGEST_BYTES + 1)
    with pair(host) as (batch, client):
        packets = [random.Random(n).randbytes(n) for n in lengths]
        for packet in packets:
            client.send(packet)
        rests = batch.receive()
        assert [batch.whole(n, rest) for n, rest in enumerate(rests)] == [p[:LONGEST_BYTES] for p in packets]
        assert all(batch.client(n)[:2] == client.getsockname()[:2] for n in range(len(rests)))
        assert batch.send([b"" if len(p) < 2 else p[2:100] for p in packets]) == 0
        replies = [client.recv(4096) for _ in packets]
        assert replies[2:] == [p[:100] for p in packets[2:]]
        assert batch.receive() == []


def test_there_are_never_more_than_there_is_room_for_and_those_without_a_reply_get_none() -> None:
    with pair("127.0.0.1") as (batch, client):
        for n in range(SIZE + 3):
            client.send(n.to_bytes(2) + b"?")
        assert len(batch.receive()) == SIZE
        batch.send([b"!" * n if n % 3 else None for n in range(SIZE)])
        assert [client.recv(4096) for n in range(SIZE) if n % 3] == [
            n.to_bytes(2) + b"!" * n for n in range(SIZE) if n % 3
        ]
        assert len(batch.receive()) == 3
        batch.send([None, None, None])
        assert not select.select([client], [], [], 0)[0]


def test_long_replies_to_all_of_a_batch_are_sent() -> None:
    with pair("127.0.0.1") as (batch, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for n in range(40):
            client.send(n.to_bytes(2))
        batch.receive()
        assert batch.send([bytes(4000)] * 40) == 0
        assert [client.recv(5000)[:2] for _ in range(40)] == [n.to_bytes(2) for n in range(40)]


def test_a_reply_that_cannot_be_sent_is_lost_alone() -> None:
    with pair("127.0.0.1") as (batch, client):
        for n in range(4):
            client.send(n.to_bytes(2))
        batch.receive()
        assert batch.send([b"a", bytes(66_000), b"c", b"d"]) == 1
        assert [client.recv(4096) for _ in range(3)] == [b"\0\0a", b"\0\2c", b"\0\3d"]


@pytest.mark.parametrize(("asked", "any_address"), [("127.0.0.7", "0.0.0.0"), ("::1", "::")])
def test_a_reply_leaves_from_the_address_that_was_asked(asked: str, any_address: str) -> None:
    with pair(asked, any_address, control=True) as (batch, client):
        for turn in range(3):
            client.send(b"\0\1?")
            assert len(batch.receive()) == 1
            assert batch.send([b"%d" % turn]) == 0
            assert client.recv(100) == b"\0\1%d" % turn  # it is connected: it hears that address alone
        (level, kind, data), *more = batch.control(0)
        assert not more
        assert (level, kind) in {(socket.IPPROTO_IP, 8), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)}
        family = socket.AF_INET6 if ":" in asked else socket.AF_INET
        assert socket.inet_pton(family, asked) in data


ENTRIES = (virtual("s1", "10.0.0.5"), external("s2", "s1.default.svc.cluster.local"), virtual("s3", "10.0.0.7"))


def bursts() -> Iterator[tuple[list[bytes], dict[bytes, bytes]]]:
    """Packets, and id → the reply to each that has one."""
    draw = random.Random(5)
    alone = Responder(Zone(SHAPE), Networks(map(ip_network, EVERYONE)), recursion=False)
    alone.take(Whole(1, ENTRIES))
    usual = [a_query(draw) for _ in range(50)]
    for burst in range(30):
        queries = [draw.choice(usual) for _ in range(100)]
        queries = [mutated(draw, one) if draw.random() < 0.3 else one for one in queries]
        packets = [(burst * 100 + n).to_bytes(2) + one for n, one in enumerate(queries)]
        replies = {p[:2]: alone.respond(p, stream=False) for p in packets}
        yield packets, {ident: reply for ident, reply in replies.items() if isinstance(reply, bytes)}


def answered(port: int, host: str = "127.0.0.1") -> None:
    """Send bursts, and compare."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # all replies of a burst may wait
        client.settimeout(PATIENCE_SECONDS)
        for packets, expected in bursts():
            for packet in packets:
                client.send(packet)
            assert {reply[:2]: reply for reply in (client.recv(4096) for _ in expected)} == expected


SETTINGS = Settings(reverse=tuple(map(str, SHAPE.reverse)), servers=SHAPE.servers)


def test_a_worker_answers_a_burst_as_its_responder_would() -> None:
    with worker(SETTINGS, ENTRIES) as served:
        until(lambda: not served.udp("s1.svc.").rcode())  # it says SERVFAIL until it has heard of its records
        answered(served.port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_without_batches_every_datagram_has_the_same_answer(host: str) -> None:
    selector = Selector()

    async def serve(bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        responder = Responder(Zone(SHAPE), Networks(map(ip_network, EVERYONE)), recursion=False)
        responder.take(Whole(1, ENTRIES))
        forwarder = Forwarder(loop, (), links(loop, ()), responder.counts.add, Options())
        transfers = Transfers(responder.zone, Networks(()))
        await Server(responder, forwarder, transfers, selector, batches=None).serve(bound)
        await asyncio.to_thread(answered, bound.getsockname()[1], "127.0.0.9" if host == "0.0.0.0" else host)
        selector.leave(bound.fileno())

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((host, 0))
        with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
            runner.run(serve(bound))


def test_one_change_leaves_other_ready_answers_and_every_serial_is_the_last() -> None:
    asked = Asked(virtual("a", "10.0.0.5"), headless("b", Endpoint("10.1.1.2", 80), Endpoint("10.1.1.3", 80)))
    for name in ("a.svc.", "none.svc.", "b.svc."):
        asked.ask(name)
    ready = asked.responder.ready_answers
    asked.responder.take(Change(99, (virtual("a", "10.0.0.6"),)))
    assert asked.responder.ready_answers == ready - 1
    (soa,) = asked.once("none.svc.").authority
    assert soa[0].serial == 99
    assert asked.responder.ready_answers == ready - 1


def test_a_negative_answer_with_aliases_that_has_no_room_is_cut() -> None:
    target = ".".join(letter * 58 for letter in "abcd") + ".svc.cluster.local"
    asked = Asked(
        external("long", target),
        external("longer", "long.default.svc.cluster.local"),
        external("longest", "longer.default.svc.cluster.local"),
        rev=0x01020304,
    )
    for stream in (False, True, False):
        message = asked.once("longest.svc.", stream=stream)
        assert str(message.question[0].name) == "longest.svc."
        assert bool(message.flags & dns.flags.TC) is not stream
        assert [len(message.answer), len(message.authority)] == [3, int(stream)]


class Stumbling(Responder):
    """One that fails at the first datagrams."""

    stumbled = False

    def ready(self, packets: Sequence[bytes]) -> list[bytes | None]:
        if not self.stumbled:
            self.stumbled = True
            raise RuntimeError("stumbled")
        return super().ready(packets)


def test_an_error_in_one_turn_is_told_and_the_next_query_answered() -> None:
    selector = Selector()

    async def serve(bound: socket.socket, client: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[str] = asyncio.Queue()
        loop.set_exception_handler(lambda _, context: told.put_nowait(str(context["exception"])))
        responder = Stumbling(Zone(SHAPE), Networks(map(ip_network, EVERYONE)), recursion=False)
        responder.take(Whole(1, ENTRIES))
        forwarder = Forwarder(loop, (), links(loop, ()), responder.counts.add, Options())
        transfers = Transfers(responder.zone, Networks(()))
        await Server(responder, forwarder, transfers, selector, FUNCTIONS).serve(bound)
        async with asyncio.timeout(PATIENCE_SECONDS):
            client.send(b"\0\1\0\0\0\1\0\0\0\0\0\0\2s1\3svc\0\0\1\0\1")
            assert await told.get() == "stumbled"
            client.send(b"\0\2\0\0\0\1\0\0\0\0\0\0\2s1\3svc\0\0\1\0\1")
            reply = await loop.sock_recv(client, 512)
        selector.leave(bound.fileno())
        return reply

    with contextlib.ExitStack() as stack:
        bound, client = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        bound.bind(("127.0.0.1", 0))
        client.connect(bound.getsockname())
        client.setblocking(False)
        with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
            reply = runner.run(serve(bound, client))
    assert reply.startswith(b"\0\2")
    assert reply.endswith(socket.inet_aton("10.0.0.5"))
