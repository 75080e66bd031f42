"""A packet looks up class, id and slot one after the other: what any of them still names must outlast the commit."""

from collections.abc import Sequence
from itertools import pairwise

import pytest

from svcnet.iptables.desired import Desired, Target, Treatment
from svcnet.iptables.elements import Op, slot_key, unnumber
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import CLASSES, ENDPOINTS, SERVICES, Class, Parameters
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
        self.states.append({name: dict(self.tables[4].maps[name]) for name in (CLASSES, SERVICES, ENDPOINTS)})


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
