"""Servers upstream that are dead, silent, slow, lying, out of order, and that come back; the clock is the test's."""

import socket
from contextlib import ExitStack

import dns.flags
import dns.message
import dns.rcode
import pytest

from svcnet.dns.forward import DOWN_SECONDS
from svcnet.dns.upstream import (
    BEHIND_SECONDS,
    MOST_FAILED_PROBES,
    MOST_PASSED_BY,
    PROBE_SECONDS,
    RANDOM,
    ROUND_ROBIN,
    SEQUENTIAL,
    Health,
    Server,
    Turns,
    order,
)
from tests.dns.clockwork import Forwarding, dead, forwarding
from tests.dns.serving import HOST, Behaviour, Upstream
from tests.dns.test_forward import answers, cuts_by_udp, says, silent
from tests.dns.world import lines

ANSWER = ["example.org. 60 IN A 192.0.2.7"]


@pytest.mark.parametrize(
    "first",
    [
        silent,
        says(dns.rcode.SERVFAIL),
        says(dns.rcode.REFUSED),
        says(dns.rcode.NOTIMP),
        lambda query, _: answers(query, False).to_wire()[:-3],
        lambda query, _: answers(query, False).to_wire() + b"more",
        lambda _query, _: b"",
        lambda query, _: query.to_wire(),
        lambda query, _: cuts_by_udp(query, False),
        None,
    ],
    ids=["silent", "servfail", "refused", "notimp", "cut off", "too long", "empty", "an echo", "cut by TCP", "dead"],
)
def test_a_server_that_gives_no_answer_is_passed_over_in_the_same_query(first: Behaviour | None) -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(Upstream(first)).address if first else dead()
        good = stack.enter_context(Upstream(answers))
        running = stack.enter_context(forwarding(bad, good.address))
        reply = running.ask("example.org.")
        assert lines(reply.answer) == ANSWER
        assert good.asked == [("example.org.", False)]
        assert not running.counted("forward_failures")


def test_without_any_answer_the_client_is_told_before_it_gives_up() -> None:
    with Upstream(silent) as one, Upstream(silent) as other, forwarding(one.address, other.address) as running:
        begin = running.loop.time()
        assert running.ask("example.org.").rcode() == dns.rcode.SERVFAIL
        # 5 s is when a stub resolver gives up (resolv.conf(5), timeout).
        assert running.loop.time() - begin < 5


def test_a_slow_answer_counts_when_nobody_is_faster() -> None:
    """The first server answers after the second was asked, which says nothing."""
    with Upstream(silent) as other:

        def waits(query: dns.message.Message, stream: bool) -> dns.message.Message | None:
            return answers(query, stream) if other.asked else None

        # What it does not answer at once comes with the second round.
        with Upstream(waits) as slow, forwarding(slow.address, other.address) as running:
            assert lines(running.ask("example.org.").answer) == ANSWER


def test_a_server_that_others_answer_for_comes_last_for_a_while() -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(Upstream(says(dns.rcode.SERVFAIL)))
        good = stack.enter_context(Upstream(answers))
        running = stack.enter_context(forwarding(bad.address, good.address))
        for number in range(MOST_PASSED_BY + 5):
            running.ask(f"n{number}.example.org.")
        assert len(bad.asked) == MOST_PASSED_BY
        running.loop.leap(BEHIND_SECONDS)
        running.ask("again.example.org.")
        running.ask("later.example.org.")
        assert len(bad.asked) == MOST_PASSED_BY + 1, "one try, then the next ones go elsewhere again"


def test_a_server_that_is_down_is_probed_and_used_again_when_it_is_back() -> None:
    host, port = "127.53.0.1", 5300  # an address that no other socket takes a port of by chance
    with ExitStack() as stack:
        good = stack.enter_context(Upstream(answers))
        running = stack.enter_context(forwarding(Server(host, port), good.address))
        running.ask("example.org.")
        running.loop.until(lambda: running.counted("forward_healthcheck_failures") >= MOST_FAILED_PROBES)
        assert running.forwarder.levels()["forward_servers_down"] == 1.0
        back = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        back.bind((host, port))
        back.setblocking(False)
        running.loop.leap(PROBE_SECONDS)
        probe, client = _receive(running, back)
        assert str(probe.question[0]) == ". IN NS"
        back.sendto(dns.message.make_response(probe).to_wire(), client)
        running.loop.until(lambda: not running.forwarder.levels()["forward_servers_down"])
        running.loop.leap(BEHIND_SECONDS)
        replies = running.send("new.example.org.")
        query, client = _receive(running, back)
        back.sendto(answers(query, False).to_wire(), client)
        running.loop.until(lambda: replies)
        assert [name for name, _ in good.asked] == ["example.org."]


