"""Every kind of treatment in the real kernel: it takes what the fake one took, and gives it back the same."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from svcnet.iptables.desired import Desired, Treatment
from svcnet.iptables.elements import Op
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.model.frontend import Frontend
from svcnet.plan import diff
from tests.harness.minion import Minion
from tests.unit.test_classes import PARAMETERS, worlds

pytestmark = pytest.mark.kernel

OTHER_SCHEMA = tuple(replace(p, masquerade_all=True) for p in PARAMETERS)


class Counting(NftKernel):
    """Counts what it writes."""

    written = 0

    def commit(self, ops: Sequence[Op]) -> None:
        super().commit(ops)
        self.written += len(ops)


def mixture(seed: int) -> Desired:
    """The same services in both families."""
    four = worlds(random.Random(seed))
    return four | {_six(front): _six_of(treatment) for front, treatment in four.items()}


def _six(front: Frontend) -> Frontend:
    return front._replace(family=6, address=f"fd00:10::{front.address.replace('.', ':')}")


def _six_of(t: Treatment) -> Treatment:
    targets, local = (
        tuple(sorted(x._replace(address=f"fd00:244::{x.address.rpartition('.')[2]}") for x in some))
        for some in (t.targets, t.local)
    )
    ranges = tuple(f"2001:db8:{n}::/{40 + n}" for n in range(len(t.ranges)))
    owner = t.owner._replace(family=6) if t.owner else None
    return t._replace(owner=owner, targets=targets, local=local, ranges=ranges)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_reads_back_the_same_after_every_change_and_in_another_schema(
    minion: Minion, seed: int
) -> None:
    def live() -> None:
        kernel = Counting()
        try:
            path, before = Nftables(kernel, PARAMETERS), Desired()
            path.sync(before)
            for step in range(4):
                wanted = mixture(10 * seed + step)
                path.apply(diff(before, wanted))
                before, written = wanted, kernel.written
                assert not Nftables(kernel, PARAMETERS).sync(wanted)
                assert kernel.written == written
            Nftables(kernel, OTHER_SCHEMA).sync(before)
            assert kernel.written == written
            assert not Nftables(kernel, OTHER_SCHEMA).sync(before)
        finally:
            kernel.close()

    minion.inside(live)
    ruleset = minion.ruleset()
    assert "masquerade" in ruleset
    assert "source-ranges" in ruleset
