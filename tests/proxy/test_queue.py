"""Limits of connections to one endpoint: who waits, whose turn it is; as transcripts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.model.terms import Eject, EndpointLimit, Terms
from svcnet.proxy.notes import Room
from svcnet.proxy.pool import LADDER_SECONDS, Pool
from svcnet.proxy.row import Backend, Choice, Rule, Service
from svcnet.proxy.session import Act, Command, Session, Side
from svcnet.proxy.why import Why
from tests.harness.time import Time

A, B, C = BACKENDS = [Backend(f"192.0.2.{n}", 80) for n in (1, 2, 3)]
QUEUE = Command(Act.QUEUE, Side.SERVER, None, 5.0)
ONE = Terms(endpoint_limit=EndpointLimit(1))


class Talk:
    """Sessions of one pool; what a shell would do with those that wait is noted in `woken`."""

    def __init__(self, *backends: Backend, choice: Choice = Choice.TURN, terms: Terms = ONE) -> None:
        self.time = Time()
        self.choice = choice
        self.pool = Pool("web", Room(), self.time, random.Random(7).random)
        self.lead(*backends, terms=terms)
        self.woken: list[tuple[str, Command]] = []

    def lead(self, *backends: Backend, terms: Terms = ONE) -> None:
        self.pool.update(Service("web", dict.fromkeys(backends, 1), choice=self.choice, terms=terms))

    def come(self, client: str = "198.51.100.7") -> tuple[Session, Command]:
        """A client came."""
        scope = self.pool.scopes[False]
        pick = (lambda without: self.pool.pick(client, 0.0, without)) if self.pool.is_personal else scope.pick
        one = Session(pick, self.pool)
        return one, self.wake(client, one, one.begin())

    def wake(self, client: str, one: Session, command: Command) -> Command:
        """Once its ticket is called, if it has one."""
        if one.ticket is not None:
            one.ticket.call = lambda: self._seat(client, one)
        return command

    def _seat(self, client: str, one: Session) -> bool:
        command = self.wake(client, one, one.seated())
        if command.act is not Act.NOTHING:
            self.woken.append((client, command))
        return command.act is not Act.NOTHING

    def go(self, seconds: float = 0.0) -> list[tuple[str, Command]]:
        """Who was woken by what happened."""
        self.time.go(seconds)
        woken, self.woken = self.woken, []
        return woken


def dial(backend: Backend, seconds: float = LADDER_SECONDS[0]) -> Command:
    return Command(Act.DIAL, Side.SERVER, backend, seconds)


def test_one_that_is_full_is_passed_over_and_when_all_are_clients_wait_in_their_order() -> None:
    talk = Talk(A, B)
    (first, _), (second, _) = talk.come(), talk.come()
    assert {first.backend, second.backend} == {A, B}
    assert [talk.come(name)[1] for name in ("x", "y")] == [QUEUE, QUEUE]
    first.leave()
    first.leave()
    assert first.backend is not None
    assert talk.go() == [("x", dial(first.backend))]
    second.leave()
    assert second.backend is not None
    assert talk.go() == [("y", dial(second.backend))]


def test_who_comes_while_another_is_about_to_be_called_is_not_faster() -> None:
    talk = Talk(A)
    first, _ = talk.come()
    talk.come("waits")
    first.leave()
    assert talk.come("comes")[1] == QUEUE
    assert talk.go() == [("waits", dial(A))]


def test_who_leaves_the_line_leaves_his_place_to_the_next() -> None:
    talk = Talk(A)
    first, _ = talk.come()
    gone, _ = talk.come("gone")
    talk.come("next")
    assert gone.client_lost() == Command(Act.CLOSE)
    gone.leave()
    first.leave()
    assert talk.go() == [("next", dial(A))]


def test_a_line_that_is_full_or_takes_too_long_ends_in_a_reset_that_says_which() -> None:
    talk = Talk(A, terms=Terms(endpoint_limit=EndpointLimit(1, queue=1, seconds=0.5)))
    talk.come()
    waits, command = talk.come()
    assert command == Command(Act.QUEUE, Side.SERVER, None, 0.5)
    late, command = talk.come()
    assert (command, late.why) == (Command(Act.RESET, Side.CLIENT), Why.QUEUE_FULL)
    assert (waits.waited(), waits.why) == (Command(Act.RESET, Side.CLIENT), Why.QUEUE_TIMEOUT)
    waits.leave()
    assert talk.come()[1].act is Act.QUEUE, "there is a place in the line again"


def test_without_a_line_nobody_waits() -> None:
    talk = Talk(A, terms=Terms(endpoint_limit=EndpointLimit(1, queue=0)))
    talk.come()
    assert talk.come()[1] == Command(Act.RESET, Side.CLIENT)


def test_a_retry_waits_for_one_that_it_has_not_tried_rather_than_to_be_reset() -> None:
    talk = Talk(A, B)
    holder, _ = talk.come()
    failing, command = talk.come("failing")
    assert command.backend not in {None, holder.backend}
    assert talk.wake("failing", failing, failing.refused()) == QUEUE
    assert failing.slow() == Command(Act.NOTHING)
    other, command = talk.come("other")
    assert command.act is Act.DIAL, "the one that refused has room, which is not for the one that waits"
    other.leave()
    assert talk.go() == []
    holder.leave()
    assert holder.backend is not None
    assert talk.go() == [("failing", dial(holder.backend))]


def test_one_who_cannot_have_what_is_free_holds_up_nobody_behind_him() -> None:
    talk = Talk(A, B)
    holder, _ = talk.come()
    failing, _ = talk.come("failing")
    free = failing.backend
    talk.wake("failing", failing, failing.refused())
    other, _ = talk.come()
    talk.come("behind")
    other.leave()
    assert free is not None
    assert talk.go() == [("behind", dial(free))]
    assert holder.backend != free


def test_of_hundreds_who_have_tried_the_same_one_who_finds_nobody_is_asked_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = Talk(A, B, terms=ONE._replace(eject=None))
    holder, _ = talk.come()
    if holder.backend == A:
        talk.wake("", holder, holder.refused())
    for number in range(200):
        talk.pool.answered(B)  # which pays for a retry
        one, command = talk.come(str(number))
        assert command == dial(A), "which refuses everybody"
        assert talk.wake(str(number), one, one.refused()) == QUEUE
        talk.go()
    asked: list[Session] = []
    seated = Session.seated

    def ask(one: Session) -> Command:
        asked.append(one)
        return seated(one)

    monkeypatch.setattr(Session, "seated", ask)
    holder.leave()
    assert talk.go() == [("0", dial(B))]
    assert len(asked) == 2


def test_an_endpoint_that_is_out_is_no_way_around_a_line() -> None:
    talk = Talk(A, B, terms=Terms(endpoint_limit=EndpointLimit(1), eject=Eject(failures=1, base_seconds=3.0)))
    talk.pool.failed(A)
    assert talk.come()[1] == dial(B)
    assert talk.come("waits")[1] == QUEUE
    assert talk.go(1.0) == []
    assert talk.go(2.0) == [("waits", dial(A))]


def test_a_client_that_belongs_to_an_endpoint_waits_for_that_and_goes_elsewhere_only_when_the_line_is_full() -> None:
    talk = Talk(A, B, choice=Choice.HASH, terms=Terms(endpoint_limit=EndpointLimit(1, queue=1)))
    first, command = talk.come()
    assert talk.come("198.51.100.7")[1].act is Act.QUEUE
    third, elsewhere = talk.come("198.51.100.7")
    assert {command.backend, elsewhere.backend} == {A, B}
    third.leave()
    assert talk.go() == []
    first.leave()
    assert talk.go() == [("198.51.100.7", command)]


def test_who_waits_for_an_endpoint_that_goes_waits_on_for_the_one_where_he_belongs_then() -> None:
    talk = Talk(A, B, choice=Choice.HASH)
    addresses = [f"198.51.100.{number}" for number in range(32)]
    at_a = [address for address in addresses if talk.pool.pick(address, 0.0) == A]
    at_b = next(address for address in addresses if talk.pool.pick(address, 0.0) == B)
    talk.come(at_a[0])
    holder, _ = talk.come(at_b)
    for address in at_a[1:3]:
        assert talk.come(address)[1] == QUEUE
    talk.lead(B)
    assert talk.go() == [(address, QUEUE) for address in at_a[1:3]], "B is full"
    holder.leave()
    assert talk.go() == [(at_a[1], dial(B))]


def test_a_rival_is_dialled_only_where_there_is_room() -> None:
    talk = Talk(A, B, terms=ONE._replace(hedge_seconds=0.05))
    slow, _ = talk.come()
    other, _ = talk.come()
    assert slow.slow() == Command(Act.NOTHING)
    other.leave()
    assert slow.slow().act is Act.HEDGE
    assert talk.come()[1] == QUEUE, "both its dials count"
    slow.connected()
    assert talk.come()[1].act in {Act.QUEUE, Act.DIAL}


@pytest.mark.parametrize(
    ("backends", "terms"), [((A, B), ONE), ((A,), Terms(endpoint_limit=EndpointLimit(2)))], ids=["endpoint", "limit"]
)
def test_one_endpoint_more_or_a_higher_limit_lets_in_who_waits_and_no_limit_lets_in_all(
    backends: tuple[Backend, ...], terms: Terms
) -> None:
    talk = Talk(A)
    for name in "abc":
        talk.come(name)
    talk.lead(*backends, terms=terms)
    assert [name for name, _ in talk.go()] == ["b"]
    talk.lead(*backends, terms=Terms())
    assert talk.come("new")[1].act is Act.DIAL
    assert [name for name, _ in talk.go()] == ["c"]


def test_hundreds_who_may_come_at_once_come_bit_by_bit_and_nobody_overtakes_them() -> None:
    talk = Talk(A)
    talk.come()
    for number in range(200):
        talk.come(str(number))
    talk.lead(A, terms=Terms(endpoint_limit=EndpointLimit(201)))
    woken = talk.go()
    assert talk.come("late")[1].act in {Act.QUEUE, Act.RESET}
    while more := talk.go():
        woken += more
    assert [name for name, _ in woken] == [str(number) for number in range(200)]


def test_when_no_endpoint_is_left_who_waits_is_reset() -> None:
    talk = Talk(A)
    talk.come()
    talk.come("waits")
    talk.lead()
    assert talk.go() == [("waits", Command(Act.RESET, Side.CLIENT))]


@pytest.mark.parametrize("choice", list(Choice))
@given(st.lists(st.tuples(st.sampled_from(["come", "end", "fail", "leave", "turn"]), st.integers(0, 30))))
def test_never_more_than_may_be_and_nobody_waits_while_there_is_room(
    choice: Choice, events: list[tuple[str, int]]
) -> None:
    talk = Talk(A, B, choice=choice, terms=Terms(endpoint_limit=EndpointLimit(2, queue=3), eject=None))
    there: list[Session] = []
    for what, number in events:
        if what == "come":
            one, command = talk.come(f"198.51.100.{number}")
            if command.act in {Act.DIAL, Act.QUEUE}:
                there.append(one)
        elif what == "turn":
            talk.go()
        elif there:
            one = there[number % len(there)]
            if what == "fail" and one.ticket is None:
                if talk.wake("retry", one, one.refused()).act is Act.RESET:
                    one.leave()
                    there.remove(one)
            elif (what == "leave") == (one.ticket is not None):
                one.leave()
                there.remove(one)
        load = talk.pool.load
        assert load is not None
        assert all(number <= 2 for number in load.values())
        assert sum(one.ticket is not None for one in there) <= 3
    talk.go()
    talk.go()
    load = talk.pool.load or {}
    for one in there:
        if one.ticket is not None and not one.ticket.tried:
            full = {backend for backend, number in load.items() if number == 2}
            assert (one.ticket.line in full) if talk.pool.is_personal else (full == {A, B})
    for one in [one for one in there if one.ticket is None]:
        one.leave()
    for _ in there:
        talk.go()
        for one in there:
            if one.ticket is None:
                one.leave()
    assert not talk.pool.load, "all were given back"


@pytest.mark.parametrize(
    ("most", "queue", "workers", "shares"),
    [(4, 8, 2, [(2, 4)] * 2), (5, 0, 2, [(3, 0), (2, 0)]), (1, 1, 3, [(1, 1)] * 3)],
)
def test_every_worker_has_its_share(most: int, queue: int, workers: int, shares: list[tuple[int, int]]) -> None:
    rule = Rule(Service("web", {}, terms=Terms(endpoint_limit=EndpointLimit(most, queue))))
    told = [Rule.decoded(rule.share(number, workers).encoded()).service.terms for number in range(workers)]
    limits = [terms.endpoint_limit for terms in told]
    assert [(limit.connections, limit.queue) for limit in limits if limit is not None] == shares
