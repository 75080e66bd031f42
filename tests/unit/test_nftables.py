"""The nftables path over the fake kernel: what is written, in which order, and what a start finds."""

import itertools
import random
from collections.abc import Iterable

import pytest

from svcnet.iptables.desired import Desired, Target, Treatment
from svcnet.iptables.elements import address_key, number, slot_key, unnumber
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.netlink import MendedError, NetlinkError
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import CLASSES, ENDPOINTS, HAIRPINS, SERVICES, VIRTUAL_IPS, Class, Parameters
from svcnet.iptables.tracer import Packet, trace
from svcnet.model.errors import KernelError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.plan import diff

PARAMETERS = (Parameters(4, ("10.0.0.0/16",), ("10.244.0.0/16",)), Parameters(6, ("fd00::/112",)))


def row(i: int, targets: Iterable[int] = (), *, weights: dict[int, int] | None = None) -> Desired:
    """Service i at 10.0.0.i with these endpoints."""
    key = PortKey("default", f"s{i}", "TCP", 80, 4)
    ends = tuple(Target(f"10.244.0.{t}", 8080, (weights or {}).get(t, 1), hairpin=t < 10) for t in sorted(targets))
    kind = Class.CLUSTER if ends else Class.REFUSE
    return {Frontend(4, f"10.0.0.{i}", "tcp", 80): Treatment(kind, key, ends)}


def rows(services: dict[int, Iterable[int]]) -> Desired:
    return {f: t for i, targets in services.items() for f, t in row(i, targets).items()}


def path(kernel: FakeKernel, commit_ops: int = 1000) -> Nftables:
    return Nftables(kernel, PARAMETERS, commit_ops)


def reached(kernel: FakeKernel, i: int) -> list[int] | str:
    """Endpoints that a pod reaches through service i, or the verdict."""
    outcome = trace(kernel, Packet("10.244.0.99", f"10.0.0.{i}", "tcp", 80))
    if outcome.verdict != "translated":
        return outcome.verdict
    return sorted(int(a.address.rpartition(".")[2]) for a in outcome.arrivals)


def counts(kernel: FakeKernel) -> dict[str, int]:
    names = (SERVICES, CLASSES, ENDPOINTS, VIRTUAL_IPS, HAIRPINS)
    return {name: len(kernel.tables[4].maps[name]) for name in names}


def test_a_change_is_one_commit_of_its_own_elements() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(rows({i: [1, 2, 3] for i in range(1, 200)}))
    reads, commits = kernel.reads, len(kernel.log)
    nft.apply(diff(row(7, [1, 2, 3]), row(7, [1, 2, 4])))
    assert reached(kernel, 7) == [1, 2, 4]
    assert kernel.reads == reads
    assert len(kernel.log) == commits + 1
    assert {op.table for op in kernel.log[-1]} <= {ENDPOINTS, HAIRPINS}
    assert sum(op.table == ENDPOINTS for op in kernel.log[-1]) == 2


def test_endpoints_keep_their_slots_when_others_go() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, range(1, 10)))
    before = dict(kernel.tables[4].maps[ENDPOINTS])
    nft.apply(diff(row(1, range(1, 10)), row(1, [t for t in range(1, 10) if t != 3])))
    after = kernel.tables[4].maps[ENDPOINTS]
    assert len(after) == 8
    assert sum(before[key] != data for key, data in after.items()) == 1


def test_a_service_that_loses_all_endpoints_refuses_and_leaves_no_slots() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, [1, 2]))
    nft.apply(diff(row(1, [1, 2]), row(1)))
    assert reached(kernel, 1) == "refused"
    assert counts(kernel) == {SERVICES: 0, CLASSES: 1, ENDPOINTS: 0, VIRTUAL_IPS: 1, HAIRPINS: 0}
    nft.apply(diff(row(1), {}))
    assert reached(kernel, 1) == "dropped"
    assert sum(counts(kernel).values()) == 0


def test_an_id_is_not_given_to_another_service_while_its_slots_are_there() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, [1, 2, 3]))
    nft.apply(diff(row(1, [1, 2, 3]), row(2, [4])))
    assert (reached(kernel, 1), reached(kernel, 2)) == ("dropped", [4])
    assert counts(kernel)[ENDPOINTS] == 1


