"""Every kind of treatment on the iptables path, over tables in memory: what packets meet, what is made and left."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise

import pytest

from svcnet.iptables.chain_text import FILTER, HAIRPIN, NAT
from svcnet.iptables.desired import Desired, Pick, Target, Treatment
from svcnet.iptables.fake_xtables import FakeTables, Packet
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.layout import Layout
from svcnet.iptables.ruleset import Class
from svcnet.iptables.service_text import AFFINITY, HASH
from svcnet.model.errors import KernelError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.plan import diff
from tests.unit.test_classes import MINION, OUTSIDE, PARAMETERS, POD, packets, service, worlds

Way = tuple[list[int], bool] | str
RANDOM, STICKY, BY_HASH = Pick(), Pick("affinity", 10800), Pick("hash")
NO_IPSET = {AFFINITY: "session affinity is not kept: no ipset"}


def made(tables: FakeTables, desired: Desired) -> Iptables:
    path = Iptables(tables, PARAMETERS)
    path.sync(desired)
    return path


def reached(tables: FakeTables, address: str, port: int, source: str = OUTSIDE) -> Way:
    """(last bytes of the endpoints, masqueraded) of a connection, or its verdict."""
    ends = tables.ends(Packet(address, "tcp", port, source, outgoing=source == MINION))
    hosts = sorted(int(e.place.partition(":")[0].rpartition(".")[2]) for e in ends if ":" in e.place)
    if not hosts:
        (end,) = ends
        return end.place
    (masqueraded,) = {end.masqueraded for end in ends}
    return hosts, masqueraded


@pytest.mark.parametrize("pick", [RANDOM, STICKY, BY_HASH], ids=str)
def test_external_traffic_policy_local_has_a_short_way_for_pods_and_the_minion(pick: Pick) -> None:
    tables = FakeTables()
    made(tables, service("web", 1, (11, 12, 3), pick, policy="outside"))
    for address, port in ((MINION, 30001), ("203.0.113.1", 80)):
        assert reached(tables, address, port, POD) == ([3, 11, 12], False)
        assert reached(tables, address, port, MINION) == ([3, 11, 12], True)
        assert reached(tables, address, port) == ([3], False)
    made(tables, service("web", 1, (11, 12), pick, policy="outside"))
    assert reached(tables, MINION, 30001) == "dropped"
    assert reached(tables, MINION, 30001, POD) == ([11, 12], False)


def test_traffic_from_outside_is_masqueraded_and_that_of_pods_to_a_virtual_ip_is_not() -> None:
    tables = FakeTables()
    made(tables, service("web", 1, (11, 3)))
    assert reached(tables, MINION, 30001, POD) == ([3, 11], True)
    assert reached(tables, "10.0.0.1", 80, POD) == ([3, 11], False)
    assert reached(tables, "10.0.0.1", 80) == ([3, 11], True)
    Iptables(tables, (replace(PARAMETERS[0], masquerade_all=True),)).sync(service("web", 1, (11, 3), policy="both"))
    for source in (POD, MINION, OUTSIDE):
        for address, port in (("10.0.0.1", 80), (MINION, 30001)):
            found = reached(tables, address, port, source)
            assert isinstance(found, tuple)
            assert found[1]


@pytest.mark.parametrize("policy", ["", "outside"])
@pytest.mark.parametrize("targets", [(11, 3), ()])
def test_who_is_not_in_the_ranges_is_dropped_before_all_else(policy: str, targets: tuple[int, ...]) -> None:
    tables = FakeTables()
    made(tables, service("web", 1, targets, ranges=("198.51.100.0/24", "192.0.2.1/32"), policy=policy))
    inside = reached(tables, "203.0.113.1", 80, "198.51.100.200")
    assert inside == (reached(tables, MINION, 30001) if targets else "refused")
    assert reached(tables, "203.0.113.1", 80, "192.0.2.1") == inside
    assert reached(tables, "203.0.113.1", 80, "192.0.2.2") == reached(tables, "203.0.113.1", 80, POD) == "dropped"


def test_only_a_virtual_ip_refuses_its_undefined_ports() -> None:
    tables = FakeTables()
    for targets in ((1,), ()):
        made(tables, service("web", 1, targets))
        assert reached(tables, "10.0.0.1", 81) == "refused"
        assert reached(tables, MINION, 22) == reached(tables, "203.0.113.1", 81) == "passed"


def test_a_client_keeps_its_endpoint_at_every_address_over_starts_and_changes_of_others() -> None:
    tables = FakeTables()
    path = made(tables, world := service("web", 1, (11, 12, 3), STICKY))
    tables.visit(OUTSIDE, "10.244.0.12:8080")
    assert reached(tables, "10.0.0.1", 80) == reached(tables, MINION, 30001) == ([12], True)
    assert reached(tables, "10.0.0.1", 80, POD) == ([3, 11, 12], False)
    path.apply(diff(world, after := service("web", 1, (11, 12), STICKY) | service("other", 2, (1,), STICKY)))
    made(tables, after)
    assert reached(tables, "203.0.113.1", 80) == ([12], True)
    path.apply(diff(after, longer := service("web", 1, (11, 12), Pick("affinity", 60))))
    assert reached(tables, "10.0.0.1", 80) == ([12], True)
    path.apply(diff(longer, fewer := service("web", 1, (11,), STICKY)))
    path.apply(diff(fewer, service("web", 1, (11, 12), STICKY)))
    assert reached(tables, "10.0.0.1", 80) == ([11, 12], True)


def test_an_ipset_that_rules_of_a_moment_ago_hold_is_emptied_before_it_is_used_again() -> None:
    tables = FakeTables()
    world, without = service("web", 1, (11, 12), STICKY), service("web", 1, (11,), STICKY)
    path = made(tables, world)
    tables.visit(OUTSIDE, "10.244.0.12:8080")
    tables.lingering = set(tables.ipsets)
    path.apply(diff(world, without))
    assert len(tables.ipsets) == 2
    path.apply(diff(without, world))
    assert reached(tables, "10.0.0.1", 80) == ([11, 12], True)
    path.apply(diff(world, without))
    tables.lingering = set()
    path.apply(diff({}, service("other", 2, (1,))))
    assert len(tables.ipsets) == 1


@pytest.mark.parametrize("seed", range(12))
def test_changes_of_any_kind_end_in_the_same_chains_and_ipsets_as_a_load_from_nothing(seed: int) -> None:
    tables, rng = FakeTables(), random.Random(seed)
    history = [worlds(rng) for _ in range(6)]
    path = made(tables, history[0])
    for before, after in pairwise(history):
        path.apply(diff(before, after))
        fresh = FakeTables()
        made(fresh, after)
        assert tables.tables == fresh.tables
        assert tables.ipsets == fresh.ipsets
        written = len(tables.log)
        assert not Iptables(tables, PARAMETERS).sync(after)
        assert not any(tables.log[written:])


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_at_any_restore_leaves_each_packet_its_old_or_its_new_way(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svcnet.iptables.iptables.PIECE_CHAINS", 3)
    rng = random.Random(100 + seed)
    first, second = worlds(rng, 2), worlds(rng, 2)
    asked = set(packets(first | second))
    before, after = ({p: reached(t, *p) for p in asked} for t in loaded(first, second))
    for cut in count():
        tables = FakeTables()
        made(tables, first)
        tables.fail_after = cut
        try:
            made(tables, second)
        except KernelError:
            done = False
        else:
            done = True
        for packet in asked:
            assert_fits(reached(tables, *packet), before[packet], after[packet])
        tables.fail_after = None
        made(tables, second)
        assert {p: reached(tables, *p) for p in asked} == after
        assert tables.ipsets == next(loaded(second)).ipsets
        if done:
            assert cut > 2
            return


def loaded(*worlds: Desired) -> Iterator[FakeTables]:
    for world in worlds:
        tables = FakeTables()
        made(tables, world)
        yield tables


def assert_fits(now: Way, before: Way, after: Way) -> None:
    """Old, new, or endpoints of both; what comes or goes may be refused or dropped for a moment."""
    if isinstance(now, tuple):
        either = {n for way in (before, after) if isinstance(way, tuple) for n in way[0]}
        assert set(now[0]) <= either
    else:
        assert now in (before, after) or not (isinstance(before, tuple) and isinstance(after, tuple))


def test_ipsets_come_before_the_chains_that_name_them_and_go_after() -> None:
    """The tables in memory refuse a rule with an ipset that is not there, and keep one that is named."""
    tables = FakeTables()
    world = service("web", 1, (11, 12, 3), STICKY)
    path = made(tables, world)
    assert len(tables.ipsets) == 3
    path.apply(diff(world, {}))
    assert not tables.ipsets


def test_cleanup_takes_ipsets_that_a_kill_left_without_chains_and_no_others() -> None:
    tables = FakeTables()
    tables.ipsets["shop"] = 4
    tables.clients["shop"] = set()
    tables.fail_after = 0
    with pytest.raises(KernelError):
        made(tables, service("web", 1, (11, 12), STICKY))
    assert len(tables.ipsets) == 3
    assert Iptables(tables, ()).remove()
    assert set(tables.ipsets) == {"shop"}
    assert not Iptables(tables, ()).remove()


def test_without_ipset_all_is_served_and_affinity_is_left_out_by_name() -> None:
    tables = FakeTables()
    tables.wants = NO_IPSET
    world = service("web", 1, (11, 12), STICKY) | service("other", 2, (3,))
    path = made(tables, world)
    assert reached(tables, "10.0.0.1", 80) == ([11, 12], True)
    assert path.left_out() == (LeftOut("default/web tcp/80", NO_IPSET[AFFINITY]),)
    assert not made(tables, world).sync(world)
    path.apply(diff(world, less := service("web", 1, (), STICKY) | service("other", 2, (3,))))
    assert not path.left_out()
    path.apply(diff(less, world))
    assert path.left_out()
    tables.wants = {}
    path.sync(world)
    assert not path.left_out()
    assert len(tables.ipsets) == 2


def test_without_xt_cluster_clients_are_spread_by_chance_and_the_service_is_named() -> None:
    tables = FakeTables()
    tables.wants = {HASH: "source hash is not kept: no xt_cluster"}
    path = made(tables, service("web", 1, (11, 12), BY_HASH))
    assert reached(tables, "10.0.0.1", 80) == ([11, 12], True)
    assert not any("cluster-hash" in rule for rules in tables.tables[4][NAT].values() for rule in rules)
    assert [item.what for item in path.left_out()] == ["default/web tcp/80"]


def test_without_xt_bpf_an_endpoint_of_here_marks_its_own_packets() -> None:
    tables = FakeTables()
    tables.wants = {HAIRPIN: "no xt_bpf"}
    path = made(tables, service("web", 1, (11, 3)))
    assert not path.left_out()
    own = [e.masqueraded for e in tables.ends(Packet("10.0.0.1", "tcp", 80, "10.244.0.3")) if "0.3:" in e.place]
    assert own == [True]
    assert not any("--bytecode" in rule for rule in tables.tables[4][NAT]["SVCNET-POSTROUTING"])


def test_ipsets_that_cant_be_made_cost_affinity_and_nothing_else() -> None:
    tables = FakeTables()
    tables.most_sets = 1
    world = service("web", 1, (11, 12), STICKY) | service("other", 2, (3,))
    path = made(tables, world)
    assert reached(tables, "10.0.0.1", 80) == ([11, 12], True)
    assert reached(tables, "10.0.0.2", 80) == ([3], True)
    assert [item.what for item in path.left_out()] == ["default/web tcp/80"]
    assert "maximal number" in path.left_out()[0].reason


def test_affinity_past_the_number_of_ipsets_is_by_chance_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svcnet.iptables.layout.MOST_SETS", 3)
    tables = FakeTables()
    first, second = service("web", 1, (11, 12), STICKY), service("other", 2, (11, 12), STICKY)
    path = made(tables, first)
    path.apply(diff({}, second))
    assert len(tables.ipsets) == 2
    assert [item.what for item in path.left_out()] == ["default/other tcp/80"]
    path.apply(diff(first | second, second))
    path.apply(diff(second, smaller := service("other", 2, (11, 12, 3), STICKY)))
    assert not path.left_out()
    assert len(tables.ipsets) == 3
    path.apply(diff(smaller, {}))
    assert not tables.ipsets


def test_a_frontend_that_is_the_minions_own_address_leaves_its_other_ports_alone_in_filter() -> None:
    layout = Layout(PARAMETERS[0])
    layout.everything(service("web", 1, ()))
    lines = {c.name: found for c, found in layout.at(MINION).items() if c.table == FILTER}
    assert lines[f"SVCNET-{MINION}"] == (f"-d {MINION}/32 -p tcp -m tcp --dport 30001 -g SVCNET-REFUSE",)


def test_an_owner_of_two_families_has_ipsets_of_each() -> None:
    tables = FakeTables()
    six = Target("fd00:244::2", 8080)
    front = Frontend(6, "fd00:10::5", "tcp", 80)
    made(tables, service("web", 1, (11,), STICKY) | {front: Treatment(Class.CLUSTER, None, (six,), pick=STICKY)})
    assert sorted(tables.ipsets.values()) == [4, 6]
    assert {name[:9] for name in tables.ipsets} == {"svcnet-4-", "svcnet-6-"}
