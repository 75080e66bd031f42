"""Who gets the next connection."""

from collections import Counter

from svcnet.balance import RoundRobin


def robin(**weights: int) -> RoundRobin[str]:
    made: RoundRobin[str] = RoundRobin()
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


def test_those_passed_over_keep_their_turn() -> None:
    picker = robin(a=1, b=1, c=1)
    assert picker.pick({"a"}) == "b"
    assert turns(picker, 2) == "ac"


def test_nobody_is_left() -> None:
    assert robin().pick() is None
    assert robin(a=0).pick() is None
    assert robin(a=1).pick({"a"}) is None