def test_an_address_that_one_service_leaves_and_another_takes_in_one_plan_stays_allocated() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, [1]))
    moved = {Frontend(4, "10.0.0.1", "tcp", 81): next(iter(row(2, [1]).values()))}
    nft.apply(diff(row(1, [1]), moved))
    assert counts(kernel) == {SERVICES: 1, CLASSES: 1, ENDPOINTS: 1, VIRTUAL_IPS: 1, HAIRPINS: 1}
    assert reached(kernel, 1) == "refused"


def test_weights_are_shares() -> None:
    kernel = FakeKernel()
    path(kernel).sync(row(1, [1, 2], weights={1: 6, 2: 2}))
    outcome = trace(kernel, Packet("10.244.0.99", "10.0.0.1", "tcp", 80))
    assert {a.address: share for a, share in outcome.arrivals.items()} == {"10.244.0.1": 0.75, "10.244.0.2": 0.25}


def test_many_slots_get_a_class_chain_on_demand() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, [1]))
    nft.apply(diff(row(1, [1]), row(1, range(1, 150))))
    assert reached(kernel, 1) == list(range(1, 150))


def test_a_start_over_the_same_records_writes_nothing() -> None:
    kernel = FakeKernel()
    wanted = rows({1: [1, 2], 2: [], 3: [20]}) | row(4, [5, 6], weights={5: 3})
    path(kernel).sync(wanted)
    commits = len(kernel.log)
    assert not path(kernel).sync(wanted)
    assert len(kernel.log) == commits


def test_a_start_changes_what_differs_and_keeps_ids() -> None:
    kernel = FakeKernel()
    path(kernel).sync(rows({1: [1, 2], 2: [3], 3: [4]}))
    before = dict(kernel.tables[4].maps[SERVICES])
    plan = path(kernel).sync(rows({1: [1, 2], 2: [5], 4: [6]}))
    assert (len(plan.creates), len(plan.updates), len(plan.deletes)) == (1, 1, 1)
    assert [reached(kernel, i) for i in (1, 2, 3, 4)] == [[1, 2], [5], "dropped", [6]]
    kept = {key: data for key, data in kernel.tables[4].maps[SERVICES].items() if key in before}
    assert all(before[key] == data for key, data in kept.items())
    assert len(kept) == 2


def test_a_table_of_another_schema_is_replaced_whole() -> None:
    kernel = FakeKernel()
    path(kernel).sync(row(1, [1]))
    other = Nftables(kernel, (Parameters(4, ("10.0.0.0/16",), masquerade_all=True), Parameters(6)))
    commits = len(kernel.log)
    other.sync(rows({1: [1], 2: [2]}))
    assert (reached(kernel, 1), reached(kernel, 2)) == ([1], [2])
    assert len(kernel.log) == commits
    (arrival,) = trace(kernel, Packet("10.244.0.99", "10.0.0.1", "tcp", 80)).arrivals
    assert arrival.masqueraded


def test_silence_translates_nothing_and_keeps_the_table_until_the_next_start() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(rows({1: [1, 2], 2: []}))
    assert nft.silence()
    assert [reached(kernel, i) for i in (1, 2, 3)] == ["passed"] * 3
    assert kernel.tables.keys() == {4, 6}
    path(kernel).sync(rows({1: [1, 2], 2: []}))
    assert [reached(kernel, i) for i in (1, 2, 3)] == [[1, 2], "refused", "dropped"]
    assert nft.remove()
    assert not nft.silence()
    assert not kernel.tables


def test_foreign_elements_are_cleared_and_holes_mended_at_a_start() -> None:
    kernel = FakeKernel()
    wanted = rows({1: [1, 2, 3], 2: [4]})
    path(kernel).sync(wanted)
    maps = kernel.tables[4].maps
    maps[ENDPOINTS][slot_key(77, 0)] = maps[ENDPOINTS][slot_key(1, 0)]
    del maps[ENDPOINTS][slot_key(1, 1)]
    maps[VIRTUAL_IPS].clear()
    nft = path(kernel)
    nft.sync(wanted)
    assert (reached(kernel, 1), reached(kernel, 2)) == ([1, 2, 3], [4])
    assert not path(kernel).sync(wanted)
    assert counts(kernel) == {SERVICES: 2, CLASSES: 2, ENDPOINTS: 4, VIRTUAL_IPS: 2, HAIRPINS: 4}


def works(kernel: FakeKernel, i: int, before: list[int] | str, after: list[int] | str) -> bool:
    """Whether service i is served as before or as after, or by endpoints of both; never broken.

    A service that comes or goes may refuse for a moment instead of dropping.
    """
    now = reached(kernel, i)
    if isinstance(now, str):
        return now in [before, after, "refused" if "dropped" in [before, after] else ""]
    return bool(now) and set(now) <= {*before, *after}


