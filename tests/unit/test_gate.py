"""How many connections a service may have, and how many a second, by the values alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.proxy.gate import BURST_SECONDS, Gate
from tests.harness.time import Time


class Queue:
    """Clients that come, one after another, to one that accepts as long as it may."""

    def __init__(self, time: Time, rate: int, most: int = 0) -> None:
        self.gate = Gate(time)
        self.gate.limit(most, rate)
        self.length = self.accepted = self.stops = 0
        self._rests = False

    def come(self, number: int) -> None:
        self.length += number
        if not self._rests:
            self._accept()

    def _accept(self) -> None:
        self._rests = False
        while self.length:
            if self.gate.is_full:
                self._rests = True
                self.stops += 1
                self.gate.wait(self._accept)
                return
            self.length -= 1
            self.accepted += 1
            self.gate.come()


@pytest.mark.parametrize("rate", [1, 7, 100, 5000])
def test_a_crowd_is_let_in_at_the_rate_and_in_few_steps(rate: int) -> None:
    time = Time()
    queue = Queue(time, rate)
    queue.come(100 * rate)
    assert queue.accepted == max(1, rate * BURST_SECONDS)
    time.go(10)
    assert queue.accepted == pytest.approx(10 * rate + max(1, rate * BURST_SECONDS), abs=rate * BURST_SECONDS + 1)
    assert queue.stops <= min(10 * rate, 2 * 10 / BURST_SECONDS) + 2


def test_who_comes_slowly_never_waits_and_quiet_times_save_no_crowd() -> None:
    time = Time()
    queue = Queue(time, 10)
    for _ in range(50):
        queue.come(1)
        time.go(0.11)
    assert (queue.accepted, queue.stops) == (50, 0)
    time.go(3600)
    queue.come(100)
    assert queue.accepted == 51


def test_those_who_are_there_when_the_limits_come_count_as_many_and_not_as_new() -> None:
    time = Time()
    gate = Gate(time)
    gate.limit(10, 5)
    for _ in range(9):
        gate.enter()
    assert not gate.is_full
    gate.come()
    assert gate.is_full


def test_both_limits_hold_and_one_that_goes_leaves_the_other() -> None:
    time = Time()
    queue = Queue(time, 1000, most=3)
    queue.come(10)
    assert queue.accepted == 3
    time.go(60)
    assert queue.accepted == 3
    queue.gate.limit(0, 1)
    assert queue.accepted == 4
    time.go(1.5)
    assert queue.accepted == 5
    queue.gate.limit(0, 0)
    assert queue.accepted == 10


@given(st.integers(1, 1000), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50)), max_size=50))
def test_in_no_time_more_come_than_the_rate_and_a_burst_and_nobody_is_forgotten(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    time = Time()
    queue = Queue(time, rate)
    for seconds, number in steps:
        queue.come(number)
        time.go(seconds)
        assert queue.accepted <= time.now * rate + max(1, rate * BURST_SECONDS) + 1e-6
    time.go(queue.length / rate + 2)
    assert not queue.length
