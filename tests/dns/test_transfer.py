"""Zones as secondaries get them: dnspython transfers them, whatever happened before and happens meanwhile."""

from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import hypothesis
import pytest
from hypothesis import strategies as st

import dns.name
from svcnet.dns import journal, name
from svcnet.dns.query import parse
from svcnet.dns.transfer import MESSAGE_BYTES, Transfers
from svcnet.dns.zone import Shape
from svcnet.endpoints import Networks
from svcnet.feed import Entry, Known, Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.secondary import Secondary, query_for
from tests.dns.world import REVERSE, SHAPE, Asked, external, gone, headless, lines, namespace, pod, virtual

CLIENT = "127.0.0.1"
APEXES = ("svc.", "cluster.local.", "0.10.in-addr.arpa.", "1.10.in-addr.arpa.")
NESTED = Shape(("svc", "b.svc"), "cluster.local", tuple(map(ip_network, (*REVERSE, "10.0.0.0/8"))), ("127.0.0.1",))


class Primary:
    """A responder with transfers; `ask` is what a secondary is given."""

    def __init__(self, *entries: Entry, shape: Shape = SHAPE, allow: str = "127.0.0.0/8") -> None:
        self.asked = Asked(shape=shape)
        self.asked.responder.take(Whole(7, entries))
        self.transfers = Transfers(self.asked.responder.zone, Networks([ip_network(allow)]))

    def ask(self, query: dns.message.Message) -> list[bytes]:
        return list(self.transfers.stream(parse(query.to_wire(), stream=True), CLIENT))

    def by_udp(self, query: dns.message.Message) -> dns.message.Message:
        return dns.message.from_wire(self.transfers.datagram(parse(query.to_wire(), stream=False), CLIENT))

    def copy(self, apex: str) -> Secondary:
        """A secondary that has just transferred a zone."""
        secondary = Secondary(apex)
        secondary.axfr(self.ask)
        return secondary


def rcode(primary: Primary, apex: str, kind: str = "AXFR") -> str:
    serial = 1 if kind == "IXFR" else None
    (wire,) = primary.ask(query_for(dns.name.from_text(apex), dns.rdatatype.from_text(kind), serial))
    message = dns.message.from_wire(wire)
    assert not message.answer
    return dns.rcode.to_text(message.rcode())


RECORDS = (
    virtual("tomcat", "10.0.0.5"),
    virtual("web", "10.0.0.6", namespace="shop"),
    headless("db", Endpoint("10.1.0.9", 80)),
    virtual("idle"),
)


def test_a_zone_has_every_name_that_is_answered_each_with_its_records() -> None:
    primary = Primary(*RECORDS)
    held = primary.copy("svc.").records()
    assert "tomcat.svc. 5 IN A 10.0.0.5" in held
    assert "tomcat.default.svc. 5 IN A 10.0.0.5" in held
    assert "_http._tcp.tomcat.svc. 5 IN SRV 0 100 8080 tomcat.default.svc.cluster.local." in held
    assert "web.shop.svc. 5 IN A 10.0.0.6" in held
    assert "10-1-0-9.db.svc. 5 IN A 10.1.0.9" in held
    assert "svc. 5 IN NS ns.dns.cluster.local." in held
    assert "svc. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5" in held
    assert not any(line.startswith("web.svc.") for line in held)
    domain = primary.copy("cluster.local.").records()
    assert "ns.dns.cluster.local. 5 IN A 127.0.0.1" in domain
    assert 'dns-version.cluster.local. 5 IN TXT "1.1.0"' in domain
    assert "tomcat.default.svc.cluster.local. 5 IN A 10.0.0.5" in domain
    assert primary.copy("0.10.in-addr.arpa.").records() == {
        "0.10.in-addr.arpa. 5 IN NS ns.dns.cluster.local.",
        "0.10.in-addr.arpa. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5",
        "5.0.0.10.in-addr.arpa. 5 IN PTR tomcat.default.svc.cluster.local.",
        "6.0.0.10.in-addr.arpa. 5 IN PTR web.shop.svc.cluster.local.",
    }


