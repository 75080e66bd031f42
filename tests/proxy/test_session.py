"""A connection's life as a transcript: what happens, what is answered."""

from collections.abc import Container

import pytest

from svcnet.balance import RoundRobin
from svcnet.proxy.row import Backend
from svcnet.proxy.session import LADDER_SECONDS, Act, Command, Session, Side

A, B, C = (Backend(f"192.0.2.{n}", 80) for n in (1, 2, 3))
GIVE_UP = Command(Act.RESET, Side.CLIENT)


def session(*backends: Backend) -> Session:
    picker: RoundRobin[Backend] = RoundRobin()
    picker.update(dict.fromkeys(backends, 1))
    return Session(picker.pick)


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
