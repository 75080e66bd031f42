"""A connection's life as a transcript: what happens, what is answered."""

from collections.abc import Container

import pytest

from svcnet.balance import RoundRobin
from svcnet.proxy.pool import LADDER_SECONDS
from svcnet.proxy.row import Backend
from svcnet.proxy.session import Act, Command, Session, Side
from svcnet.proxy.watch import ALONE, Unwatched, Watch

A, B, C = (Backend(f"192.0.2.{n}", 80) for n in (1, 2, 3))
GIVE_UP = Command(Act.RESET, Side.CLIENT)


def session(*backends: Backend, watch: Watch = ALONE) -> Session:
    picker: RoundRobin[Backend] = RoundRobin(lambda: 0.0)  # a retry goes to the first that is left
    picker.update(dict.fromkeys(backends, 1))
    return Session(picker.pick, watch)


def dial(backend: Backend, seconds: float = LADDER_SECONDS[0]) -> Command:
    return Command(Act.DIAL, Side.SERVER, backend, seconds)


def test_a_whole_life() -> None:
    one = session(A)
    assert one.begin() == dial(A)
    assert one.connected() == Command(Act.RELAY)
    assert one.finished(Side.CLIENT) == Command(Act.FINISH, Side.SERVER)
    assert one.finished(Side.CLIENT) == Command(Act.NOTHING)
    assert one.finished(Side.SERVER) == Command(Act.CLOSE)


def test_the_server_may_end_first() -> None:
    one = session(A)
    one.begin()
    one.connected()
    assert one.finished(Side.SERVER) == Command(Act.FINISH, Side.CLIENT)
    assert one.finished(Side.CLIENT) == Command(Act.CLOSE)


def test_refused_dials_go_on_at_once_each_to_another_without_climbing_the_ladder() -> None:
    one = session(A, B, C)
    assert one.begin() == dial(A)
    assert one.refused() == dial(B)
    assert one.refused() == dial(C)
    assert one.refused() == GIVE_UP


def test_silent_backends_cost_a_step_each() -> None:
    one = session(A, B, C)
    assert one.begin() == dial(A)
    assert one.timed_out() == dial(B, 0.5)
    assert one.refused() == dial(C, 0.5)
    assert one.timed_out() == dial(A, 1.0), "all were tried: a silent one again, not the one that refused"
    assert one.timed_out() == dial(C, 2.0)
    assert one.timed_out() == GIVE_UP


def test_a_single_silent_backend_is_tried_on_every_step() -> None:
    one = session(A)
    seen = [one.begin(), *(one.timed_out() for _ in LADDER_SECONDS)]
    assert seen == [*(dial(A, seconds) for seconds in LADDER_SECONDS), GIVE_UP]


def test_without_backends_the_client_is_reset() -> None:
    assert session().begin() == GIVE_UP


def test_a_client_that_leaves_early_ends_it() -> None:
    one = session(A)
    one.begin()
    assert one.client_lost() == Command(Act.CLOSE)
    assert one.broken(Side.CLIENT) == Command(Act.NOTHING)


@pytest.mark.parametrize("side", list(Side))
def test_a_reset_stays_a_reset(side: Side) -> None:
    one = session(A)
    one.begin()
    one.connected()
    assert one.broken(side) == Command(Act.RESET, side.other)
    assert one.broken(side.other) == Command(Act.NOTHING)
    assert one.finished(side.other) == Command(Act.NOTHING)


def test_a_reset_after_a_half_close_is_one_too() -> None:
    one = session(A)
    one.begin()
    one.connected()
    one.finished(Side.CLIENT)
    assert one.broken(Side.SERVER) == Command(Act.RESET, Side.CLIENT)


def test_backends_that_are_passed_over_are_told_to_the_picker() -> None:
    asked: list[Container[Backend]] = []

    def pick(without: Container[Backend]) -> Backend | None:
        asked.append(without)
        return next((b for b in (A, B) if b not in without), None)

    one = Session(pick)
    one.begin()
    one.refused()
    assert asked == [(), (A,)]


