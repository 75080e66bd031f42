"""Answers from the cache: their time, absences, staleness, prefetch, private ones, loops; the clock is the test's."""

import threading
from contextlib import ExitStack

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from svcnet.dns.forward import FAILURE_SECONDS, LOOPING_SECONDS, QUIET_SECONDS, STALE_AFTER_SECONDS, STALE_TTL
from tests.dns.clockwork import dead, forwarding
from tests.dns.serving import Behaviour, Upstream
from tests.dns.test_forward import answers, says
from tests.dns.world import lines

SOA = "ns.example. root.example. 1 3600 600 86400 {}"


def gives(
    *texts: str, authority: str = "", code: dns.rcode.Rcode = dns.rcode.NOERROR, flags: dns.flags.Flag | int = 0
) -> Behaviour:
    """Records as NAME TTL TYPE DATA, the name `@` is what was asked for."""

    def behave(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        reply = dns.message.make_response(query, recursion_available=True)
        reply.set_rcode(code)
        reply.flags |= flags
        for section, rows in ((reply.answer, texts), (reply.authority, [authority] if authority else [])):
            for row in rows:
                owner, ttl, kind, data = row.split(" ", 3)
                name = query.question[0].name if owner == "@" else owner
                section.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
        return reply

    return behave


class Switch:
    """A server that does one thing, and then another."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave

    def __call__(self, query: dns.message.Message, stream: bool) -> dns.message.Message | bytes | None:
        return self.behave(query, stream)


def silent(_query: dns.message.Message, _stream: bool) -> None:
    """Nothing."""


def test_an_answer_is_kept_for_its_time_which_runs_for_clients_too() -> None:
    with Upstream(gives("@ 60 A 192.0.2.7", "@ 30 A 192.0.2.8")) as upstream, forwarding(upstream.address) as running:
        running.ask("example.org.")
        running.loop.leap(10)
        reply = running.ask("Example.ORG.", want_dnssec=False, use_edns=True)
        assert lines(reply.answer) == ["Example.ORG. 20 IN A 192.0.2.7", "Example.ORG. 20 IN A 192.0.2.8"]
        assert reply.edns == 0
        running.loop.leap(21)
        running.ask("example.org.")
        assert len(upstream.asked) == 2
        assert running.events["cache_hits", "success"] == 1
        assert running.events["cache_misses",] == 2


def test_types_and_flags_are_kept_apart() -> None:
    with Upstream(gives("@ 60 A 192.0.2.7")) as upstream, forwarding(upstream.address) as running:
        for _ in range(2):
            running.ask("example.org.")
            running.ask("example.org.", "AAAA")
            running.ask("example.org.", want_dnssec=True)
            running.ask("example.org.", flags=dns.flags.RD | dns.flags.CD)
        assert len(upstream.asked) == 4


@pytest.mark.parametrize(
    ("behave", "seconds"),
    [
        (gives(code=dns.rcode.NXDOMAIN, authority=f"example. 900 SOA {SOA.format(300)}"), 300),
        (gives(code=dns.rcode.NXDOMAIN, authority=f"example. 60 SOA {SOA.format(300)}"), 60),
        (gives(authority=f"example. 900 SOA {SOA.format(120)}"), 120),
        (gives(code=dns.rcode.NXDOMAIN, authority=f"example. 90000 SOA {SOA.format(90000)}"), 3600),
        (gives("@ 100 CNAME a.example.", authority=f"example. 900 SOA {SOA.format(40)}"), 40),
        (gives("@ 100 CNAME a.example.", "a.example. 30 A 192.0.2.7"), 30),
        (gives("@ 999999 A 192.0.2.7"), 86400),
        (gives(code=dns.rcode.NXDOMAIN), 0),
        (gives(), 0),
        (gives("@ 0 A 192.0.2.7"), 0),
    ],
    ids=["soa", "ttl", "nodata", "long denial", "alias to nothing", "alias", "long", "no soa", "nothing", "zero"],
)
def test_how_long_an_answer_is_kept(behave: Behaviour, seconds: int) -> None:
    with Upstream(behave) as upstream, forwarding(upstream.address) as running:
        first = running.ask("example.org.")
        for leap, asked in ((seconds - 2, 1), (4, 2)) if seconds else ((0, 2),):
            running.loop.leap(leap)
            reply = running.ask("example.org.")
            assert reply.rcode() == first.rcode()
            assert len(upstream.asked) == asked
        assert all(rrset.ttl <= 86400 for rrset in first.answer + first.authority)


def test_when_no_server_answers_what_was_known_is_told() -> None:
    switch = Switch(gives("@ 60 A 192.0.2.7"))
    with Upstream(switch) as upstream, forwarding(upstream.address) as running:
        running.ask("example.org.")
        running.loop.leap(100)
        switch.behave = silent
        replies = running.send("example.org.")
        running.loop.until(lambda: len(upstream.asked) == 2)
        assert not replies, "servers come first"
        running.loop.leap(STALE_AFTER_SECONDS)
        running.loop.until(lambda: replies)
        assert lines(dns.message.from_wire(replies[0]).answer) == [f"example.org. {STALE_TTL} IN A 192.0.2.7"]
        assert running.send("example.org."), "nobody else waits for this one"
        running.loop.leap(4)
        running.loop.until(lambda: not running.forwarder.levels()["forward_in_flight"])
        before = len(upstream.asked)
        assert running.send("example.org."), "nor for 30 s"
        assert len(upstream.asked) == before
        switch.behave = gives("@ 60 A 192.0.2.8")
        running.loop.leap(QUIET_SECONDS)
        assert lines(running.ask("example.org.").answer) == ["example.org. 60 IN A 192.0.2.8"]
        assert running.events["cache_served_stale",] == 3


@pytest.mark.parametrize("then", [says(dns.rcode.SERVFAIL), says(dns.rcode.REFUSED)])
def test_when_all_servers_fail_what_was_known_is_told_at_once(then: Behaviour) -> None:
    switch = Switch(gives("@ 60 A 192.0.2.7"))
    with Upstream(switch) as upstream, forwarding(upstream.address) as running:
        running.ask("example.org.")
        running.loop.leap(86400)
        switch.behave = then
        assert lines(running.ask("example.org.").answer) == [f"example.org. {STALE_TTL} IN A 192.0.2.7"]
        running.loop.leap(100)
        assert running.ask("example.org.").rcode() != dns.rcode.NOERROR, "for a day"


def test_what_is_gone_is_told_as_gone() -> None:
    switch = Switch(gives("@ 60 A 192.0.2.7"))
    with Upstream(switch) as upstream, forwarding(upstream.address) as running:
        running.ask("example.org.")
        running.loop.leap(100)
        switch.behave = gives(code=dns.rcode.NXDOMAIN, authority=f"example. 900 SOA {SOA.format(300)}")
        assert running.ask("example.org.").rcode() == dns.rcode.NXDOMAIN
        switch.behave = silent
        running.loop.leap(5)
        assert running.ask("example.org.").rcode() == dns.rcode.NXDOMAIN


def test_a_popular_name_never_waits() -> None:
    switch = Switch(gives("@ 100 A 192.0.2.7"))
    with Upstream(switch) as upstream, forwarding(upstream.address) as running:
        for leap in (0, 10, 30, 30):
            running.loop.leap(leap)
            running.ask("example.org.")
        switch.behave = gives("@ 100 A 192.0.2.8")
        running.loop.leap(25)
        assert lines(running.ask("example.org.").answer) == ["example.org. 5 IN A 192.0.2.7"]
        assert running.events["cache_prefetch",] == 1
        running.loop.until(lambda: not running.forwarder.levels()["forward_in_flight"])
        assert lines(running.ask("example.org.").answer) == ["example.org. 100 IN A 192.0.2.8"]
        assert len(upstream.asked) == 2


def test_the_cache_has_a_bound() -> None:
    with Upstream(gives("@ 60 A 192.0.2.7")) as upstream, forwarding(upstream.address, cache_bytes=10_000) as running:
        for number in range(40):
            running.ask(f"n{number}.example.org.")
        levels = running.forwarder.levels()
        assert 0 < levels["cache_bytes"] <= 10_000
        assert running.events["cache_evictions",] == 40 - levels["cache_entries"]


PRIVATE = [
    ("A", "10.1.2.3"),
    ("A", "127.0.0.1"),
    ("A", "192.168.0.1"),
    ("A", "172.31.0.1"),
    ("A", "169.254.169.254"),
    ("A", "0.0.0.0"),
    ("A", "100.64.0.1"),
    ("AAAA", "::1"),
    ("AAAA", "fd00::1"),
    ("AAAA", "fe80::1"),
    ("AAAA", "::ffff:10.0.0.1"),
    ("AAAA", "64:ff9b::10.0.0.1"),
    ("AAAA", "2002:a00:1::"),
    ("HTTPS", "1 . ipv4hint=192.0.2.1,10.0.0.1"),
    ("HTTPS", "1 . alpn=h2 ipv6hint=fd00::1"),
]


@pytest.mark.parametrize(("kind", "data"), PRIVATE)
def test_a_private_address_under_a_name_from_outside_is_held_back(kind: str, data: str) -> None:
    behave = gives(f"@ 60 {kind} {data}")
    with Upstream(behave) as upstream, forwarding(upstream.address, trusted=("corp.example.com",)) as running:
        for _ in range(2):
            reply = running.ask("evil.example.", kind)
            assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
        assert running.events["forward_private_addresses",] == 2
        for name in ("db.corp.example.com.", "Corp.Example.Com.", "nas.home.arpa.", "vm.internal.", "localhost."):
            assert running.ask(name, kind).answer, name
        assert not running.ask("xcorp.example.com.", kind).answer


@pytest.mark.parametrize(("kind", "data"), [("A", "172.32.0.1"), ("AAAA", "2001:db8::1"), ("HTTPS", "1 . alpn=h2")])
def test_a_public_address_is_told(kind: str, data: str) -> None:
    with Upstream(gives(f"@ 60 {kind} {data}")) as upstream, forwarding(upstream.address) as running:
        assert running.ask("example.org.", kind).answer
        assert not running.counted("forward_private_addresses")


def test_whoever_asks_for_a_private_address_gets_its_name() -> None:
    with Upstream(gives("@ 60 PTR router.example.")) as upstream, forwarding(upstream.address) as running:
        assert running.ask("1.0.168.192.in-addr.arpa.", "PTR").answer


def test_an_alias_of_ours_may_lead_to_a_private_address() -> None:
    with Upstream(gives("@ 60 A 10.0.0.9")) as upstream, forwarding(upstream.address) as running:
        assert running.ask("db.example.org.", alias=True).answer
        assert not running.ask("db.example.org.").answer


def test_all_names_may_be_trusted() -> None:
    with Upstream(gives("@ 60 A 10.0.0.9")) as upstream, forwarding(upstream.address, trusted=("",)) as running:
        assert running.ask("db.example.org.").answer


def test_a_server_that_leads_back_is_found_and_left_out_until_it_does_no_more() -> None:
    """What the fake is asked for comes back to the forwarder, as through any number of servers."""
    with ExitStack() as stack:
        back: list[str] = []

        def leads_back(query: dns.message.Message, _stream: bool) -> None:
            back.append(str(query.question[0].name))

        switch = Switch(leads_back)
        upstream = stack.enter_context(Upstream(switch))
        running = stack.enter_context(forwarding(upstream.address, secret="0123456789abcdef"))
        waiting = running.send("example.org.")
        running.loop.until(lambda: any(name.endswith("svcnet-loop.") for name in back))
        probe = next(name for name in back if name.endswith("svcnet-loop."))
        looped = running.ask(probe, "TXT")
        assert "0123456789abcdef" in str(looped.answer[0]), "it is known again by this"
        running.loop.until(lambda: waiting)
        assert dns.message.from_wire(waiting[0]).rcode() == dns.rcode.SERVFAIL
        assert running.forwarder.troubles == (f"upstream {upstream.address} leads back to this server",)
        before = len([name for name in back if not name.endswith("svcnet-loop.")])
        assert running.ask("other.example.org.").rcode() == dns.rcode.SERVFAIL
        assert len([name for name in back if not name.endswith("svcnet-loop.")]) == before
        switch.behave = answers
        running.loop.leap(max(LOOPING_SECONDS, FAILURE_SECONDS) + 1)
        running.ask("third.example.org.")
        running.loop.until(lambda: not running.forwarder.troubles)
        assert running.ask("fourth.example.org.").answer


def test_a_loop_through_another_worker_is_known_by_the_answer() -> None:
    with ExitStack() as stack:
        there = stack.enter_context(forwarding(dead(), secret="0123456789abcdef"))

        def passes_on(query: dns.message.Message, _stream: bool) -> bytes | None:
            name = str(query.question[0].name)
            if not name.endswith("svcnet-loop."):
                return None
            reply = there.ask(name, "TXT")
            reply.id = query.id
            return reply.to_wire()

        upstream = stack.enter_context(Upstream(passes_on))
        here = stack.enter_context(forwarding(upstream.address, secret="0123456789abcdef"))
        here.send("example.org.")
        here.loop.until(lambda: here.forwarder.troubles)


def test_names_like_our_probes_are_other_names() -> None:
    with Upstream(gives("@ 60 A 192.0.2.7")) as upstream, forwarding(upstream.address) as running:
        for name in ("0-00.0123456789abcdef.svcnet-loop.", "svcnet-loop."):
            assert running.ask(name).answer
        assert not running.forwarder.troubles


def test_threads_are_none() -> None:
    before = threading.active_count()
    with forwarding(dead()) as running:
        running.ask("example.org.")
        assert threading.active_count() == before
