"""Who gets the next connection."""

import random
from collections import Counter

import pytest

from svcnet.balance import RoundRobin


def robin(**weights: int) -> RoundRobin[str]:
    made: RoundRobin[str] = RoundRobin(random.Random(7).random)
    made.update(weights)
    return made


def turns(picker: RoundRobin[str], number: int) -> str:
    return "".join(picker.pick() or "-" for _ in range(number))


def test_equal_weights_go_round() -> None:
    assert turns(robin(a=1, b=1, c=1), 9) == "abcabcabc"


def test_weights_are_shares_and_no_one_gets_all_turns_in_a_row() -> None:
    seen = turns(robin(a=3, b=1), 400)
    assert Counter(seen) == {"a": 300, "b": 100}
    assert "aaaa" not in seen
    assert "bb" not in seen


def test_an_update_keeps_whose_turn_it_is() -> None:
    picker = robin(a=1, b=1, c=1)
    assert turns(picker, 1) == "a"
    picker.update({"a": 1, "b": 1, "c": 1, "d": 1})
    assert turns(picker, 8) == "bcadbcad"
    picker.update({"a": 1, "c": 1, "d": 1})
    assert turns(picker, 6) == "cadcad"


def test_one_that_comes_after_long_gets_no_herd() -> None:
    picker = robin(a=1, b=1)
    turns(picker, 1001)
    picker.update({"a": 1, "b": 1, "c": 1})
    assert Counter(turns(picker, 300)) == {"a": 100, "b": 100, "c": 100}


def test_a_retry_is_nobody_s_turn() -> None:
    picker = robin(a=1, b=1, c=1)
    assert turns(picker, 1) == "a"
    assert picker.pick({"a"}) in {"b", "c"}
    assert turns(picker, 3) == "bca"


@pytest.mark.parametrize("number", [2, 3, 5])
def test_one_that_always_fails_is_tried_in_its_turn_alone_and_the_others_stand_in_for_it_alike(number: int) -> None:
    live = "bcdef"[: number - 1]
    picker = robin(a=1, **dict.fromkeys(live, 1))
    first, answered = Counter[str | None](), Counter[str | None]()
    for _ in range(600 * number):
        picked = picker.pick()
        first[picked] += 1
        answered[picker.pick({"a"}) if picked == "a" else picked] += 1
    assert first == dict.fromkeys("a" + live, 600)
    assert answered.keys() == set(live)
    for key in live:
        assert answered[key] == pytest.approx(600 * number / len(live), rel=0.1)


def test_nobody_is_left() -> None:
    assert robin().pick() is None
    assert robin(a=0).pick() is None
    assert robin(a=1).pick({"a"}) is None
