"""A worker with secondaries: what it sends them, and that it sends it when the change can be had."""

import asyncio
import contextlib
import os
import socket
import time

import dns.flags
import dns.message
import dns.opcode
import pytest

import dns.query
from svcnet.dns import serials
from svcnet.dns.notifier import Notifier, connected
from svcnet.dns.notify import GATHER_SECONDS
from svcnet.dns.settings import Settings
from svcnet.feed import Change, encode
from tests.dns.secondary import Secondary
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, Upstream, worker
from tests.dns.world import REVERSE, Asked, lines, virtual
from tests.harness.until import until

RECORDS = (virtual("tomcat", "10.0.0.5"),)


def to(listener: Upstream) -> tuple[str, int]:
    """Where it listens."""
    return listener.address[0], listener.address[1]


def by_tcp(running: Served, secondary: Secondary) -> None:
    """Bring it up to date."""
    dns.query.inbound_xfr(HOST, secondary.zone, port=running.port, timeout=PATIENCE_SECONDS)


def test_each_zone_that_changed_is_notified_and_can_be_transferred_then() -> None:
    heard: list[tuple[str, int]] = []
    secondary = Secondary("svc.")

    def behave(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        assert query.opcode() == dns.opcode.NOTIFY
        heard.append((str(query.question[0].name), int(query.answer[0][0].serial)))
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA
        return reply

    with (
        Upstream(behave) as listener,
        worker(Settings(notify=(to(listener),), reverse=REVERSE), RECORDS) as running,
    ):
        until(lambda: {zone for zone, _ in heard} >= {"svc.", "cluster.local.", "0.10.in-addr.arpa."})
        begin = {serial for _, serial in heard}
        by_tcp(running, secondary)
        assert "tomcat.svc. 5 IN A 10.0.0.5" in secondary.records()
        frames = [Change(rev, (virtual("tomcat", f"10.0.0.{rev}"),)) for rev in range(10, 30)]
        running.feed.sendall(b"".join(map(encode, frames)))  # together, or each might be told alone
        until(lambda: ("svc.", 29) in heard)
        by_tcp(running, secondary)
        assert secondary.serial == 29
        assert "tomcat.svc. 5 IN A 10.0.0.29" in secondary.records()
        until(lambda: ("0.10.in-addr.arpa.", 29) in heard)
        later = {told for told in heard if told[1] not in begin}
        assert "1.10.in-addr.arpa." not in {zone for zone, _ in later}, "nothing changed there"
        assert len([zone for zone, _ in later if zone == "svc."]) < len(frames)


def test_of_several_workers_one_tells_when_all_serve_the_change() -> None:
    """Whichever of them the secondary asks then, it hears of the change, and it is told once."""
    heard: list[tuple[str, int]] = []
    early: list[tuple[str, int]] = []
    workers: list[Served] = []

    def behave(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        told = str(query.question[0].name), int(query.answer[0][0].serial)
        # Whoever has not begun to answer is not asked by a secondary either.
        if any(serial(each) < told[1] for each in workers):
            early.append(told)
        heard.append(told)
        return dns.message.make_response(query)

    fd = serials.block(2)
    # However long this test takes: no worker is given up, no message goes again.
    patient = {"notifier.MOST_SECONDS": 3600.0, "notify.FIRST_SECONDS": 3600.0}
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        listener = stack.enter_context(Upstream(behave))
        for n in range(2):
            settings = Settings(notify=(to(listener),), number=n, serials=fd)
            workers.append(stack.enter_context(worker(settings, RECORDS, shared=(fd,), changed=patient)))
        first, second = workers
        until(lambda: {("svc.", 1), ("cluster.local.", 1)} <= set(heard))
        until(lambda: serial(second) == 1)
        first.tell(Change(10, (virtual("fresh", "10.0.0.9"),)))
        begin = time.monotonic()
        # Long enough for a worker that does not wait to be too early.
        until(lambda: serial(first) == 10 and time.monotonic() > begin + 3 * GATHER_SECONDS)
        second.tell(Change(10, (virtual("fresh", "10.0.0.9"),)))
        until(lambda: {("svc.", 10), ("cluster.local.", 10)} <= set(heard))
    assert early == []
    assert len(listener.ports) == 1, "one worker tells"
    assert len(heard) == len(set(heard)), "each zone once a change, not once a worker"


def test_a_worker_that_lags_behind_does_not_keep_changes_from_secondaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svcnet.dns.notifier.MOST_SECONDS", 0.2)
    fd = serials.block(2)
    behind = serials.Serials(fd, 1)
    behind.set(5)
    asked = Asked(virtual("tomcat", "10.0.0.5"), rev=9)

    async def told(listener: socket.socket) -> bytes:
        notifier = Notifier(asked.responder.zone, [listener.getsockname()], [HOST], serials.Serials(fd, 0))
        notifier.look()
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await asyncio.get_running_loop().sock_recv(listener, 512)
        for line in notifier._lines:
            assert line._socket is not None
            asyncio.get_running_loop().remove_reader(line._socket)
            line._socket.close()
        return found

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((HOST, 0))
        listener.setblocking(False)
        message = dns.message.from_wire(asyncio.run(told(listener)))
    os.close(fd)
    assert int(message.answer[0][0].serial) == 9


def serial(running: Served) -> int:
    """Of `svc.`, as it says."""
    return int(running.udp("svc.", "SOA").answer[0][0].serial)


def test_a_secondary_that_says_nothing_is_told_again() -> None:
    with Upstream(lambda *_: None) as listener, worker(Settings(notify=(to(listener),)), RECORDS):
        until(lambda: [name for name, _ in listener.asked].count("svc.") >= 3)


def test_nobody_is_told_of_anything_before_there_is_something() -> None:
    with Upstream(lambda *_: None) as listener, worker(Settings(notify=(to(listener),)), None) as running:
        running.tell(Change(1, RECORDS))
        assert running.udp("tomcat.svc.").rcode().name == "SERVFAIL"
        assert listener.asked == []


def test_a_secondary_that_is_not_there_harms_nobody() -> None:
    with worker(Settings(notify=((HOST, 9), ("127.53.0.2", 5300), ("::1", 9))), RECORDS) as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        running.tell(Change(2, (virtual("fresh", "10.0.0.9"),)))
        until(lambda: lines(running.udp("fresh.svc.").answer))


def test_a_zone_of_many_messages_arrives_whole() -> None:
    many = tuple(virtual(f"s{i}", f"10.0.{i // 250}.{i % 250 + 1}") for i in range(2000))
    with worker(Settings(), many) as running:
        until(lambda: running.udp("s1.svc.").answer)
        secondary = Secondary("svc.")
        by_tcp(running, secondary)
        assert len(secondary.records()) == 2 + 6 * 2000


def test_a_message_leaves_from_an_address_that_is_served() -> None:
    for own, expected in ((["127.0.0.1"], "127.0.0.1"), (["127.0.0.9"], "127.0.0.9"), (["0.0.0.0"], "127.0.0.1")):
        with connected((HOST, 53), own) as line:
            assert line.getsockname()[0] == expected
