"""Every kind of treatment over the fake kernel: what packets meet, what a start finds, what a kill leaves."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.iptables.classes import ServingClass, class_of, codes_of
from svcnet.iptables.desired import PROXIED, SERVING, Desired, Pick, Target, Treatment
from svcnet.iptables.elements import Op, element_text
from svcnet.iptables.fake import FakeKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import AFFINITY, MEMBERS, PICKS, SOURCE_RANGES, VIRTUAL_IPS, Class, Parameters
from svcnet.iptables.tracer import Packet, trace
from svcnet.model.errors import KernelError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.plan import diff

POD, MINION, OUTSIDE = "10.244.1.9", "192.168.50.1", "198.51.100.7"
OPEN = Parameters(4, ("10.0.0.0/16",))
PARAMETERS = (
    Parameters(4, ("10.0.0.0/16",), ("10.244.0.0/16",)),
    Parameters(6, ("fd00:10::/112",), ("fd00:244::/64",)),
)
RANDOM, HASH, STICKY, EVER = Pick(), Pick("hash"), Pick("affinity", 10800), Pick("affinity", 0)
Way = tuple[list[int], bool] | str
PICKS_OF_ALL = (RANDOM, HASH, STICKY, EVER)


def owner(name: str) -> PortKey:
    return PortKey("default", name, "TCP", 80, 4)


def ends(*numbers: int) -> tuple[Target, ...]:
    """Endpoints 1..9 run here."""
    return tuple(Target(f"10.244.0.{n}", 8080, 1 + n % 2, hairpin=n < 10) for n in sorted(numbers))


def service(
    name: str,
    number: int,
    targets: tuple[int, ...],
    pick: Pick = RANDOM,
    ranges: tuple[str, ...] = (),
    policy: str = "",
) -> Desired:
    """A service port at a virtual IP, a node port and a balancer's address, as `desired` makes them."""
    local = tuple(n for n in targets if n < 10) if policy else ()
    both = (owner(name), ends(*targets), ends(*local), pick)
    inside = Class.CLUSTER if policy != "both" else Class.INTERNAL_LOCAL if local else Class.DROP
    outside = Class.EXTERNAL_LOCAL if policy else Class.EXTERNAL
    if not targets:
        inside = outside = Class.REFUSE
    return {
        Frontend(4, f"10.0.0.{number}", "tcp", 80): Treatment(inside, *both),
        Frontend(4, MINION, "tcp", 30000 + number): Treatment(outside, *both, virtual=False),
        Frontend(4, f"203.0.113.{number}", "tcp", 80): Treatment(outside, *both, ranges, virtual=False),
    }


def path(kernel: FakeKernel, commit_ops: int = 1000) -> Nftables:
    return Nftables(kernel, PARAMETERS, commit_ops)


def reached(kernel: FakeKernel, address: str, port: int, source: str = OUTSIDE) -> Way:
    """(endpoints, masqueraded) of a connection, or its verdict."""
    outcome = trace(kernel, Packet(source, address, "tcp", port, outgoing=source == MINION))
    if outcome.verdict != "translated":
        return outcome.verdict
    (masqueraded,) = {a.masqueraded for a in outcome.arrivals}
    return sorted(int(a.address.rpartition(".")[2]) for a in outcome.arrivals), masqueraded


@pytest.mark.parametrize("pick", PICKS_OF_ALL, ids=str)
def test_external_traffic_policy_local_has_a_short_way_for_pods_and_the_minion(pick: Pick) -> None:
    kernel = FakeKernel()
    path(kernel).sync(service("web", 1, (11, 12, 3), pick, policy="outside"))
    for address, port in ((MINION, 30001), ("203.0.113.1", 80)):
        assert reached(kernel, address, port, POD) == ([3, 11, 12], False)
        assert reached(kernel, address, port, MINION) == ([3, 11, 12], True)
        assert reached(kernel, address, port) == ([3], False)
    path(kernel).sync(service("web", 1, (11, 12), pick, policy="outside"))
    assert reached(kernel, MINION, 30001) == "dropped"
    assert reached(kernel, MINION, 30001, POD) == ([11, 12], False)
    assert reached(kernel, MINION, 30001, MINION) == ([11, 12], True)


def test_without_cluster_cidr_pods_count_as_outside() -> None:
    kernel = FakeKernel()
    Nftables(kernel, (OPEN,)).sync(service("web", 1, (11, 3), policy="outside"))
    assert reached(kernel, MINION, 30001, POD) == ([3], False)
    assert reached(kernel, MINION, 30001, MINION) == ([3, 11], True)
    Nftables(kernel, (OPEN,)).sync(service("web", 1, (11, 3)))
    assert reached(kernel, MINION, 30001, POD) == ([3, 11], True)


