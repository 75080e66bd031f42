"""Which backends are left alone, by the values alone: failed dials in, who is out comes back."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from svcnet.model.terms import Eject
from svcnet.proxy.outliers import Outliers
from svcnet.proxy.row import Backend

A, B, C, D = BACKENDS = [Backend(f"192.0.2.{n}", 80) for n in range(4)]
TERMS = Eject(failures=3, base_seconds=5.0, most_seconds=20.0, share=50)


def outliers(*backends: Backend, terms: Eject | None = TERMS) -> Outliers:
    made = Outliers()
    made.update(terms, frozenset(backends))
    return made


def fail(one: Outliers, backend: Backend, times: int = 3, now: float = 0.0) -> Sequence[float | None]:
    return [one.failed(backend, now) for _ in range(times)]


def test_so_many_failures_in_a_row_and_it_is_out_until_its_time_is_over() -> None:
    one = outliers(A, B)
    assert fail(one, A) == [None, None, 5.0]
    assert one.out == {A}
    one.look(4.9)
    assert one.out == {A}
    one.look(5.0)
    assert one.out == set()


def test_an_answer_between_makes_the_count_begin_anew() -> None:
    one = outliers(A, B)
    fail(one, A, 2)
    one.answered(A)
    assert fail(one, A) == [None, None, 5.0]


def test_back_without_an_answer_one_failure_is_enough_and_each_time_lasts_twice_as_long_up_to_the_most() -> None:
    one = outliers(A, B)
    now, times = 0.0, fail(one, A)[-1:]
    for _ in range(3):
        now += times[-1] or 0
        one.look(now)
        times = [*times, one.failed(A, now)]
    assert times == [5.0, 10.0, 20.0, 20.0]


def test_the_times_that_it_was_out_are_forgotten_one_by_one() -> None:
    one = outliers(A, B)
    fail(one, A)
    one.look(5.0)
    assert one.failed(A, 5.0) == 10.0
    one.look(15.0)
    one.answered(A)
    assert fail(one, A, now=20.0)[-1] == 10.0, "one base ago: once is forgotten of two"
    one.look(30.0)
    one.answered(A)
    assert fail(one, A, now=100.0)[-1] == 5.0


def test_failures_that_come_while_it_is_out_change_nothing_nor_do_answers() -> None:
    one = outliers(A, B)
    fail(one, A)
    assert fail(one, A, 5) == [None] * 5
    one.answered(A)
    assert one.out == {A}


def test_when_too_many_fail_nobody_is_out_until_one_of_them_answers() -> None:
    one = outliers(A, B, C, D)
    for backend in (A, B):
        fail(one, backend)
    assert one.out == {A, B}
    fail(one, C)
    assert one.is_panic
    assert one.out == set()
    one.answered(C)
    assert one.out == {A, B}


def test_the_only_one_is_never_out() -> None:
    one = outliers(A)
    fail(one, A, 10)
    assert one.out == set()


def test_off_means_never_and_those_who_are_out_are_back() -> None:
    one = outliers(A, B)
    fail(one, A)
    one.update(None, frozenset({A, B}))
    assert one.out == set()
    assert fail(one, A, 10) == [None] * 10


def test_who_goes_and_comes_again_begins_anew() -> None:
    one = outliers(A, B)
    fail(one, A)
    one.update(TERMS, frozenset({B, C}))
    assert one.out == set()
    one.update(TERMS, frozenset({A, B}))
    assert fail(one, A) == [None, None, 5.0]


@given(
    st.integers(0, 100),
    st.lists(st.tuples(st.sampled_from(["failed", "answered", "look"]), st.sampled_from(BACKENDS), st.floats(0, 30))),
)
def test_never_more_than_the_share_is_out_whatever_happens(
    share: int, events: list[tuple[str, Backend, float]]
) -> None:
    one, now = outliers(*BACKENDS, terms=TERMS._replace(share=share, failures=2)), 0.0
    for what, backend, seconds in events:
        now += seconds if what == "look" else 0.0
        match what:
            case "failed":
                one.failed(backend, now)
            case "answered":
                one.answered(backend)
            case _:
                one.look(now)
        assert len(one.out) * 100 <= share * len(BACKENDS)
    one.look(now + TERMS.most_seconds)
    assert one.out == set()
