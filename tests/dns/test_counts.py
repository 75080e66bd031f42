"""What a worker says of its queries, added up: real queries by dnspython, over real sockets."""

from collections.abc import Iterator
from contextlib import contextmanager

import dns.message

import dns.query
from svcnet.dns.ledger import LEVELS, Ledger
from svcnet.dns.settings import Settings
from svcnet.feed import Change, Splitter
from svcnet.model.snapshot import Endpoint
from svcnet.status.exposition import Exposition
from svcnet.status.metrics import Metrics
from svcnet.status.report import Report
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, worker
from tests.dns.world import headless, virtual
from tests.harness.until import until

RECORDS = (virtual("tomcat", "10.0.0.5"), headless("many", *(Endpoint(f"10.1.0.{i}", 80) for i in range(1, 120))))


class Heard:
    """All that one worker said."""

    def __init__(self, running: Served) -> None:
        self._running = running
        self._words = Splitter()
        self.ledger = Ledger()
        running.feed.settimeout(PATIENCE_SECONDS)

    def word(self) -> None:
        """Wait for the next one."""
        words: list[bytes] = []
        while not words:
            words += self._words.feed(self._running.feed.recv(65536))
        for payload in words:
            self.ledger.hear(0, payload)

    def requests(self, number: int) -> dict[tuple[str, str, str], int]:
        """The requests, once there are so many."""
        while sum(self.ledger.requests.values()) < number:
            self.word()
        return dict(self.ledger.requests)

    def text(self) -> str:
        """As `/metrics` shows it."""
        metrics = Metrics()
        metrics.dns = self.ledger
        return Exposition(metrics, lambda: Report(node="m1", mode="none")).render("")[0].decode()


@contextmanager
def heard() -> Iterator[tuple[Served, Heard]]:
    with worker(Settings(), RECORDS) as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        listening = Heard(running)
        listening.requests(1)
        listening.ledger = Ledger()
        yield running, listening


def test_queries_are_counted_by_transport_type_and_code_whether_their_answer_was_ready_or_not() -> None:
    with heard() as (running, listening):
        for _ in range(3):
            running.udp("tomcat.svc.")
            running.udp("tomcat.svc.", edns=True)
        running.tcp("tomcat.svc.")
        running.udp("tomcat.svc.", "AAAA")
        running.udp("nothing.svc.")
        running.udp("nothing.svc.", "TYPE4711")
        running.udp("example.org.")
        assert running.raw(b"\1\2\1\0\0\2" + bytes(6)) is not None
        assert listening.requests(12) == {
            ("udp", "1", "A"): 8,
            ("tcp", "1", "A"): 1,
            ("udp", "1", "AAAA"): 1,
            ("udp", "1", "other"): 2,
        }
        assert listening.ledger.responses == {"NOERROR": 8, "NXDOMAIN": 2, "REFUSED": 1, "FORMERR": 1}
        assert sum(listening.ledger.took) == 12
        assert listening.ledger.seconds > 0


def test_replies_are_counted_with_the_bytes_that_they_have() -> None:
    with heard() as (running, listening):
        sizes = [
            len(reply.to_wire())
            for reply in (running.udp("tomcat.svc."), running.udp("tomcat.svc.", edns=True), running.udp("many.svc."))
        ]
        # dnspython writes names as we do: only as long as nothing is left to compress.
        whole = running.raw(dns.message.make_query("many.svc.", "A", use_edns=True, payload=1232).to_wire())
        assert whole is not None
        listening.requests(4)
        assert listening.ledger.bytes["udp"] == sum(sizes) + len(whole)
        assert listening.ledger.sizes["udp"][:2] == [0, 2]
        assert sum(listening.ledger.sizes["udp"]) == 4


def test_packets_without_an_answer_are_counted_and_so_are_connections_and_the_serial() -> None:
    with heard() as (running, listening):
        assert running.raw(b"\1\2\x80\0" + bytes(8), seconds=0.1) is None
        running.tcp("tomcat.svc.")
        running.tell(Change(77, (virtual("fresh", "10.0.0.9"),)))
        until(lambda: running.udp("fresh.svc.").answer)
        while (text := listening.text()) and "svcnet_dns_zone_serial 77.0" not in text:
            listening.word()
        assert 'svcnet_dns_dropped_total{reason="no query"} 1.0' in text
        assert "svcnet_dns_tcp_connections_total 1.0" in text
        assert 'svcnet_dns_requests_total{family="1",proto="tcp",type="A"} 1.0' in text
        assert "svcnet_dns_worker_starts_total 1.0" in text
        assert {level.what for level in LEVELS} <= {
            line.split()[0].removeprefix("svcnet_dns_") for line in text.split("\n") if line
        }


def test_a_worker_that_is_another_process_adds_to_what_the_first_counted() -> None:
    ledger = Ledger()
    for _ in range(2):
        with worker(Settings(), RECORDS) as running:
            until(lambda: running.udp("tomcat.svc.").answer)
            listening = Heard(running)
            listening.ledger = ledger
            before = ledger.responses["NOERROR"]
            while ledger.responses["NOERROR"] == before:
                listening.word()
    assert ledger.responses["NOERROR"] >= 2
    assert ledger.starts == 2


def test_a_transfer_is_one_request_however_many_messages_it_takes() -> None:
    with heard() as (running, listening):
        messages = list(dns.query.xfr(HOST, "svc.", port=running.port, lifetime=PATIENCE_SECONDS, relativize=False))
        assert len(messages) > 1
        running.tcp("tomcat.svc.")
        assert listening.requests(2) == {("tcp", "1", "AXFR"): 1, ("tcp", "1", "A"): 1}
