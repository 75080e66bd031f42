"""The judge of the packet table: it must not let a wrong row pass."""

import pytest

from tests.flows.flow import DROPPED, REFUSED, Arrival, Expectation, Seen, complaint, one_of, to

A, B = Arrival("pod-a:8080", "kept"), Arrival("pod-b:8080", "kept")


def seen(*verdicts: str, arrivals: dict[Arrival, float] | None = None, exact: bool = True) -> Seen:
    return Seen(frozenset(verdicts), arrivals or {}, exact)


def test_what_was_expected_is_no_complaint() -> None:
    assert complaint(REFUSED, seen("refused")) == ""
    assert complaint(DROPPED, seen("dropped")) == ""
    assert complaint(to("pod-a:8080*3", "pod-b:8080"), seen("answered", arrivals={A: 0.75, B: 0.25})) == ""


def test_a_client_that_stays_is_no_complaint() -> None:
    assert complaint(one_of("pod-a:8080", "pod-b:8080"), seen("answered", arrivals={B: 1.0}, exact=False)) == ""


def test_counted_shares_are_not_judged() -> None:
    assert complaint(to("pod-a:8080", "pod-b:8080"), seen("answered", arrivals={A: 0.9, B: 0.1}, exact=False)) == ""


@pytest.mark.parametrize(
    ("expected", "what", "words"),
    [
        (REFUSED, seen("dropped"), "expected refused; saw dropped"),
        (REFUSED, seen("refused", "dropped"), "expected refused; saw dropped and refused"),
        (
            to("pod-a:8080"),
            seen("answered", arrivals={B: 1.0}),
            "expected answered by pod-a:8080 (source kept); saw answered by pod-b:8080 (source kept)",
        ),
        (
            to("pod-a:8080", source="masqueraded"),
            seen("answered", arrivals={A: 1.0}),
            "expected answered by pod-a:8080 (source masqueraded); saw answered by pod-a:8080 (source kept)",
        ),
        (
            one_of("pod-a:8080", "pod-b:8080"),
            seen("answered", arrivals={A: 0.5, B: 0.5}, exact=False),
            f"expected one of {A}, {B}; saw answered by {A}, {B}",
        ),
        (
            to("pod-a:8080") | to("pod-b:8080"),
            seen("answered", arrivals={A: 1.0}),
            f"expected answered by {A}, {B}; saw answered by {A}",
        ),
        (
            to("pod-a:8080*3", "pod-b:8080"),
            seen("answered", arrivals={A: 0.5, B: 0.5}),
            "pod-a:8080 (source kept): expected a share of 3/4, saw 0.500",
        ),
    ],
)
def test_a_complaint_says_what_was_expected_and_what_was_seen(expected: Expectation, what: Seen, words: str) -> None:
    assert complaint(expected, what) == words