def test_a_name_without_records_is_told_by_one_that_we_answer_too() -> None:
    primary = Primary(*RECORDS)
    assert "idle.svc. 5 IN TYPE65280 \\# 0 " in primary.copy("svc.").records()
    assert primary.asked.text("idle.svc.", "TYPE65280") == ["idle.svc. 5 IN TYPE65280 \\# 0 "]
    assert primary.asked.text("idle.svc.") == ["NOERROR", "svc."]
    assert primary.asked.text("tomcat.svc.", "TYPE65280") == ["NOERROR", "svc."]
    primary.asked.change(census=(namespace("empty"),))
    assert "empty.svc. 5 IN TYPE65280 \\# 0 " in primary.copy("svc.").records()
    assert primary.asked.text("empty.svc.", "TYPE65280") == ["empty.svc. 5 IN TYPE65280 \\# 0 "]


@pytest.mark.parametrize(
    ("apex", "expected"),
    [("tomcat.svc.", "NOTAUTH"), ("example.org.", "NOTAUTH"), ("svc.cluster.local.", "NOTAUTH"), (".", "NOTAUTH")],
)
def test_only_whole_zones_are_transferred(apex: str, expected: str) -> None:
    primary = Primary(*RECORDS)
    assert rcode(primary, apex) == rcode(primary, apex, "IXFR") == expected


def test_only_those_may_transfer_that_are_allowed_to() -> None:
    primary = Primary(*RECORDS, allow="192.0.2.0/24")
    assert rcode(primary, "svc.") == rcode(primary, "svc.", "IXFR") == "REFUSED"
    reply = primary.by_udp(query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, 1))
    assert (reply.rcode().name, reply.answer) == ("REFUSED", [])


def test_before_the_first_records_there_is_nothing_to_transfer() -> None:
    primary = Primary()
    primary.asked = Asked()
    primary.transfers = Transfers(primary.asked.responder.zone, Networks([ip_network("127.0.0.0/8")]))
    assert rcode(primary, "svc.") == "SERVFAIL"


def test_a_difference_holds_what_changed_alone() -> None:
    primary = Primary(*RECORDS)
    secondary = primary.copy("svc.")
    primary.asked.change(virtual("fresh", "10.0.0.9"), gone("tomcat"))
    query = query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, secondary.serial)
    (wire,) = primary.ask(query)
    message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    assert message.flags & dns.flags.AA
    owners = {str(rrset.name) for rrset in message.answer if rrset.rdtype != dns.rdatatype.SOA}
    heads = ("fresh", "tomcat")
    assert owners == {f"{a}{b}{c}" for a in ("", "_http._tcp.") for b in heads for c in (".svc.", ".default.svc.")}
    assert [int(r[0].serial) for r in message.answer if r.rdtype == dns.rdatatype.SOA] == [8, 7, 8, 8]
    secondary.ixfr(primary.ask)
    assert secondary.incremental == 1
    assert secondary.records() == primary.copy("svc.").records()


def test_who_is_up_to_date_gets_the_soa_alone_and_who_comes_from_the_future_too() -> None:
    primary = Primary(*RECORDS)
    for serial in (7, 8, 1 << 30):
        (wire,) = primary.ask(query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, serial))
        assert [line.split()[3] for line in lines(dns.message.from_wire(wire).answer)] == ["SOA"]


@pytest.mark.parametrize(("steps", "records", "size"), [(3, 10**6, 10**9), (99, 20, 10**9), (99, 10**6, 5000)])
def test_the_journal_is_bounded_and_who_is_too_old_gets_everything(
    monkeypatch: pytest.MonkeyPatch, steps: int, records: int, size: int
) -> None:
    monkeypatch.setattr(journal, "MOST_STEPS", steps)
    monkeypatch.setattr(journal, "MOST_RECORDS", records)
    monkeypatch.setattr(journal, "MOST_BYTES", size)
    primary = Primary(*RECORDS)
    old = primary.copy("svc.")
    for number in range(20):
        if number == 19:
            young = primary.copy("svc.")
        primary.asked.change(virtual("tomcat", f"10.0.0.{number + 20}"))
    old.ixfr(primary.ask)
    young.ixfr(primary.ask)
    assert (old.incremental, young.incremental) == (0, 1)
    assert old.records() == young.records() == primary.copy("svc.").records()


def test_a_zone_in_which_nothing_happened_needs_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_STEPS", 1)
    primary = Primary(*RECORDS)
    old = primary.copy("1.10.in-addr.arpa.")
    for number in range(20):
        primary.asked.change(virtual("tomcat", f"10.0.0.{number + 20}"))
    old.ixfr(primary.ask)
    assert old.incremental == 1
    assert old.serial == 27
    assert old.records() == primary.copy("1.10.in-addr.arpa.").records()


