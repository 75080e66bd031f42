"""Which of two serials is later (RFC 1982), and that who serves which is known around 0."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.dns.journal import later
from svcnet.dns.serials import Serials, block

HALF, ALL = 1 << 31, 1 << 32
serials = st.integers(0, ALL - 1)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 0, True),
        (0, 1, False),
        (0, ALL - 1, True),
        (ALL - 1, 0, False),
        (44, 0, True),
        (100, 44, True),
        (HALF - 1, 0, True),
        (0, HALF + 1, True),
        (HALF + 1, 0, False),
        (ALL + 1, ALL - 1, True),
        (ALL, 0, False),
    ],
)
def test_later_is_what_comes_within_half_of_all_serials(one: int, other: int, expected: bool) -> None:
    assert later(one, other) is expected


@given(serials)
def test_half_of_all_serials_away_neither_is_later(one: int) -> None:
    other = (one + HALF) % ALL
    assert not later(one, other)
    assert not later(other, one)


@given(serials, st.integers(1, HALF - 1))
def test_one_moves_on_by_less_than_half_and_is_later_and_the_other_is_not(one: int, by: int) -> None:
    assert later(one + by, one)
    assert not later(one, one + by)
    assert not later(one, one)


@pytest.mark.parametrize("serial", [1, 2, HALF, HALF + 1, ALL - 1])
def test_a_worker_that_serves_one_before_is_waited_for_also_over_the_wrap(serial: int) -> None:
    fd = block(2)
    try:
        first, second = Serials(fd, 0), Serials(fd, 1)
        first.set(serial)
        assert first.reached(serial), "the other serves nothing yet"
        second.before(serial)
        assert not first.reached(serial)
        second.set(serial)
        assert first.reached(serial)
    finally:
        os.close(fd)