def test_with_masquerade_all_everything_is_masqueraded() -> None:
    kernel = FakeKernel()
    Nftables(kernel, (replace(PARAMETERS[0], masquerade_all=True),)).sync(service("web", 1, (11, 3), policy="both"))
    for source in (POD, MINION, OUTSIDE):
        for address, port in (("10.0.0.1", 80), (MINION, 30001)):
            found = reached(kernel, address, port, source)
            assert isinstance(found, tuple)
            assert found[1]


@pytest.mark.parametrize("policy", ["", "outside"])
@pytest.mark.parametrize("targets", [(11, 3), ()])
def test_who_is_not_in_the_ranges_is_dropped_before_all_else(policy: str, targets: tuple[int, ...]) -> None:
    kernel = FakeKernel()
    ranges = ("198.51.100.0/25", "198.51.100.9/24", "192.0.2.1/32")
    path(kernel).sync(service("web", 1, targets, ranges=ranges, policy=policy))
    inside = reached(kernel, "203.0.113.1", 80, "198.51.100.200")
    assert inside == (reached(kernel, MINION, 30001) if targets else "refused")
    assert reached(kernel, "203.0.113.1", 80, "192.0.2.1") == inside
    assert reached(kernel, "203.0.113.1", 80, "192.0.2.2") == "dropped"
    assert reached(kernel, "203.0.113.1", 80, POD) == "dropped"
    assert len(kernel.tables[4].maps[SOURCE_RANGES]) == 2


def test_only_a_virtual_ip_refuses_its_undefined_ports() -> None:
    kernel = FakeKernel()
    for targets in ((1,), ()):
        path(kernel).sync(service("web", 1, targets))
        assert reached(kernel, "10.0.0.1", 81) == "refused"
        assert reached(kernel, MINION, 22) == "passed"
        assert reached(kernel, "203.0.113.1", 81) == "passed"
        assert len(kernel.tables[4].maps[VIRTUAL_IPS]) == 1


def test_one_client_keeps_its_endpoint_whichever_address_it_uses() -> None:
    kernel = FakeKernel()
    path(kernel).sync(service("web", 1, (11, 12, 3), STICKY))
    tables = kernel.tables[4]
    base = 0x10000
    tables.maps[AFFINITY][base.to_bytes(4, "little") + bytes(map(int, OUTSIDE.split(".")))] = (base + 2).to_bytes(
        4, "little"
    )
    first = reached(kernel, "10.0.0.1", 80)
    assert isinstance(first, tuple)
    assert len(first[0]) == 1
    assert reached(kernel, MINION, 30001) == (first[0], True)
    rest = tuple(n for n in (11, 12, 3) if n not in first[0])
    path(kernel).sync(service("web", 1, rest, STICKY))
    assert reached(kernel, "10.0.0.1", 80) == (sorted(rest), True)


def test_members_stay_when_others_come_and_go() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    worlds = [service("web", 1, n, STICKY) for n in ((1, 3, 5), (1, 3), (1, 3, 7), (3, 7, 9, 11))]
    seen: dict[bytes, bytes] = {}
    for before, after in itertools.pairwise([{}, *worlds]):
        nft.apply(diff(before, after)) if before else nft.sync(after)
        for member, target in kernel.tables[4].maps[MEMBERS].items():
            assert seen.setdefault(member, target) == target, "a member never stands for another endpoint soon"
    assert len(kernel.tables[4].maps[MEMBERS]) == 4


def test_more_weight_than_affinity_has_slots_is_scaled_down() -> None:
    kernel = FakeKernel()
    targets = tuple(Target(f"10.244.{n // 200}.{n % 200 + 1}", 80, 256 - n % 3) for n in range(300))
    wanted: Desired = {Frontend(4, "10.0.0.1", "tcp", 80): Treatment(Class.CLUSTER, owner("a"), targets, pick=EVER)}
    path(kernel).sync(wanted)
    assert len(kernel.tables[4].maps[PICKS]) <= 0xFFF
    assert len(kernel.tables[4].maps[MEMBERS]) == 300
    assert not path(kernel).sync(wanted)


def worlds(rng: random.Random, services: int = 5) -> Desired:
    """Some services, each with its own mixture; a number may stand for another name's service next time."""
    found: Desired = {}
    for i in rng.sample(range(1, services + 3), services):
        ranges = rng.choice([(), (), ("198.51.100.0/24",), ("198.51.0.0/16", "192.0.2.0/24")])
        targets = tuple(rng.sample(range(1, 20), rng.choice((0, 1, 2, 4))))
        name = f"s{i}" if rng.random() < 0.8 else f"other{i}"
        found |= service(name, i, targets, rng.choice(PICKS_OF_ALL), ranges, rng.choice(("", "outside", "both")))
    return found