def test_a_stream_is_of_one_serial_while_changes_come() -> None:
    primary = Primary(*(virtual(f"s{i}", f"10.0.{i // 250}.{i % 250 + 1}") for i in range(1000)))
    before = primary.copy("svc.").records()
    query = query_for(dns.name.from_text("svc."), dns.rdatatype.AXFR)
    stream = primary.transfers.stream(parse(query.to_wire(), stream=True), CLIENT)
    got = []
    for number, message in enumerate(stream):
        assert len(message) <= MESSAGE_BYTES
        got.append(message)
        primary.asked.change(gone(f"s{number}"), gone(f"s{999 - number}"), virtual(f"new{number}", "10.0.200.1"))
        primary.asked.responder.take(Whole(primary.asked.rev, (virtual("half", "10.0.200.2"),), last=False))
    assert len(got) > 5
    secondary = Secondary("svc.")
    secondary.axfr(lambda query: (query.id.to_bytes(2) + message[2:] for message in got))
    assert secondary.records() == before


def test_while_everything_is_told_again_transfers_are_of_the_last_serial() -> None:
    primary = Primary(*RECORDS)
    primary.asked.change(virtual("fresh", "10.0.0.9"))
    before = primary.copy("svc.").records()
    primary.asked.responder.take(Whole(9, (virtual("tomcat", "10.0.0.77"),), last=False))
    secondary = primary.copy("svc.")
    assert secondary.records() == before
    primary.asked.responder.take(Whole(9, (), last=True))
    secondary.ixfr(primary.ask)
    assert secondary.incremental == 1
    assert secondary.records() == primary.copy("svc.").records()
    assert "tomcat.svc. 5 IN A 10.0.0.77" in secondary.records()


def test_secondaries_follow_when_the_serial_begins_again_at_0() -> None:
    primary = Primary(*RECORDS)
    primary.asked.rev = 5 + (1 << 31)
    primary.asked.change(virtual("early", "10.0.0.8"))  # as far as a serial may go in one step (RFC 1982 §3.1)
    primary.asked.rev = (1 << 32) - 3
    primary.asked.change(virtual("late", "10.0.0.9"))
    old, reverse = primary.copy("svc."), primary.copy("1.10.in-addr.arpa.")
    assert old.serial == (1 << 32) - 2
    for number in range(4):
        primary.asked.change(virtual("tomcat", f"10.0.0.{number + 20}"))
    for secondary, apex in ((old, "svc."), (reverse, "1.10.in-addr.arpa.")):
        secondary.ixfr(primary.ask)
        assert (secondary.serial, secondary.incremental) == (2, 1)
        assert secondary.records() == primary.copy(apex).records()
    (wire,) = primary.ask(query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, 3))
    assert [line.split()[3] for line in lines(dns.message.from_wire(wire).answer)] == ["SOA"], "it is ahead of us"
    wires = primary.ask(query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, (1 << 32) - 9))
    assert len(dns.message.from_wire(wires[0]).answer) > 2, "it is behind us, from where we don't know: all"


def test_who_is_half_of_all_serials_away_gets_all_as_neither_is_later() -> None:
    primary = Primary(*RECORDS)
    for apex in ("svc.", "1.10.in-addr.arpa."):  # one in which nothing changed since then, whenever that was
        query = query_for(dns.name.from_text(apex), dns.rdatatype.IXFR, 7 + (1 << 31))
        (wire,) = primary.ask(query)
        told = [line.split()[3] for line in lines(dns.message.from_wire(wire, one_rr_per_rrset=True).answer)]
        assert (told[0], told[-1], told.count("SOA")) == ("SOA", "SOA", 2)
        assert "NS" in told


def test_no_record_is_told_twice() -> None:
    named = Endpoint("10.1.0.9", 80, hostname="a")
    primary = Primary(headless("db", named, named._replace(port=81)), virtual("a", "10.0.0.5", namespace="db"))
    (wire,) = primary.ask(query_for(dns.name.from_text("svc."), dns.rdatatype.AXFR))
    told = lines(dns.message.from_wire(wire, one_rr_per_rrset=True).answer)
    assert told.count("db.svc. 5 IN A 10.1.0.9") == 1
    assert told.count("a.db.svc. 5 IN A 10.0.0.5") == 1, "a service, not the endpoint of one without its namespace"
    assert len(told) == len(set(told)) + 1, "the SOA alone is there twice"


