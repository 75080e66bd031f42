"""What workers count and the daemon reads: who has which slot, and that nothing is lost or counted twice."""

import os
from collections.abc import Iterator

import pytest

from svcnet.model.frontend import Frontend
from svcnet.proxy.counts import BYTES_IN, CARRIED, CONNECTIONS, Counts, written
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


def told(ledger: Ledger) -> list[tuple[Frontend, Backend | None, int, int, int]]:
    """What is new: whose, connections, bytes in and out."""
    return [(c.front, c.backend, c.connections, c.bytes_in, c.bytes_out) for c in ledger.take()]


def open_of(counted: Counted) -> int:
    """How many connections more are open."""
    return counted.connections + counted.cells[CARRIED] - sum(counted.lives)


def test_what_workers_count_is_read_once(ledger: Ledger) -> None:
    slots = ledger.assign(WEB, [A, B])
    tallies = [Tallies(worker(ledger, number)) for number in range(2)]
    for one in tallies:
        one.update(slots)
        one.of(A).add(CONNECTIONS)
        one.of(A).add(BYTES_IN, 100)
    assert told(ledger) == [(WEB, A, 1, 100, 0)] * 2
    assert ledger.take() == []
    tallies[1].of(B).add(CONNECTIONS)
    assert told(ledger) == [(WEB, B, 1, 0, 0)]


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
    assert set(told(ledger)) == {(WEB, A, 0, 1, 0), (WEB, None, 0, 10, 0)}


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
    assert told(ledger) == [(WEB, A, 0, 5, 0), (OTHER, B, 0, 3, 0)]


def test_without_a_block_counting_goes_nowhere() -> None:
    tallies = Tallies(Counts())
    tallies.update({None: 7, A: 9})
    tallies.of(A).add(CONNECTIONS)


def test_what_is_open_goes_with_its_backend_and_comes_back_with_it(ledger: Ledger) -> None:
    tallies = Tallies(worker(ledger))
    tallies.update(ledger.assign(WEB, [A, B]))
    one = tallies.of(A)
    for _ in range(2):
        one.dialled(0.003)
    assert [(c.backend, open_of(c)) for c in ledger.take()] == [(A, 2)]
    tallies.update(ledger.assign(WEB, [B]), now=7.0)
    ledger.settle()
    assert {(c.backend, open_of(c)) for c in ledger.take()} == {(A, -2), (None, 2)}
    assert [(tally, tally.gone_at) for tally in tallies.gone] == [(one, 7.0)]
    one.ended(0.2)
    tallies.update(ledger.assign(WEB, [A, B]))
    assert tallies.of(A) is one
    assert not tallies.gone
    one.ended(0.2)
    whole: dict[Backend | None, int] = {}
    for counted in ledger.take():
        whole[counted.backend] = whole.get(counted.backend, 0) + open_of(counted)
    assert whole == {None: -2, A: 0}


def test_what_a_killed_worker_had_open_is_open_no_more(ledger: Ledger) -> None:
    slots = ledger.assign(WEB, [A])
    first = Tallies(worker(ledger))
    first.update(slots)
    first.of(A).dialled(0.0)
    first.of(A).dialled(0.0)
    first.of(A).ended(1.0)
    assert [open_of(c) for c in ledger.take()] == [1]
    again = Tallies(worker(ledger))
    again.update(slots)
    assert [open_of(c) for c in ledger.take()] == [-1]
    again.of(A).dialled(0.0)
    assert [open_of(c) for c in ledger.take()] == [1]


def test_slots_that_nobody_wrote_to_take_no_memory(ledger: Ledger) -> None:
    for number in range(1000):
        ledger.assign(WEB._replace(port=1 + number), [A, B])
    tallies = Tallies(worker(ledger))
    tallies.update(ledger.assign(WEB, [A, B]))
    tallies.of(A).add(BYTES_IN)
    tallies.update(ledger.assign(WEB, [B]))
    assert len(list(written(ledger.block(0)))) == 1
    assert os.fstat(ledger.block(0)).st_blocks * 512 <= 2 * 4096


@pytest.mark.parametrize(("forgone", "kept"), [(False, [(WEB, A, 1, 0, 0)] * 3), (True, [])])
def test_what_nobody_will_take_is_not_kept_for_him(
    ledger: Ledger, forgone: bool, kept: list[tuple[Frontend, Backend | None, int, int, int]]
) -> None:
    if forgone:
        ledger.forgo()
    tallies = Tallies(worker(ledger))
    for _ in range(3):
        tallies.update(ledger.assign(WEB, [A]))
        tallies.of(A).add(CONNECTIONS)
        ledger.assign(WEB, [])
        ledger.settle()
    ledger.forget(WEB)
    ledger.settle()
    assert told(ledger) == kept
