"""What is kept of other servers' answers: never more than the bound, the right ones, for the right time."""

import tracemalloc
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from svcnet.dns.cache import ENTRY_BYTES, STALE_SECONDS, Cache, Key
from svcnet.dns.reply import Reply


def key(number: int) -> Key:
    return b"\x08%08d\0\0\1\0\1" % number, False, False


def reply(size: int = 50, seconds: int = 60) -> Reply:
    return Reply(0, seconds, b"\0\1\0\0\0\0", bytes(size), b"\0\6\0\0\0\x3c")


COST = ENTRY_BYTES + len(key(0)[0]) + 50 + 6


class Put(NamedTuple):
    number: int
    size: int
    seconds: int
    stale: float


steps = st.lists(
    st.one_of(
        st.builds(
            Put,
            st.integers(0, 30),
            st.sampled_from([0, 20, 500, 4000, 9000]),
            st.integers(1, 50),
            st.sampled_from([0.0, 30.0]),
        ),
        st.integers(0, 30),
        st.floats(0.0, 40.0),
    ),
    max_size=120,
)


@given(st.sampled_from([0, 700, 2000, 8000]), steps)
@settings(deadline=None, max_examples=300)
def test_the_bound_holds_and_what_is_given_was_put_and_is_in_its_time(limit: int, history: list[object]) -> None:
    cache, now = Cache(limit), 0.0
    put: dict[int, tuple[Reply, Put, float]] = {}
    alive = 0
    for step in history:
        if isinstance(step, float):
            now += step
        elif isinstance(step, Put):
            kept = reply(step.size)
            before = len(cache)
            gone = cache.put(key(step.number), kept, now, step.seconds, step.stale)
            assert 0 <= gone <= before
            put[step.number] = (kept, step, now)
        elif isinstance(step, int):
            entry = cache.get(key(step), now)
            if entry is not None:
                kept, made, at = put[step]
                assert entry.reply is kept, "always what was put last"
                assert now < at + made.seconds + made.stale
                assert entry.fresh(now) == (now < at + made.seconds)
        alive = sum(1 for number in range(31) if cache.peek(key(number)) is not None)
        assert len(cache) == alive
        assert cache.bytes <= limit
        assert cache.bytes == sum(e.cost for number in range(31) if (e := cache.peek(key(number))) is not None)
    assert alive <= limit // ENTRY_BYTES


def test_what_python_takes_is_within_the_bound() -> None:
    limit = 4 << 20
    numbers = range(20_000)
    tracemalloc.start()
    try:
        cache = Cache(limit)
        before = tracemalloc.get_traced_memory()[0]
        for number in numbers:
            cache.put(key(number), reply(), 0.0, 60)
            if number % 3 == 0:
                cache.get(key(number), 0.0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(cache) > limit // COST - 2
    assert used <= limit


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = Cache(3 * COST)
    for number in (1, 2, 3):
        cache.put(key(number), reply(), 0.0, 60)
    assert cache.put(key(4), reply(), 0.0, 60) == 1
    assert [number for number in range(5) if cache.peek(key(number))] == [2, 3, 4]


def test_a_flood_of_names_that_nobody_asks_twice_leaves_the_others() -> None:
    cache = Cache(100 * COST)
    for number in range(50):
        cache.put(key(number), reply(), 0.0, 60)
        cache.get(key(number), 0.0)
    for number in range(1000, 6000):
        cache.put(key(number), reply(), 0.0, 60)
    assert all(cache.get(key(number), 0.0) for number in range(50))


def test_what_was_asked_again_makes_room_too_when_it_is_all_there_is() -> None:
    cache = Cache(10 * COST)
    for number in range(100):
        cache.put(key(number), reply(), 0.0, 60)
        cache.get(key(number), 0.0)
    assert len(cache) == 10
    assert cache.get(key(99), 0.0)


def test_time_makes_it_stale_and_then_nothing() -> None:
    cache = Cache(1 << 20)
    cache.put(key(1), reply(), 100.0, 60)
    for now, fresh in ((100.0, True), (159.9, True), (160.0, False), (160.0 + STALE_SECONDS - 1, False)):
        entry = cache.get(key(1), now)
        assert entry is not None
        assert entry.fresh(now) is fresh
    assert cache.get(key(1), 160.0 + STALE_SECONDS) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_a_popular_name_wants_a_refresh_in_the_last_tenth_of_its_time() -> None:
    cache = Cache(1 << 20)
    cache.put(key(1), reply(), 0.0, 100)
    for now, wanted in ((10.0, False), (20.0, False), (30.0, False), (89.0, False), (91.0, True)):
        entry = cache.get(key(1), now)
        assert entry is not None
        assert entry.wants_refresh(now) is wanted
    cache.put(key(2), reply(), 0.0, 100)
    lonely = cache.get(key(2), 95.0)
    assert lonely is not None
    assert not lonely.wants_refresh(95.0)