def packets(wanted: Desired) -> Iterator[tuple[str, int, str]]:
    for front in wanted:
        for source in (POD, MINION, OUTSIDE, "192.0.2.9"):
            yield front.address, front.port, source


def targets(world: Desired, packet: tuple[str, int, str]) -> set[int]:
    treatment = world.get(Frontend(4, packet[0], "tcp", packet[1]))
    return {int(t.address.rpartition(".")[2]) for t in treatment.targets} if treatment else set()


def elements(kernel: FakeKernel) -> dict[str, int]:
    return {name: len(found) for name, found in kernel.tables[4].maps.items() if "chains" not in name}


@pytest.mark.parametrize("seed", range(6))
def test_a_start_over_the_same_records_writes_nothing(seed: int) -> None:
    kernel, rng = FakeKernel(), random.Random(seed)
    nft, before = path(kernel), Desired()
    for _ in range(6):
        wanted = worlds(rng)
        nft.apply(diff(before, wanted)) if before else nft.sync(wanted)
        before = wanted
        commits = len(kernel.log)
        assert not path(kernel).sync(wanted)
        assert len(kernel.log) == commits
        fresh = FakeKernel()
        path(fresh).sync(wanted)
        assert elements(kernel) == elements(fresh)
        assert [reached(kernel, *p) for p in packets(wanted)] == [reached(fresh, *p) for p in packets(wanted)]


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_between_any_two_commits_leaves_each_packet_its_old_or_its_new_way(seed: int) -> None:
    rng = random.Random(100 + seed)
    first, second = worlds(rng, 2), worlds(rng, 2)
    ways = []
    for world in (first, second):
        kernel = FakeKernel()
        path(kernel).sync(world)
        ways.append({p: reached(kernel, *p) for p in packets(first | second)})
    # A table of hashed slots would be hundreds of cuts that are alike.
    commit_ops = 24 if HASH in {t.pick for t in (first | second).values()} else 2
    for cut in itertools.count():
        kernel = FakeKernel()
        path(kernel).sync(first)
        kernel.fail_after = len(kernel.log) + cut
        try:
            path(kernel, commit_ops).sync(second)
        except KernelError:
            done = False
        else:
            done = True
        for packet in packets(first | second):
            now, either = reached(kernel, *packet), targets(first, packet) | targets(second, packet)
            assert_fits(now, ways[0][packet], ways[1][packet], either)
        kernel.fail_after = None
        path(kernel).sync(second)
        assert {p: reached(kernel, *p) for p in packets(first | second)} == ways[1]
        fresh = FakeKernel()
        path(fresh).sync(second)
        assert elements(kernel) == elements(fresh)
        if done:
            return


def assert_fits(now: Way, before: Way, after: Way, targets: set[int]) -> None:
    """Old, new, or endpoints that the service had or has; what comes or goes may be refused or dropped for a moment."""
    if isinstance(now, tuple):
        assert set(now[0]) <= targets
    else:
        assert now in (before, after) or not (isinstance(before, tuple) and isinstance(after, tuple))


serving = st.builds(
    ServingClass,
    st.sampled_from(sorted(SERVING, key=lambda k: k.value)),
    st.integers(1, 0xFFF),
    st.sampled_from(["random", "hash"]),
    st.just(0),
) | st.builds(
    ServingClass,
    st.sampled_from(sorted(SERVING - PROXIED, key=lambda k: k.value)),
    st.integers(1, 0xFFF),
    st.just("affinity"),
    st.integers(0, 0x1FFFF),
)


@given(serving)
def test_a_class_reads_back_from_its_code_and_from_its_chain(found: ServingClass) -> None:
    assert class_of(found.code()) == found
    assert codes_of(["dispatch", found.chain(), "cluster-", "ranged"]) == {found.code()}


@given(st.lists(serving, max_size=20))
def test_no_two_classes_share_a_code(found: list[ServingClass]) -> None:
    assert len({c.code() for c in found}) == len(set(found))
    assert not {c.code() for c in found} & {n << 16 for n in range(16)}


def test_every_element_has_words_that_nft_reads() -> None:
    kernel = FakeKernel()
    nft = path(kernel)
    wanted = service("a", 1, (1, 11), STICKY, ("198.51.0.0/16",), "both") | service("b", 2, (1,), HASH)
    nft.sync(wanted)
    said = {op.table: element_text(op) for batch in kernel.log for op in batch if isinstance(op, Op)}
    assert said["source-ranges"] == "203.0.113.1 . tcp . 80 . 198.51.0.0/16"
    assert said["members"].startswith("1:8001 : 10.244.0.1 . 8080")
    assert said["picks"] == "1:0 . 32768 : 1:8001"
