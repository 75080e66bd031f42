"""Who gets how much of a pool: by lot, by load, by turn; on the way back; while some are out."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svcnet.balance import Chance, LeastLoaded
from svcnet.model.terms import Eject, Terms
from svcnet.proxy.notes import Room
from svcnet.proxy.pool import Pool
from svcnet.proxy.row import Backend, Choice, Service, Weights
from tests.harness.time import Time

A, B, C, D = BACKENDS = [Backend(f"192.0.2.{n}", 80) for n in range(4)]
CLIENT = "198.51.100.7"
EVEN: Weights = dict.fromkeys(BACKENDS, 1)
SEEDS = st.integers(0, 1 << 32)
PLAIN = [Choice.TURN, Choice.CHANCE, Choice.LEAST]


def pool(weights: Weights, choice: Choice = Choice.TURN, terms: Terms | None = None) -> tuple[Pool, Time]:
    time = Time()
    made = Pool("web", Room(), time, random.Random(7).random)
    made.update(Service("web", weights, {}, choice, terms=terms or Terms()))
    return made, time


def taken(made: Pool, number: int) -> Counter[Backend | None]:
    return Counter(made.pick(CLIENT, 0.0) for _ in range(number))


def eject(made: Pool, backend: Backend) -> None:
    for _ in range(3):
        made.failed(backend)


@given(st.dictionaries(st.integers(0, 20), st.integers(1, 256), min_size=1), SEEDS)
@settings(max_examples=30)
def test_by_lot_each_gets_as_much_as_it_weighs(weights: dict[int, int], seed: int) -> None:
    one: Chance[int] = Chance(random.Random(seed).random)
    one.update(weights)
    got = Counter(one.pick() for _ in range(4000))
    for key, weight in weights.items():
        assert got[key] / 4000 == pytest.approx(weight / sum(weights.values()), abs=0.05)


@given(st.dictionaries(st.integers(0, 20), st.integers(1, 256)), st.sets(st.integers(0, 20)), st.booleans())
def test_who_is_passed_over_is_never_picked_and_somebody_else_is_if_there_is_one(
    weights: dict[int, int], without: set[int], by_load: bool
) -> None:
    chance = random.Random(1).random
    one: Chance[int] | LeastLoaded[int] = LeastLoaded(chance, {}) if by_load else Chance(chance)
    one.update(weights)
    left = weights.keys() - without
    for _ in range(20):
        picked = one.pick(without)
        assert picked in left if left else picked is None


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 16), min_size=2), SEEDS)
@settings(max_examples=30)
def test_by_load_connections_that_stay_open_are_shared_out_by_weight(weights: dict[int, int], seed: int) -> None:
    load: Counter[int] = Counter()
    one: LeastLoaded[int] = LeastLoaded(random.Random(seed).random, load)
    one.update(weights)
    for _ in range(2000):
        picked = one.pick()
        assert picked is not None
        load[picked] += 1
    for key, weight in weights.items():
        assert load[key] == pytest.approx(2000 * weight / sum(weights.values()), rel=0.1, abs=12)


def test_by_load_one_that_is_slow_to_end_its_connections_gets_few_more() -> None:
    made, _ = pool(EVEN, Choice.LEAST)
    open_here: Counter[Backend] = Counter()
    for _ in range(1000):
        picked = made.pick(CLIENT, 0.0)
        assert picked is not None
        open_here[picked] += 1
        made.take(picked)
        if picked != A:
            made.give(picked)
    assert open_here[A] < 10


@pytest.mark.parametrize("choice", list(Choice))
def test_who_is_out_gets_nothing_until_its_time_is_over(choice: Choice) -> None:
    made, time = pool({A: 1, B: 1}, choice)
    clients = [f"198.51.100.{n}" for n in range(100)]
    before = Counter(made.pick(client, 0.0) for client in clients)
    assert before.keys() == {A, B}
    eject(made, A)
    assert {made.pick(client, 1.0) for client in clients} == {B}
    time.go(5.0)
    after = Counter(made.pick(client, 6.0) for client in clients)
    if choice is Choice.AFFINITY:
        assert after.keys() == {B}, "they stay where they were answered"
    else:
        assert after.keys() == {A, B}


@pytest.mark.parametrize("choice", list(Choice))
def test_when_all_others_failed_one_that_is_out_is_tried_before_the_client_is_reset(choice: Choice) -> None:
    made, _ = pool({A: 1, B: 1}, choice)
    eject(made, A)
    assert made.pick(CLIENT, 0.0, (B,)) == A
    assert made.pick(CLIENT, 0.0, (A, B)) is None


def test_of_the_minion_s_own_backends_one_that_is_out_is_left_alone_and_nobody_elsewhere_is_tried() -> None:
    made = Pool("web", Room(), Time())
    made.update(Service("web", EVEN, {A: 1, B: 1}))
    eject(made, A)
    assert {made.pick(CLIENT, 0.0, local=True) for _ in range(5)} == {B}
    assert made.pick(CLIENT, 0.0, (B,), local=True) == A
    assert made.pick(CLIENT, 0.0, (A, B), local=True) is None


def test_source_hash_moves_the_clients_of_who_is_out_alone_and_they_come_back() -> None:
    made, time = pool(EVEN, Choice.HASH)
    clients = [f"198.51.100.{n}" for n in range(200)]
    before = {client: made.pick(client, 0.0) for client in clients}
    eject(made, A)
    during = {client: made.pick(client, 1.0) for client in clients}
    assert {c for c in clients if during[c] != before[c]} == {c for c in clients if before[c] == A}
    assert {during[c] for c in clients if before[c] == A} == {B, C, D}
    time.go(5.0)
    assert {client: made.pick(client, 6.0) for client in clients} == before


@pytest.mark.parametrize("choice", PLAIN)
def test_without_slow_start_who_is_new_has_its_share_at_once(choice: Choice) -> None:
    made, _ = pool({A: 1, B: 1, C: 1}, choice)
    made.update(Service("web", EVEN, {}, choice))
    assert taken(made, 4000)[D] == pytest.approx(1000, rel=0.15)


@pytest.mark.parametrize("choice", [Choice.TURN, Choice.CHANCE])
def test_slow_start_gives_who_is_new_its_share_bit_by_bit(choice: Choice) -> None:
    terms = Terms(slow_start_seconds=10.0)
    made, time = pool({A: 1, B: 1, C: 1}, choice, terms)
    assert taken(made, 3000)[A] == pytest.approx(1000, rel=0.15), "the first ones come together"
    made.update(Service("web", EVEN, {}, choice, terms=terms))
    shares = []
    for _ in range(11):
        shares.append(taken(made, 4000)[D])
        time.go(1.0)
    wanted = [4000 * tenths / (30 + tenths) for tenths in (*range(1, 11), 10)]
    assert shares == pytest.approx(wanted, rel=0.25)


def test_slow_start_is_for_who_was_out_too_and_not_for_all_at_once() -> None:
    terms = Terms(slow_start_seconds=10.0, eject=Eject(base_seconds=5.0, share=50))
    made, time = pool({A: 1, B: 1}, terms=terms)
    eject(made, A)
    time.go(5.0)
    assert taken(made, 1100)[A] == pytest.approx(100, abs=3)
    time.go(10.0)
    assert taken(made, 1000)[A] == pytest.approx(500, abs=3)
    eject(made, A)
    eject(made, B)
    assert taken(made, 1000)[A] == pytest.approx(500, abs=3), "panic: all are used"


@given(st.dictionaries(st.sampled_from(BACKENDS), st.integers(1, 5), min_size=1), st.lists(st.sampled_from(BACKENDS)))
def test_turns_go_on_by_weight_whoever_goes_out_and_comes_back(
    weights: dict[Backend, int], failing: list[Backend]
) -> None:
    made, time = pool(weights)
    for backend in failing:
        eject(made, backend)
        made.pick(CLIENT, 0.0)
        time.go(3.0)
    time.go(1000.0)
    total = sum(weights.values())
    taken(made, total)
    assert taken(made, 6 * total) == pytest.approx({b: 6 * w for b, w in weights.items()}, abs=1)


def test_retries_cease_where_nobody_answers_and_go_on_where_somebody_does() -> None:
    made, time = pool(EVEN)
    assert sum(made.may_retry() for _ in range(1000)) == 100
    time.go(1.0)
    assert sum(made.may_retry() for _ in range(1000)) == 10
    for _ in range(1000):
        made.answered(A)
        assert made.may_retry()
        assert made.may_retry()
    assert made.alert


def test_in_quiet_times_an_answer_is_not_asked_for() -> None:
    made, _ = pool(EVEN)
    assert not made.alert
    made.failed(A)
    made.may_retry()
    assert made.alert
    made.answered(A)
    assert not made.alert
