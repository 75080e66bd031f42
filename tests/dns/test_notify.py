"""A worker with secondaries: what it sends them, and that it sends it when the change can be had."""

import dns.flags
import dns.message
import dns.opcode

import dns.query
from svcnet.dns.notifier import connected
from svcnet.dns.settings import Settings
from svcnet.feed import Change
from tests.dns.secondary import Secondary
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, Upstream, worker
from tests.dns.world import REVERSE, lines, virtual
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
        by_tcp(running, secondary)
        assert "tomcat.svc. 5 IN A 10.0.0.5" in secondary.records()
        heard.clear()
        running.tell(*(Change(rev, (virtual("tomcat", f"10.0.0.{rev}"),)) for rev in range(10, 30)))
        until(lambda: ("svc.", 29) in heard)
        by_tcp(running, secondary)
        assert secondary.serial == 29
        assert "tomcat.svc. 5 IN A 10.0.0.29" in secondary.records()
        until(lambda: ("0.10.in-addr.arpa.", 29) in heard)
        assert "1.10.in-addr.arpa." not in {zone for zone, _ in heard}, "nothing changed there"
        assert len([zone for zone, _ in heard if zone == "svc."]) < 20


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
