"""The worker's loop: when something is called."""

import os
import select
import socket
from collections.abc import Iterator

import pytest

from svcnet.proxy.loop import BATCH, Loop, Timer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop(clock: Clock) -> Loop:
    return Loop(clock)


@pytest.fixture
def event() -> Iterator[int]:
    fd = os.eventfd(1, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_a_timer_set_by_a_handler_begins_after_the_sleep_before_it(loop: Loop, clock: Clock, event: int) -> None:
    fired: list[float] = []

    def handler(_events: int) -> None:
        loop.remove(event)
        loop.later(0.25, lambda: fired.append(clock.now))

    loop.add(event, handler, select.EPOLLIN)
    clock.now += 5.0
    loop.turn()
    assert not fired
    clock.now += 0.25
    loop.turn()
    assert fired == [1005.25]


def test_a_cancelled_timer_never_fires(loop: Loop, clock: Clock) -> None:
    loop.later(1.0, lambda: pytest.fail("it was cancelled")).cancel()
    clock.now += 2.0
    loop.turn()


def test_timers_fire_in_their_order_and_once(loop: Loop, clock: Clock) -> None:
    fired: list[str] = []
    loop.later(2.0, lambda: fired.append("second"))
    loop.later(1.0, lambda: fired.append("first"))
    clock.now += 3.0
    loop.again(lambda: None)  # nothing to wait for
    loop.turn()
    loop.again(lambda: None)
    loop.turn()
    assert fired == ["first", "second"]


@pytest.fixture
def many() -> Iterator[list[int]]:
    """More events at once than one batch takes."""
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(2 * BATCH + 1)]
    yield fds
    for fd in fds:
        os.close(fd)


def test_an_answer_that_is_there_comes_before_the_timer_of_its_dial_however_many_come_at_once(
    loop: Loop, clock: Clock, many: list[int]
) -> None:
    late: list[int] = []
    timers: dict[int, Timer] = {}
    for fd in many:
        timers[fd] = loop.later(0.25, lambda fd=fd: late.append(fd))  # type: ignore[misc]  # it takes no argument
        loop.add(fd, lambda _events, fd=fd: timers.pop(fd).cancel())  # type: ignore[misc]  # nor one more
    clock.now += 0.5  # a slow turn
    while timers and not late:
        loop.turn()
    assert not late


def test_events_that_never_cease_hold_no_timer_up(loop: Loop, clock: Clock, many: list[int]) -> None:
    fired: list[float] = []
    for fd in many:
        loop.add(fd, lambda _events: None, select.EPOLLIN)  # level-triggered, and never read
    loop.later(0.25, lambda: fired.append(clock.now))
    clock.now += 0.5
    for _ in range(4):
        loop.turn()
    assert fired == [1000.5]


def test_a_handler_removed_in_the_same_batch_is_not_called(loop: Loop) -> None:
    fds = [os.eventfd(1) for _ in range(2)]
    called: list[int] = []
    try:
        for fd, other in zip(fds, reversed(fds), strict=True):

            def handler(_events: int, fd: int = fd, other: int = other) -> None:
                called.append(fd)
                loop.remove(other)

            loop.add(fd, handler, select.EPOLLIN)
        loop.turn()
        assert len(called) == 1
    finally:
        for fd in fds:
            os.close(fd)


def test_a_number_means_another_socket_only_when_the_events_at_hand_are_through(loop: Loop, event: int) -> None:
    one, other = socket.socketpair()
    with one, other:
        number = one.fileno()
        numbers: list[int] = []

        def handler(_events: int) -> None:
            loop.remove(event)
            loop.bury(one)
            with socket.socket() as fresh:
                numbers.append(fresh.fileno())

        loop.add(number, lambda _events: None)
        loop.add(event, handler, select.EPOLLIN)
        loop.turn()
        assert numbers != [number]
        assert one.fileno() == -1
