"""A worker whose servers upstream say nothing, or come and go, while many ask: its own names never wait."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from svcnet.dns.server import MOST_PIPELINED
from svcnet.dns.settings import Settings
from tests.dns.serving import HOST, PATIENCE_SECONDS, PATIENT, Upstream, worker
from tests.dns.test_counts import RECORDS, Heard
from tests.dns.test_forward import answers, dead, silent
from tests.dns.world import lines
from tests.harness.until import until


def wire(number: int) -> bytes:
    query = dns.message.make_query(f"n{number}.example.org.", "A", use_edns=False)
    query.id = number
    return query.to_wire()


def test_questions_above_the_bound_are_refused_at_once_and_all_others_in_time() -> None:
    most, asked = 200, count()
    with (
        Upstream(silent) as upstream,
        worker(Settings(upstreams=(upstream.address,), most_in_flight=most), RECORDS) as running,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        until(lambda: running.udp("tomcat.svc.").answer)
        listening = Heard(running)
        files = Path(f"/proc/{running.process.pid}/fd")
        idle = len(list(files.iterdir()))
        replies: dict[int, dns.message.Message] = {}
        client.setblocking(False)
        client.connect((HOST, running.port))

        def hear() -> set[int]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    reply = dns.message.from_wire(client.recv(4096))
                    replies[reply.id] = reply
            return {reply.rcode() for reply in replies.values()}

        def one_was_refused() -> bool:
            for number in islice(asked, 50):
                client.send(wire(number))
            # No faster than it reads, or the kernel drops some.
            assert lines(running.udp("tomcat.svc.").answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]
            return dns.rcode.REFUSED in hear()

        until(one_was_refused)
        number = next(asked)
        assert number > most
        until(lambda: hear() and len(replies) == number)
        assert hear() == {dns.rcode.SERVFAIL, dns.rcode.REFUSED}
        until(lambda: len(list(files.iterdir())) <= idle + 2)
        while not listening.ledger.events["forward_max_concurrent_rejects",]:
            listening.word()
        assert lines(running.udp("tomcat.svc.").answer) == ["tomcat.svc. 5 IN A 10.0.0.5"]


def test_what_became_of_questions_is_a_metric() -> None:
    gone = dead()
    with (
        Upstream(answers) as upstream,
        worker(Settings(upstreams=(gone, upstream.address)), RECORDS, changed=PATIENT) as running,
    ):
        until(lambda: running.udp("tomcat.svc.").answer)
        listening = Heard(running)
        for name in ("a.example.", "b.example.", "a.example.", "A.example."):
            assert lines(running.udp(name).answer) == [f"{name} 60 IN A 192.0.2.7"]
        wanted = {
            'svcnet_dns_cache_hits_total{type="success"} 2.0',
            "svcnet_dns_cache_misses_total 2.0",
            "svcnet_dns_cache_entries 2.0",
            "svcnet_dns_forward_in_flight 0.0",
            "svcnet_dns_forward_servers_down 1.0",
        }
        while not wanted <= set((text := listening.text()).split("\n")):
            listening.word()
        assert sum(listening.ledger.took) == sum(listening.ledger.requests.values()), "each is counted once"
        assert f'svcnet_dns_forward_responses_total{{rcode="NOERROR",to="{upstream.address}"}}' in text
        assert f'svcnet_dns_forward_responses_total{{rcode="none",to="{gone}"}}' in text
        assert f'svcnet_dns_forward_healthcheck_failures_total{{to="{gone}"}}' in text


def test_a_client_that_asks_much_on_one_connection_waits_and_is_answered() -> None:
    """No query fails for being one of many: what is above the bound is read later."""
    many = 3 * MOST_PIPELINED
    with (
        Upstream(answers) as upstream,
        worker(Settings(upstreams=(upstream.address,)), RECORDS, changed=PATIENT) as running,
        socket.create_connection((HOST, running.port), PATIENCE_SECONDS) as client,
    ):
        client.sendall(b"".join(len(query := wire(number)).to_bytes(2) + query for number in range(many)))
        client.shutdown(socket.SHUT_WR)
        replies = list(messages(b"".join(iter(lambda: client.recv(65535), b""))))
        assert {reply.id for reply in replies} == {int.from_bytes(wire(number)[:2]) for number in range(many)}
        assert {tuple(lines(reply.answer)[0].split()[3:]) for reply in replies} == {("A", "192.0.2.7")}


def messages(stream: bytes) -> Iterator[dns.message.Message]:
    """What came on a connection."""
    while stream:
        end = 2 + int.from_bytes(stream[:2])
        yield dns.message.from_wire(stream[2:end])
        stream = stream[end:]


def test_a_client_that_goes_before_its_answers_come_is_no_word_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    may_answer = threading.Event()

    def waits(query: dns.message.Message, stream: bool) -> dns.message.Message:
        assert may_answer.wait(PATIENCE_SECONDS)
        return answers(query, stream)

    with (
        Upstream(waits) as upstream,
        worker(Settings(upstreams=(upstream.address,)), RECORDS, changed=PATIENT) as running,
    ):
        until(lambda: running.udp("tomcat.svc.").answer)
        with socket.create_connection((HOST, running.port), PATIENCE_SECONDS) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at its end
            client.sendall(b"".join(len(query := wire(n)).to_bytes(2) + query for n in range(2 * MOST_PIPELINED)))
            until(lambda: upstream.asked)
        assert running.tcp("tomcat.svc.").answer
        may_answer.set()
        until(lambda: len(set(upstream.asked)) >= MOST_PIPELINED)
        assert running.udp("other.example.").answer
    assert "socket.send" not in capfd.readouterr().err