def test_by_udp_a_difference_comes_whole_or_the_soa_alone() -> None:
    primary = Primary(*(virtual(f"s{i}", f"10.0.0.{i + 1}") for i in range(200)))
    query = query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, 7)
    query.use_edns(payload=1232)
    primary.asked.change(virtual("fresh", "10.0.0.250"))
    assert len(primary.by_udp(query).answer) > 3
    primary.asked.change(*(gone(f"s{i}") for i in range(100)))
    reply = primary.by_udp(query)
    assert [line.split()[3] for line in lines(reply.answer)] == ["SOA"]
    assert not reply.flags & dns.flags.TC
    assert int(reply.answer[0][0].serial) == 9


def test_axfr_is_not_for_udp() -> None:
    reply = Primary(*RECORDS).by_udp(query_for(dns.name.from_text("svc."), dns.rdatatype.AXFR))
    assert (reply.rcode().name, reply.answer) == ("REFUSED", [])


def test_by_udp_nobody_gets_more_bytes_than_it_takes() -> None:
    primary = Primary(*(virtual(f"s{i}", f"10.0.0.{i + 1}") for i in range(10)))
    primary.asked.change(*(virtual(f"t{i}", f"10.0.0.{i + 100}") for i in range(4)))
    for payload in (None, 512, 1232, 4096):
        query = query_for(dns.name.from_text("svc."), dns.rdatatype.IXFR, 7)
        if payload:
            query.use_edns(payload=payload)
        wire = primary.transfers.datagram(parse(query.to_wire(), stream=False), CLIENT)
        assert len(wire) <= min(payload or 512, 1232)


NAMES, PLACES = ("a", "b"), ("default", "a", "b")
ADDRESSES = ("10.1.1.1", "10.1.1.2", "10.3.0.1", "fd00:10::7")
ENDPOINTS = st.builds(
    Endpoint,
    st.sampled_from(ADDRESSES),
    st.just(80),
    hostname=st.sampled_from(("", "", "a", "b")),
    weight=st.integers(0, 2),
)
names, places = st.sampled_from(NAMES), st.sampled_from(PLACES)
entries = st.one_of(
    st.builds(gone, names, places),
    st.builds(external, names, st.sampled_from(("a.svc.", "b.a.svc", "outside.example"))),
    st.builds(lambda n, p, es: headless(n, *es, namespace=p), names, places, st.lists(ENDPOINTS, max_size=3)),
    st.builds(
        lambda n, p, i, ttl: virtual(n, f"10.0.0.{i}", namespace=p, notes=(("svcnet.dev/ttl", ttl),) if ttl else ()),
        names,
        places,
        st.integers(1, 2),
        st.sampled_from(("", "", "60")),
    ),
)
census = st.one_of(
    st.builds(namespace, st.sampled_from(PLACES), st.booleans()),
    st.builds(pod, st.sampled_from(ADDRESSES), places, st.booleans()),
)
steps = st.tuples(st.lists(entries, max_size=3), st.lists(census, max_size=2), st.sets(st.sampled_from(range(8))))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.lists(steps, min_size=1, max_size=12), st.sampled_from((SHAPE, NESTED)))
def test_differences_end_in_what_a_fresh_transfer_gives(
    history: list[tuple[list[Entry], list[Known], set[int]]], shape: Shape
) -> None:
    primary = Primary(*RECORDS, shape=shape)
    apexes = sorted({name.text(mount.apex) for mount in primary.asked.responder.zone.mounts.values()})
    secondaries = [primary.copy(apex) for apex in apexes]
    for changed, known, due in history:
        primary.asked.change(*changed, census=tuple(known))
        for number, secondary in enumerate(secondaries):
            if number in due:  # the others have a longer way later
                secondary.ixfr(primary.ask)
    for apex, secondary in zip(apexes, secondaries, strict=True):
        secondary.ixfr(primary.ask)
        fresh = primary.copy(apex)
        assert secondary.serial == fresh.serial == primary.asked.responder.zone.serial
        assert secondary.records() == fresh.records()
        assert secondary.incremental
        for owner, kind, answer in fresh_answers(fresh):
            assert primary.asked.text(owner, kind) == answer


def fresh_answers(secondary: Secondary) -> list[tuple[str, str, list[str]]]:
    """(name, type, lines) of every record set of a zone that does not change its order."""
    with secondary.zone.reader() as reader:
        return [
            (str(owner), dns.rdatatype.to_text(rds.rdtype), sorted(rds.to_text(owner).split("\n")))
            for owner, rds in reader.iterate_rdatasets()
            if rds.rdtype != dns.rdatatype.CNAME
        ]
