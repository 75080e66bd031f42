"""Whoever varies a question without end takes a bounded part of a worker's memory."""

import tracemalloc
from collections.abc import Iterator

import dns.message
import pytest

from svcnet.dns import fast
from svcnet.model.snapshot import Endpoint
from tests.dns.world import Asked, headless, virtual

KILO = 1024


def sizes(name: str, kind: str, number: int) -> Iterator[bytes]:
    """The same question with ever other EDNS payload sizes, each of which is another packet."""
    query = bytearray(dns.message.make_query(name, kind, use_edns=0).to_wire())
    for size in range(number):
        query[-8:-6] = size.to_bytes(2)
        yield bytes(query)


def test_long_replies_by_tcp_are_remembered_up_to_a_number_of_bytes() -> None:
    endpoints = tuple(Endpoint(f"10.1.{n // 250}.{n % 250 + 1}", 80) for n in range(3500))
    asked = Asked(headless("db", *endpoints))
    most = 0
    for packet in sizes("db.svc.", "A", 100):
        reply = asked.responder.respond(packet, stream=True)
        assert isinstance(reply, bytes)
        most = max(most, asked.responder.ready_answers * len(reply) * 8)
    assert 0 < most <= fast.MOST_BYTES


def test_replies_that_tell_of_several_names_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "MOST_ANSWERS", 100)
    asked = Asked(virtual("web", "10.0.0.1"))
    packets = list(sizes("_http._tcp.web.svc.", "SRV", 4_000))

    def ask(those: list[bytes]) -> None:
        for packet in those:
            assert asked.responder.respond(packet, stream=False)

    ask(packets[:500])
    tracemalloc.start()
    try:
        ask(packets[500:])
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 150 * KILO
