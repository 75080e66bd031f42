"""When `svcnet exec` acts on changed variables: tables over time, no process."""

import pytest

from svcnet.run import LONGEST_SECONDS, SETTLE_SECONDS, Following, OnChange, exit_code

OLD = {"TOMCAT_SERVICE_HOST": "10.0.0.5", "TOMCAT_SERVICE_PORT": "8080"}
NEW = OLD | {"TOMCAT_SERVICE_PORT": "8081"}


def started(on_change: OnChange = "restart") -> Following:
    following = Following(on_change)
    following.see(OLD, 0.0)
    following.tell()
    return following


def test_what_the_child_was_started_with_is_no_change() -> None:
    following = started()
    assert following.due() is None
    following.see(dict(OLD), 1.0)
    assert following.due() is None


def test_a_change_is_acted_on_once_it_settled() -> None:
    following = started()
    following.see(NEW, 1.0)
    assert following.due() == 1.0 + SETTLE_SECONDS
    assert following.tell() == NEW
    assert following.due() is None


def test_every_further_change_begins_the_settle_time_anew_and_the_same_again_does_not() -> None:
    following = started()
    following.see(NEW, 1.0)
    following.see(NEW | {"A": "1"}, 1.05)
    following.see(NEW | {"A": "1"}, 1.09)
    assert following.due() == 1.05 + SETTLE_SECONDS


def test_a_burst_that_does_not_end_is_acted_on_in_the_longest_time() -> None:
    following = started()
    now = 1.0
    while (due := following.due()) is None or due > now:
        assert now <= 1.0 + LONGEST_SECONDS
        following.see(OLD | {"N": str(now)}, now)
        now += SETTLE_SECONDS / 2
    assert due == 1.0 + LONGEST_SECONDS


def test_what_is_undone_within_the_settle_time_was_nothing() -> None:
    following = started()
    following.see({}, 1.0)
    following.see(OLD, 1.05)
    assert following.due() is None
    following.see(NEW, 9.0)
    assert following.due() == 9.0 + SETTLE_SECONDS, "the longest time begins with the change that stays"


def test_a_child_that_wants_to_know_nothing_is_never_due() -> None:
    following = started("none")
    following.see(NEW, 1.0)
    assert following.due() is None


def test_differences_are_named_by_what_happened_to_them() -> None:
    following = started()
    following.see({"TOMCAT_SERVICE_PORT": "1", "A": "2"}, 1.0)
    assert following.differences() == "+A -TOMCAT_SERVICE_HOST ~TOMCAT_SERVICE_PORT"


@pytest.mark.parametrize(("code", "ours"), [(0, 0), (7, 7), (-9, 137), (-15, 143)])
def test_exit_codes_are_those_of_a_shell(code: int, ours: int) -> None:
    assert exit_code(code) == ours