def test_a_server_may_have_an_ipv6_address() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
        bound.bind(("::1", 0))
        bound.setblocking(False)
        with forwarding(Server("::1", bound.getsockname()[1])) as running:
            replies = running.send("example.org.")
            query, client = _receive(running, bound)
            bound.sendto(answers(query, False).to_wire(), client)
            running.loop.until(lambda: replies)
            assert lines(dns.message.from_wire(replies[0]).answer) == ANSWER


def _receive(running: Forwarding, bound: socket.socket) -> tuple[dns.message.Message, tuple[str, int]]:
    """The next message that is not a look for loops."""
    got: list[tuple[dns.message.Message, tuple[str, int]]] = []

    def receive() -> bool:
        try:
            packet, client = bound.recvfrom(4096)
        except BlockingIOError:
            return False
        query = dns.message.from_wire(packet)
        if not str(query.question[0].name).endswith("svcnet-loop."):
            got.append((query, client))
        return bool(got)

    running.loop.until(receive)
    return got[0]


def test_all_are_asked_when_all_are_down() -> None:
    with forwarding(dead(), dead()) as running:
        assert running.ask("example.org.").rcode() == dns.rcode.SERVFAIL
        running.loop.until(lambda: running.forwarder.levels()["forward_servers_down"] == 2.0)
        before = running.counted("forward_requests")
        assert running.ask("other.example.org.").rcode() == dns.rcode.SERVFAIL
        assert running.counted("forward_requests") >= before + 4


def test_nobody_waits_long_while_all_are_known_to_be_down() -> None:
    with Upstream(silent) as upstream, forwarding(upstream.address) as running:
        first = running.send("example.org.")
        for _ in range(8):
            running.loop.leap(0.5)
            running.loop.turn(0)
        running.loop.until(lambda: first)
        while not running.forwarder.levels()["forward_servers_down"]:
            running.loop.leap(PROBE_SECONDS)
        second = running.send("other.example.org.")
        assert not second, "it is asked all the same"
        running.loop.leap(DOWN_SECONDS)
        running.loop.until(lambda: second)
        assert dns.message.from_wire(second[0]).rcode() == dns.rcode.SERVFAIL
        running.loop.until(lambda: ("other.example.org.", False) in upstream.asked)


def test_a_failure_is_kept_for_a_moment() -> None:
    with Upstream(says(dns.rcode.SERVFAIL)) as bad, forwarding(bad.address) as running:
        for _ in range(5):
            assert running.ask("example.org.").rcode() == dns.rcode.SERVFAIL
        assert len(bad.asked) == 2, "one question, two rounds"
        running.loop.leap(2.5)
        running.ask("example.org.")
        assert len(bad.asked) == 4


@pytest.mark.parametrize("what", ["id", "name", "type", "class", "question"])
def test_what_does_not_fit_the_question_is_not_believed(what: str) -> None:
    def lies(query: dns.message.Message, _stream: bool) -> bytes:
        reply = answers(query, False)
        wire = bytearray(reply.to_wire())
        end = wire.index(0, 12)
        where = {"id": 0, "name": 13, "type": end + 2, "class": end + 4, "question": 5}[what]
        wire[where] ^= 1 if what != "name" else 3
        return bytes(wire)

    with Upstream(lies) as liar, Upstream(answers) as honest, forwarding(liar.address, honest.address) as running:
        assert lines(running.ask("example.org.").answer) == ANSWER
        assert honest.asked == [("example.org.", False)]


def test_what_comes_from_elsewhere_is_not_believed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind((HOST, 0))

        def betrayed(query: dns.message.Message, stream: bool) -> dns.message.Message:
            forged = dns.message.make_response(query)
            forged.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "203.0.113.66"))
            for _ in range(3):
                stranger.sendto(forged.to_wire(), upstream.client)
            return answers(query, stream)

        with Upstream(betrayed) as upstream, forwarding(upstream.address) as running:
            assert lines(running.ask("example.org.").answer) == ANSWER


def test_whoever_guesses_is_met_by_tcp() -> None:
    def guessed(query: dns.message.Message, stream: bool) -> dns.message.Message | None:
        if stream:
            return answers(query, stream)
        for guess in range(1, 6):
            forged = answers(query, stream)
            forged.id = query.id ^ guess
            upstream.send(forged.to_wire())
        return None

    with Upstream(guessed) as upstream, forwarding(upstream.address) as running:
        assert lines(running.ask("example.org.").answer) == ANSWER
        assert upstream.asked == [("example.org.", False), ("example.org.", True)]


