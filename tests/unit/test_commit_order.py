"""A packet looks up class, id and slot one after the other: what any of them still names must outlast the commit."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from svcnet.iptables.classes import GATE_LOCAL, GATE_RANGED, GATE_RANGED_LOCAL, class_of
from svcnet.iptables.desired import LOCAL, RANDOM, Desired, Pick, Target, Treatment
from svcnet.iptables.elements import Op, number, slot_key, unnumber
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import (
    BEHIND,
    CLASSES,
    DISPATCH,
    ENDPOINTS,
    HERE,
    LEAK_GUARD,
    LOCAL_SCOPE,
    MEMBERS,
    PICKS,
    SERVICES,
    SHORT,
    Class,
    Parameters,
)
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.plan import diff

Elements = dict[bytes, bytes]
FRONT = Frontend(4, "10.0.0.1", "tcp", 80)


def row(owner: str, ends: int) -> Desired:
    targets = tuple(Target(f"10.244.0.{n + 1}", 8080) for n in range(ends))
    return {FRONT: Treatment(Class.CLUSTER if ends else Class.REFUSE, PortKey("default", owner, "TCP", 80, 4), targets)}


class WatchedKernel(FakeKernel):
    """Keeps the maps as they were after each commit."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[dict[str, Elements]] = []

    def commit(self, ops: Sequence[Op]) -> None:
        super().commit(ops)
        self.states.append({name: dict(found) for name, found in self.tables[4].maps.items()})


def lost(before: dict[str, Elements], after: dict[str, Elements]) -> list[str]:
    """What a packet misses that is on its way from one look-up to the next while a commit lands."""
    misses = []
    for key, code in before[CLASSES].items():
        slots = unnumber(code) & 0xFFFF
        for ids in (before[SERVICES], after[SERVICES]):
            if slots and key not in ids:
                misses.append("id")
            elif slots:
                wanted = [slot_key(unnumber(ids[key]), n) for n in range(slots)]
                misses += [f"slot {n}" for n, slot in enumerate(wanted) if slot not in after[ENDPOINTS]]
    return misses


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("a", 3), ("a", 2)),
        (("a", 8), ("a", 1)),
        (("a", 1), ("a", 5)),
        (("a", 3), ("b", 3)),
        (("a", 2), ("b", 3)),
        (("a", 3), ("a", 0)),
    ],
)
def test_no_packet_on_its_way_misses_what_it_was_sent_to(before: tuple[str, int], after: tuple[str, int]) -> None:
    kernel = WatchedKernel()
    nft = Nftables(kernel, (Parameters(4, ("10.0.0.0/16",)),))
    nft.sync(row(*before))
    first = len(kernel.states) - 1
    nft.apply(diff(row(*before), row(*after)))
    steps = list(pairwise(kernel.states[first:]))
    assert steps
    assert [lost(*step) for step in steps] == [[]] * len(steps)
    assert len(kernel.tables[4].maps[ENDPOINTS]) == after[1]


def ways(before: dict[str, Elements], after: dict[str, Elements], table: str, key: bytes) -> list[int]:
    """What a packet may find: a commit may have landed before this look-up or not."""
    return list({unnumber(state[table][key]) if key in state[table] else 0 for state in (before, after)})


def dead_ends(before: dict[str, Elements], after: dict[str, Elements]) -> list[str]:
    """The same as `lost`, with every map that there is: where a packet finds nothing at all."""
    return [
        end
        for key, code in before[CLASSES].items()
        for ends in _behind(before, after, key, unnumber(code))
        for end in ends
    ]


def _behind(before: dict[str, Elements], after: dict[str, Elements], key: bytes, code: int) -> list[list[str]]:
    if code == GATE_RANGED:
        behind = ways(before, after, BEHIND, key)
        return [way for c in behind for way in (_behind(before, after, key, c) if c else [["no class behind"]])]
    if code in {GATE_LOCAL, GATE_RANGED_LOCAL}:
        found = []
        for port_id in ways(before, after, SERVICES, key):
            short = ways(before, after, SHORT, number(port_id))
            found += [[] if c else ["no short way"] for c in short]
            codes = [c for c in short + ways(before, after, HERE, number(port_id)) if c]
            found += [_slots_of(after, port_id, c) for c in codes]
        return found
    if class_of(code) is None:
        return []
    return [_slots_of(after, port_id, code) for port_id in ways(before, after, SERVICES, key)]


def _slots_of(after: dict[str, Elements], port_id: int, code: int) -> list[str]:
    found = class_of(code)
    assert found is not None
    scope = LOCAL_SCOPE if found.kind in LOCAL else 0
    slots = [slot_key(port_id, scope + n) for n in range(found.slots)]
    if found.pick != "affinity":
        return [f"no slot of {port_id:x}" for slot in slots if slot not in after[ENDPOINTS]]
    return ["no member" for slot in slots if after[PICKS].get(slot) not in after[MEMBERS]]


def everything(
    ends: int, pick: Pick = RANDOM, ranges: tuple[str, ...] = (), kind: Class = Class.EXTERNAL_LOCAL
) -> Desired:
    """A service of all kinds of addresses, with two endpoints here at most."""
    targets = tuple(Target(f"10.244.0.{n + 1}", 8080) for n in range(ends))
    both = (PortKey("default", "a", "TCP", 80, 4), targets, targets[:2], pick)
    inside, outside = (Class.INTERNAL_LOCAL, kind) if ends else (Class.REFUSE, Class.REFUSE)
    return {
        FRONT: Treatment(inside, *both),
        Frontend(4, "192.168.50.1", "tcp", 30000): Treatment(outside, *both, virtual=False),
        Frontend(4, "203.0.113.1", "tcp", 80): Treatment(outside, *both, ranges, virtual=False),
    }


HASH, STICKY = Pick("hash"), Pick("affinity", 60)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (everything(5, pick), everything(n, other, ranges, kind))
        for pick, other in ((RANDOM, RANDOM), (RANDOM, HASH), (HASH, RANDOM), (HASH, HASH), (STICKY, STICKY))
        for n in (1, 2, 9, 0)
        for ranges in ((), ("192.0.2.0/24",))
        for kind in (Class.EXTERNAL_LOCAL, Class.EXTERNAL)
    ],
)
def test_no_packet_misses_a_member_a_short_way_or_what_is_behind_a_range(before: Desired, after: Desired) -> None:
    for old, new in ((before, after), (after, before)):
        kernel = WatchedKernel()
        nft = Nftables(kernel, (Parameters(4, ("10.0.0.0/16",)),))
        nft.sync(old)
        first = len(kernel.states) - 1
        nft.apply(diff(old, new))
        assert [dead_ends(*step) for step in pairwise(kernel.states[first:])] == [[]] * (len(kernel.states) - first - 1)


def test_a_table_goes_when_no_packet_is_in_it_any_more() -> None:
    seen: list[tuple[bool, int]] = []

    class Settling(FakeKernel):
        def settle(self) -> None:
            table = self.tables[4]
            seen.append((any(table.chains[name].rules for name in (DISPATCH, LEAK_GUARD)), len(table.maps[ENDPOINTS])))

    kernel = Settling()
    nft = Nftables(kernel, (Parameters(4, ("10.0.0.0/16",)),))
    nft.sync(row("a", 3))
    assert nft.remove()
    assert seen == [(False, 3)], "nobody new is led into it, and whoever is on his way finds all"
    assert not kernel.tables
    assert not nft.remove()
