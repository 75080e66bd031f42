"""Source hash: the same table everywhere, fair, and one that goes takes its own slots along and no others."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from svcnet.rendezvous import Rendezvous, size_for

targets = st.dictionaries(st.binary(min_size=8, max_size=8), st.integers(1, 5), min_size=2, max_size=8)


def table(weights: dict[bytes, int]) -> list[bytes]:
    return Rendezvous().assign(weights)


def ends(count: int) -> dict[bytes, int]:
    return {bytes((10, 244, n >> 8, n & 255, 31, 144, 0, 0)): 1 for n in range(count)}


@given(targets, st.data())
def test_removing_one_moves_its_share_and_nothing_else(weights: dict[bytes, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(weights)))
    before, after = table(weights), table({t: w for t, w in weights.items() if t != gone})
    assert all(b == a for b, a in zip(before, after, strict=True) if b != gone)


@given(st.lists(targets, min_size=1, max_size=5))
def test_a_table_does_not_depend_on_what_was_before(history: list[dict[bytes, int]]) -> None:
    kept = Rendezvous()
    for weights in history:
        assert kept.assign(weights) == table(dict(sorted(weights.items(), reverse=True)))


def test_slots_go_by_weight() -> None:
    one, three = b"\x0a\0\0\x01\0\x50\0\0", b"\x0a\0\0\x02\0\x50\0\0"
    counts = Counter(table({one: 1, three: 3}))
    assert 0.7 < counts[three] / size_for(2) < 0.8


def test_many_endpoints_each_have_a_fair_share() -> None:
    counts = Counter(table(ends(100)))
    assert len(counts) == 100
    assert max(counts.values()) < 2 * size_for(100) / 100


def test_the_table_is_the_same_in_every_version() -> None:
    """Minions of different versions serve one client; changing this moves clients while minions are upgraded."""
    slots = "".join(str(t[3]) for t in table(ends(4)))
    assert (len(slots), slots[:32]) == (251, "21020132230112212032112002232021")


def test_without_targets_there_are_no_slots() -> None:
    assert table({}) == []