@pytest.mark.parametrize("keeps", [True, False])
def test_cut_replies_are_asked_for_by_tcp_on_one_connection_while_it_lasts(keeps: bool) -> None:
    def cuts(query: dns.message.Message, stream: bool) -> dns.message.Message | None:
        sign = str(query.question[0].name).endswith("svcnet-loop.")
        return None if sign else cuts_by_udp(query, stream)

    with Upstream(cuts, keeps) as upstream, forwarding(upstream.address) as running:
        for number in range(3):
            assert running.ask(f"n{number}.example.org.").flags & dns.flags.TC, "100 addresses are too many for UDP"
        assert [stream for _, stream in upstream.asked] == [False, True] * 3
        assert upstream.connections == (1 if keeps else 3)


def test_a_server_from_before_edns_is_asked_without() -> None:
    def old(query: dns.message.Message, stream: bool) -> dns.message.Message:
        return answers(query, stream) if query.edns < 0 else says(dns.rcode.FORMERR)(query, stream)  # type: ignore[return-value]

    with Upstream(old) as upstream, forwarding(upstream.address) as running:
        assert lines(running.ask("example.org.").answer) == ANSWER


def test_every_question_has_a_port_and_an_id_of_its_own() -> None:
    with Upstream(answers) as upstream, forwarding(upstream.address) as running:
        for number in range(64):
            running.ask(f"n{number}.example.org.")
        assert len(set(upstream.ids)) >= 60
        assert len(upstream.ports) >= 60
        assert max(upstream.ports) - min(upstream.ports) > 1000, "and they are not in a row"


def test_too_many_questions_are_turned_down_and_counted() -> None:
    with Upstream(silent) as upstream, forwarding(upstream.address, most_in_flight=3) as running:
        waiting = [running.send(f"n{number}.example.org.") for number in range(3)]
        assert running.ask("one.too.many.").rcode() == dns.rcode.REFUSED
        assert running.events["forward_max_concurrent_rejects",] == 1
        assert running.forwarder.levels()["forward_in_flight"] == 3.0
        joined = running.send("N1.example.org.")
        assert running.events["forward_joined",] == 1
        running.loop.leap(4.1)
        running.loop.until(lambda: all(waiting) and joined)
        assert running.forwarder.levels()["forward_in_flight"] == 0.0


def test_the_order_is_that_given_but_for_those_that_fail() -> None:
    fine, behind, down, loops = Health(), Health(), Health(), Health()
    for _ in range(MOST_PASSED_BY):
        behind.passed_by(10.0)
    down.failed_probes = MOST_FAILED_PROBES
    loops.loops = True
    assert order([loops, down, behind, fine], range(4), 10.0) == [3, 2, 1]
    assert order([loops, down, behind, fine], range(4), 10.0 + BEHIND_SECONDS) == [2, 3, 1]
    assert order([loops], range(1), 10.0) == []


@pytest.mark.parametrize(("policy", "expected"), [(SEQUENTIAL, [6, 0, 0]), (ROUND_ROBIN, [2, 2, 2])])
def test_the_policy_says_who_is_asked_first(policy: str, expected: list[int]) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(Upstream(answers)) for _ in expected]
        running = stack.enter_context(forwarding(*(one.address for one in servers), policy=policy))
        for number in range(6):
            assert lines(running.ask(f"n{number}.example.org.").answer)
        assert [len(one.asked) for one in servers] == expected


def test_in_turn_a_server_that_fails_is_passed_over_and_then_comes_last() -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(Upstream(says(dns.rcode.SERVFAIL)))
        good = [stack.enter_context(Upstream(answers)) for _ in range(2)]
        addresses = [bad.address, *(one.address for one in good)]
        running = stack.enter_context(forwarding(*addresses, policy=ROUND_ROBIN))
        for number in range(30):
            assert lines(running.ask(f"n{number}.example.org.").answer)
        assert len(bad.asked) == MOST_PASSED_BY


def test_at_random_each_order_comes_from_the_shuffle() -> None:
    turns = Turns(RANDOM, 3, lambda numbers: numbers.reverse())
    assert [turns.next() for _ in range(2)] == [(2, 1, 0), (0, 1, 2)]
    fine, down, other = Health(), Health(), Health()
    down.failed_probes = MOST_FAILED_PROBES
    assert order([fine, down, other], (1, 2, 0), 0.0) == [2, 0, 1]


@pytest.mark.parametrize(("most", "down"), [(0, 0.0), (1, 1.0), (4, 0.0)])
def test_a_server_is_down_after_as_many_failed_probes_as_the_options_say(most: int, down: float) -> None:
    with Upstream(answers) as good, forwarding(dead(), good.address, max_fails=most) as running:
        assert lines(running.ask("a.example.org.").answer)
        for _ in range(2):
            running.loop.leap(PROBE_SECONDS + 0.01)
        if most:
            running.loop.until(lambda: running.counted("forward_healthcheck_failures"))
        else:
            assert not running.counted("forward_healthcheck_failures")
        assert running.forwarder.levels()["forward_servers_down"] == down
