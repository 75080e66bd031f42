"""Names that are not ours: asked of servers upstream, which answer, lie, are slow, or are dead."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

import dns.query
from svcnet.dns.settings import Settings
from svcnet.dns.upstream import Server
from tests.dns.serving import HOST, PATIENCE_SECONDS, PATIENT, Behaviour, Served, Upstream, worker
from tests.dns.world import external, lines, virtual
from tests.harness.until import until

RECORDS = (virtual("tomcat", "10.0.0.5"), external("shop", "shop.example"))


def answers(query: dns.message.Message, _stream: bool) -> dns.message.Message:
    """An A record for whatever is asked."""
    reply = dns.message.make_response(query, recursion_available=True)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.7"))
    return reply


def says(code: dns.rcode.Rcode) -> Behaviour:
    def behave(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.set_rcode(code)
        return reply

    return behave


def silent(_query: dns.message.Message, _stream: bool) -> None:
    """Nothing."""


def cuts_by_udp(query: dns.message.Message, stream: bool) -> dns.message.Message:
    """TC by UDP; 100 addresses by TCP."""
    reply = dns.message.make_response(query)
    if stream:
        addresses = [f"192.0.2.{i}" for i in range(1, 101)]
        reply.answer.append(dns.rrset.from_text_list(query.question[0].name, 60, "IN", "A", addresses))
    else:
        reply.flags |= dns.flags.TC
    return reply


def lies_first(query: dns.message.Message, _stream: bool) -> bytes:
    """A reply to another question, under the right id."""
    other = dns.message.make_query("evil.example.", "A", use_edns=False)
    other.id = query.id
    return answers(other, False).to_wire()


@contextmanager
def upstreams(*behaviours: Behaviour) -> Iterator[tuple[Served, list[Upstream]]]:
    """A worker, and the servers that it asks; unless one never answers, it waits for them however long they take."""
    with ExitStack() as stack:
        running = [stack.enter_context(Upstream(behave)) for behave in behaviours]
        settings = Settings(upstreams=tuple(one.address for one in running))
        served = stack.enter_context(
            worker(settings, RECORDS, changed={} if {silent, lies_first} & {*behaviours} else PATIENT)
        )
        until(lambda: served.udp("tomcat.svc.").answer)
        yield served, running


def dead() -> Server:
    """An address where nothing listens, nor takes a port by chance."""
    return Server("127.53.0.2", 5300)


def test_other_names_are_answered_by_upstream_in_the_clients_spelling() -> None:
    with upstreams(answers) as (served, (upstream,)):
        for reply in (served.udp("A.Example."), served.tcp("B.Example."), served.udp("C.Example.", edns=True)):
            assert lines(reply.answer) == [f"{reply.question[0].name} 60 IN A 192.0.2.7"]
            assert reply.flags & dns.flags.RA
        assert upstream.asked == [(f"{name}.example.", False) for name in "abc"]
        assert len(set(upstream.ids)) == 3
        assert len(upstream.ports) >= 3


def test_our_own_names_never_leave() -> None:
    with upstreams(answers) as (served, (upstream,)):
        assert served.udp("nothing.svc.").rcode().name == "NXDOMAIN"
        assert served.udp("tomcat.svc.").flags & dns.flags.RA
        assert upstream.asked == []


def test_a_client_that_wants_no_recursion_is_refused() -> None:
    with upstreams(answers) as (served, (upstream,)):
        query = dns.message.make_query("example.org.", "A", flags=0)
        assert dns.query.udp(query, HOST, PATIENCE_SECONDS, served.port).rcode().name == "REFUSED"
        assert upstream.asked == []


def test_checking_disabled_goes_back_as_it_came_and_is_clear_where_we_are_the_authority() -> None:
    """RFC 4035 §3.2.2 and §3.1.6."""

    def behave(query: dns.message.Message, stream: bool) -> dns.message.Message | bytes | None:
        how: dict[str, Behaviour] = {"bad.example.": says(dns.rcode.SERVFAIL), "long.example.": cuts_by_udp}
        return how.get(str(query.question[0].name), answers)(query, stream)

    with upstreams(behave) as (served, _):
        theirs = ("good.example.", "bad.example.", "long.example.")
        for name, kept in (*((name, True) for name in theirs), ("tomcat.svc.", False)):
            for flags in (dns.flags.RD, dns.flags.RD | dns.flags.CD):
                query = dns.message.make_query(name, "A", flags=flags)
                reply = dns.query.udp(query, HOST, PATIENCE_SECONDS, served.port)
                assert bool(reply.flags & dns.flags.CD) == (kept and bool(flags & dns.flags.CD))


def test_a_cut_reply_is_asked_for_again_by_tcp() -> None:
    with upstreams(cuts_by_udp) as (served, (upstream,)):
        assert len(lines(served.tcp("example.org.").answer)) == 100
        assert upstream.asked == [("example.org.", False), ("example.org.", True)]
        assert served.udp("example.org.").flags & dns.flags.TC, "and is cut again for a client by UDP"


def test_a_server_that_is_dead_silent_or_fails_is_passed_over() -> None:
    with upstreams(silent, says(dns.rcode.SERVFAIL), answers) as (served, running):
        assert lines(served.udp("example.org.").answer) == ["example.org. 60 IN A 192.0.2.7"]
        assert all(one.asked for one in running)


def test_a_port_where_nobody_listens_costs_no_time() -> None:
    """Nor would there be an answer, were it waited for."""
    with Upstream(answers) as alive:
        settings = Settings(upstreams=(dead(), alive.address))
        with worker(settings, RECORDS, changed=PATIENT) as served:
            assert lines(served.udp("example.org.").answer) == ["example.org. 60 IN A 192.0.2.7"]


def test_without_any_answer_the_client_is_told() -> None:
    with upstreams(silent) as (served, _):
        assert served.udp("example.org.").rcode().name == "SERVFAIL"
        assert lines(served.udp("tomcat.svc.").answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]
    with worker(Settings(upstreams=(dead(),)), RECORDS) as served:
        assert until(lambda: served.udp("example.org.")).rcode().name == "SERVFAIL"


def test_nxdomain_from_upstream_is_an_answer() -> None:
    with upstreams(says(dns.rcode.NXDOMAIN), answers) as (served, running):
        assert served.udp("example.org.").rcode().name == "NXDOMAIN"
        assert running[1].asked == []


def test_when_all_fail_their_failure_is_told() -> None:
    with upstreams(says(dns.rcode.REFUSED)) as (served, _):
        assert served.udp("example.org.").rcode().name == "REFUSED"


def test_a_reply_to_another_question_is_not_believed() -> None:
    with upstreams(lies_first, answers) as (served, _):
        assert lines(served.udp("example.org.").answer) == ["example.org. 60 IN A 192.0.2.7"]


def test_the_same_question_of_many_is_asked_once() -> None:
    go = threading.Event()

    def waits(query: dns.message.Message, stream: bool) -> dns.message.Message:
        go.wait(PATIENCE_SECONDS)
        return answers(query, stream)

    with upstreams(waits) as (served, (upstream,)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect((HOST, served.port))
            queries = [dns.message.make_query(name, "A", use_edns=False) for name in ("example.org.", "EXAMPLE.org.")]
            for query in queries * 5:
                client.send(query.to_wire())
            until(lambda: upstream.asked)
            go.set()
            replies = [dns.message.from_wire(client.recv(65535)) for _ in range(10)]
        assert all(any(query.is_response(reply) for query in queries) for reply in replies)
        assert len(upstream.asked) == 1


def test_a_slow_name_holds_up_no_other_on_the_connection() -> None:
    with upstreams(silent) as (served, _):
        slow, quick = (dns.message.make_query(name, "A", use_edns=False) for name in ("example.org.", "tomcat.svc."))
        with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
            for query in (slow, quick):
                client.sendall(len(query.to_wire()).to_bytes(2) + query.to_wire())
            client.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: client.recv(65535), b""))
        first = dns.message.from_wire(data[2 : 2 + int.from_bytes(data[:2])])
        last = dns.message.from_wire(data[4 + int.from_bytes(data[:2]) :])
        assert quick.is_response(first)
        assert (last.id, last.rcode().name) == (slow.id, "SERVFAIL")


def test_an_external_name_is_followed_upstream() -> None:
    with upstreams(answers) as (served, (upstream,)):
        for reply in (served.udp("shop.svc."), served.tcp("shop.svc."), served.udp("shop.svc.", edns=True)):
            assert lines(reply.answer) == ["shop.svc. 5 IN CNAME shop.example.", "shop.example. 60 IN A 192.0.2.7"]
        assert upstream.asked[0] == ("shop.example.", False)
    with upstreams(says(dns.rcode.NXDOMAIN)) as (served, _):
        reply = served.udp("shop.svc.")
        assert (reply.rcode().name, lines(reply.answer)) == ("NXDOMAIN", ["shop.svc. 5 IN CNAME shop.example."])
    with upstreams(silent) as (served, _):
        assert served.udp("shop.svc.").rcode().name == "SERVFAIL"


@pytest.mark.parametrize("code", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
def test_that_an_external_name_leads_to_nothing_may_be_kept_as_long_as_its_zone_says(code: dns.rcode.Rcode) -> None:
    def nothing(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.set_rcode(code)
        reply.authority.append(dns.rrset.from_text("example.", 300, "IN", "SOA", "a.example. b.example. 1 2 3 4 60"))
        reply.authority.append(dns.rrset.from_text("example.", 300, "IN", "NS", "a.example."))
        return reply

    with upstreams(nothing) as (served, _):
        for edns in (False, True, False):
            reply = served.udp("shop.svc.", edns=edns)
            assert (reply.rcode(), lines(reply.answer)) == (code, ["shop.svc. 5 IN CNAME shop.example."])
            (told,) = (line.split() for line in lines(reply.authority))
            assert told[0] == "example."
            assert told[2:] == ["IN", "SOA", "a.example.", "b.example.", "1", "2", "3", "4", "60"]
            assert int(told[1]) <= 300


def test_what_is_not_in_a_zone_that_others_have_too_is_asked_upstream() -> None:
    with Upstream(answers) as upstream:
        settings = Settings(upstreams=(upstream.address,), onward=("svc",))
        records = [virtual("tomcat", "10.0.0.5"), external("far", "nobody.svc")]
        with worker(settings, records, changed=PATIENT) as running:
            until(lambda: running.udp("tomcat.svc.").answer)
            reply = running.udp("noBody.svc.")
            assert lines(reply.answer) == ["noBody.svc. 60 IN A 192.0.2.7"]
            assert not reply.flags & dns.flags.AA
            assert lines(running.udp("far.svc.").answer) == [
                "far.svc. 5 IN CNAME nobody.svc.",
                "nobody.svc. 60 IN A 192.0.2.7",
            ]
            assert running.udp("nobody.svc.cluster.local.").rcode() == dns.rcode.NXDOMAIN
            assert not running.udp("tomcat.svc.", "AAAA").answer
            query = dns.message.make_query("nobody.svc.", "A", flags=0)
            assert dns.query.udp(query, HOST, PATIENCE_SECONDS, running.port).rcode() == dns.rcode.NXDOMAIN
        assert upstream.asked == [("nobody.svc.", False)]