@pytest.mark.parametrize("seed", range(25))
def test_a_kill_between_any_two_commits_never_breaks_a_service_and_the_next_start_converges(seed: int) -> None:
    rng = random.Random(seed)

    def world() -> dict[int, list[int]]:
        return {i: sorted(rng.sample(range(1, 30), rng.choice((0, 1, 2, 5, 20)))) for i in rng.sample(range(1, 9), 5)}

    first, second = world(), world()
    for cut in itertools.count():
        kernel = FakeKernel()
        path(kernel).sync(rows(dict(first)))
        kernel.fail_after = len(kernel.log) + cut
        try:
            path(kernel, commit_ops=2).sync(rows(dict(second)))
        except KernelError:
            done = False
        else:
            done = True
        for i in range(1, 9):
            before, after = (w.get(i, "dropped") or "refused" for w in (first, second))
            assert works(kernel, i, before, after)
        kernel.fail_after = None
        path(kernel).sync(rows(dict(second)))
        assert [reached(kernel, i) for i in second] == [second[i] or "refused" for i in second]
        fresh = FakeKernel()
        path(fresh).sync(rows(dict(second)))
        assert counts(kernel) == counts(fresh)
        if done:
            return


def test_a_failed_commit_changes_nothing_and_sync_recovers_in_the_same_process() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, [1, 2]))
    kernel.fail_after = len(kernel.log)
    with pytest.raises(NetlinkError):
        nft.apply(diff(row(1, [1, 2]), row(1, [3])))
    assert reached(kernel, 1) == [1, 2]
    kernel.fail_after = None
    nft.sync(row(1, [3]))
    assert reached(kernel, 1) == [3]


def test_the_plan_reads_as_what_it_will_do() -> None:
    kernel = FakeKernel()
    path(kernel).sync(rows({1: [1], 2: [2]}))
    wanted = rows({1: [1, 3], 3: []})
    plan = diff(path(kernel).look(wanted), wanted)
    assert plan.render().replace("default/s1 tcp/80", "me").splitlines() == [
        "- 10.0.0.2 tcp/80 → 10.244.0.2:8080 (unknown)",
        "+ 10.0.0.3 tcp/80 → refuse (default/s3 tcp/80)",
        "~ 10.0.0.1 tcp/80 → 10.244.0.1:8080 (me) ⇒ 10.244.0.1:8080, 10.244.0.3:8080 (me)",
        "1 to create, 1 to update, 1 to delete",
    ]
    assert reached(kernel, 2) == [2]


def test_what_somebody_else_changed_is_mended_by_the_change_that_meets_it_and_nothing_else_is_read() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(rows({i: [1, 2, 3] for i in range(1, 50)}))
    maps, reads = kernel.tables[4].maps, kernel.reads
    seven, new = (address_key(Frontend(4, f"10.0.0.{i}", "tcp", 80)) for i in (7, 60))
    del maps[ENDPOINTS][slot_key(unnumber(maps[SERVICES][seven]), 2)]
    with pytest.raises(MendedError, match=r"changed: 1$"):
        nft.apply(diff(row(7, [1, 2, 3]), row(7, [1, 2, 4])))
    assert reached(kernel, 7) == [1, 2, 4]
    del kernel.tables[4].maps[CLASSES][seven]
    with pytest.raises(MendedError):
        nft.apply(diff(row(7, [1, 2, 4]), row(7, [1])))
    assert reached(kernel, 7) == [1]
    kernel.tables[4].maps[CLASSES][new] = number(Class.DROP.code())
    with pytest.raises(MendedError):
        nft.apply(diff({}, row(60, [5])))
    assert reached(kernel, 60) == [5]
    assert kernel.reads == reads
    wanted = rows({i: [1, 2, 3] for i in range(1, 50)}) | row(7, [1]) | row(60, [5])
    assert not path(kernel).sync(wanted)


def test_a_commit_that_fails_for_more_than_its_keys_is_a_matter_for_sync() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    nft.sync(row(1, [1, 2]))
    kernel.tables[4].maps[ENDPOINTS].clear()
    kernel.fail_after = len(kernel.log)
    with pytest.raises(NetlinkError) as raised:
        nft.apply(diff(row(1, [1, 2]), row(1, [3])))
    assert not isinstance(raised.value, MendedError)
