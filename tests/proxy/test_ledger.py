"""What workers count and the daemon reads: who has which slot, and that nothing is lost or counted twice."""

import os
from collections.abc import Iterator

import pytest

from svcnet.model.frontend import Frontend
from svcnet.proxy.counts import BYTES_IN, CONNECTIONS, Counts
from svcnet.proxy.ledger import Counted, Ledger
from svcnet.proxy.row import Backend
from svcnet.proxy.tallies import Tallies

WEB, OTHER = (Frontend(4, f"10.0.0.{n}", "tcp", 80) for n in (1, 2))
A, B = (Backend(f"10.1.0.{n}", 8080) for n in (1, 2))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(2)
    yield made
    made.close()


def worker(ledger: Ledger, number: int = 0) -> Counts:
    """As a worker maps its block."""
    fd = os.dup(ledger.block(number))
    counts = Counts(fd)
    os.close(fd)
    return counts


def test_what_workers_count_is_read_once(ledger: Ledger) -> None:
    slots = ledger.assign(WEB, [A, B])
    tallies = [Tallies(worker(ledger, number)) for number in range(2)]
    for one in tallies:
        one.update(slots)
        one.of(A).add(CONNECTIONS)
        one.of(A).add(BYTES_IN, 100)
    assert ledger.take() == [Counted(WEB, A, 1, 100, 0, 0)] * 2
    assert ledger.take() == []
    tallies[1].of(B).add(CONNECTIONS)
    assert ledger.take() == [Counted(WEB, B, 1, 0, 0, 0)]


def test_a_backend_keeps_its_slot_over_changes_of_others(ledger: Ledger) -> None:
    before = ledger.assign(WEB, [A, B])
    assert ledger.assign(WEB, [B]).items() <= before.items()


def test_an_open_connection_to_a_backend_that_went_counts_for_the_frontend(ledger: Ledger) -> None:
    tallies = Tallies(worker(ledger))
    tallies.update(ledger.assign(WEB, [A, B]))
    open_one = tallies.of(A)
    open_one.add(BYTES_IN, 1)
    tallies.update(ledger.assign(WEB, [B]))
    ledger.settle()
    open_one.add(BYTES_IN, 10)
    assert ledger.take() == [Counted(WEB, A, 0, 1, 0, 0), Counted(WEB, None, 0, 10, 0, 0)]


def test_who_gets_a_slot_of_another_begins_at_nothing(ledger: Ledger) -> None:
    counts = worker(ledger)
    tallies = Tallies(counts)
    tallies.update(ledger.assign(WEB, [A]))
    left_open = tallies.of(A)
    left_open.add(BYTES_IN, 5)
    ledger.forget(WEB)
    tallies.close()
    ledger.settle()
    left_open.add(BYTES_IN, 7)
    heirs = Tallies(counts)
    heirs.update(ledger.assign(OTHER, [B]))
    heirs.of(B).add(BYTES_IN, 3)
    assert ledger.take() == [Counted(WEB, A, 0, 5, 0, 0), Counted(OTHER, B, 0, 3, 0, 0)]


def test_without_a_block_counting_goes_nowhere() -> None:
    tallies = Tallies(Counts())
    tallies.update({None: 7, A: 9})
    tallies.of(A).add(CONNECTIONS)