class Watched(Unwatched):
    """Notes what it is told, and allows so many further dials."""

    def __init__(self, allowed: int = 100, load: object = None) -> None:
        self.allowed = allowed
        self.load = load
        self.told: list[tuple[str, Backend]] = []
        self.alert = True

    def may_retry(self) -> bool:
        self.allowed -= 1
        return self.allowed >= 0

    def failed(self, backend: Backend) -> None:
        self.told.append(("failed", backend))

    def answered(self, backend: Backend) -> None:
        self.told.append(("answered", backend))

    def take(self, backend: Backend) -> None:
        self.told.append(("take", backend))

    def give(self, backend: Backend) -> None:
        self.told.append(("give", backend))


def hedge(backend: Backend, seconds: float = LADDER_SECONDS[0]) -> Command:
    return Command(Act.HEDGE, Side.SERVER, backend, seconds)


def test_the_ladder_is_the_service_s() -> None:
    watch = Watched()
    watch.ladder = (3.0, 4.0)
    one = session(A, B, watch=watch)
    assert [one.begin(), one.timed_out(), one.timed_out()] == [dial(A, 3.0), dial(B, 4.0), GIVE_UP]


def test_a_slow_dial_gets_a_rival_and_the_first_that_answers_is_it() -> None:
    for answer in ("connected", "rival_connected"):
        watch = Watched()
        one = session(A, B, C, watch=watch)
        one.begin()
        assert one.slow() == hedge(B)
        assert one.slow() == Command(Act.NOTHING), "there is one"
        assert getattr(one, answer)() == Command(Act.RELAY)
        winner = A if answer == "connected" else B
        assert (one.backend, one.rival) == (winner, None)
        assert watch.told == [("answered", winner)], "the other has not failed"
        assert one.slow() == Command(Act.NOTHING)


def test_where_there_is_no_other_a_slow_dial_has_no_rival() -> None:
    one = session(A)
    one.begin()
    assert one.slow() == Command(Act.NOTHING)
    assert one.timed_out() == dial(A, 0.5)


def test_a_dial_that_fails_leaves_its_place_to_the_rival() -> None:
    one = session(A, B, C)
    one.begin()
    one.slow()
    assert one.refused() == Command(Act.SWAP, Side.SERVER, B)
    assert one.slow() == hedge(C)
    assert one.timed_out() == Command(Act.SWAP, Side.SERVER, C)
    assert one.slow() == Command(Act.NOTHING), "A refused, B was silent"
    assert one.timed_out() == dial(B, 1.0), "B again: it may have been a lost packet"


def test_a_rival_that_fails_makes_room_for_the_next() -> None:
    watch = Watched()
    one = session(A, B, C, watch=watch)
    one.begin()
    one.slow()
    assert one.rival_refused() == Command(Act.DROP)
    assert one.slow() == hedge(C)
    assert one.rival_timed_out() == Command(Act.DROP)
    assert one.slow() == Command(Act.NOTHING)
    assert one.connected() == Command(Act.RELAY)
    assert watch.told == [("failed", B), ("failed", C), ("answered", A)]


def test_a_client_with_a_note_stays_with_whom_it_was_answered_by() -> None:
    watch = Watched()
    watch.is_sticky = True
    asked: list[Backend | None] = []

    def pick(without: Container[Backend]) -> Backend | None:
        asked.append(next((b for b in (A, B) if b not in without), None))
        return asked[-1]

    one = Session(pick, watch)
    one.begin()
    one.slow()
    one.connected()
    assert asked == [A, B, A]


def test_a_refused_dial_that_may_not_be_followed_by_another_ends_it() -> None:
    one = session(A, B, watch=Watched(allowed=0))
    one.begin()
    assert one.refused() == GIVE_UP


def test_a_silent_one_is_waited_for_as_long_as_the_ladder_takes_when_there_may_be_no_other() -> None:
    watch = Watched(allowed=1)
    one = session(A, B, C, watch=watch)
    one.begin()
    assert one.timed_out() == dial(B, 0.5)
    assert one.timed_out() == Command(Act.WAIT, Side.SERVER, B, 3.0)
    assert one.slow() == Command(Act.NOTHING)
    assert one.timed_out() == GIVE_UP


def test_all_that_is_taken_is_given_back_once() -> None:
    watch = Watched(load=())
    one = session(A, B, C, watch=watch)
    one.begin()
    one.slow()
    one.refused()
    one.slow()
    one.rival_connected()
    one.broken(Side.SERVER)
    one.leave()
    one.leave()
    for backend in (A, B, C):
        assert [what for what, who in watch.told if who == backend and what != "answered"] == (
            ["take", "failed", "give"] if backend == A else ["take", "give"]
        )
