"""Near endpoints first, and what goes further when too few of them are well: from records, and in the proxy."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.endpoints import Networks
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.event import Put, Verdict
from svcnet.model.level import Level
from svcnet.model.meta import Key, Meta, pairs
from svcnet.model.node import Node
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import PortKey, ServedPort
from svcnet.model.terms import Eject, Locality, Terms
from svcnet.nearness import Nearness
from svcnet.proxy import row
from svcnet.proxy.notes import Room
from svcnet.proxy.pool import Pool
from svcnet.proxy.row import Backend, Choice
from svcnet.tracker import Tracker
from tests.harness.time import Time

NEAR = [Backend(f"10.1.1.{n}", 80) for n in range(4)]
ZONE = [Backend(f"10.1.2.{n}", 80) for n in range(4)]
FAR = [Backend(f"10.1.3.{n}", 80) for n in range(4)]
ALL = [*NEAR, *ZONE, *FAR]
LEVELS = tuple(Level(tuple(members)) for members in (NEAR, ZONE, FAR))
CLIENTS = [f"10.9.{n // 250}.{n % 250}" for n in range(2000)]
WEB = Key("Service", "default", "web")


def records(annotation: str, *, health: str = "off") -> list[Record]:
    def entry(address: str, node: str, zone: str) -> SliceEndpoint:
        return SliceEndpoint((address,), node=node, zone=zone)

    ends = entry("10.1.1.1", "m1", "a"), entry("10.1.1.2", "m1", "a"), entry("10.1.2.1", "m2", "a")
    slices = EndpointSlice(
        Meta("web", "default", pairs({"kubernetes.io/service-name": "web"})),
        endpoints=(*ends, entry("10.1.3.1", "m3", "b")),
        ports=(EndpointPort(80),),
    )
    asked = pairs({"svcnet.dev/locality": annotation, "svcnet.dev/health": health})
    service = Service(Meta("web", "default", annotations=asked), (ServicePort(80),), cluster_ips=("10.0.0.5",))
    return [service, slices]


def zone(name: str) -> Node:
    return Node(Meta("m1", labels=pairs({"topology.kubernetes.io/zone": name})))


def served(tracker: Tracker) -> ServedPort:
    return tracker.snapshot.ports[PortKey("default", "web", "TCP", 80, 4)]


def steps(tracker: Tracker) -> list[list[str]]:
    return [[address for address, _ in level.members] for level in served(tracker).levels]


def told(*found: Record) -> Tracker:
    tracker = Tracker(Networks(()), "m1")
    tracker.fold([Put(record, 1) for record in found])
    return tracker


def test_the_steps_are_this_minion_its_zone_and_all_others_and_none_is_left_out() -> None:
    tracker = told(*records("node"), zone("a"))
    assert steps(tracker) == [["10.1.1.1", "10.1.1.2"], ["10.1.2.1"], ["10.1.3.1"]]
    assert len(served(tracker).endpoints) == 4
    tracker.fold([Put(record, 2) for record in records("zone")])
    assert steps(tracker) == [["10.1.1.1", "10.1.1.2", "10.1.2.1"], ["10.1.3.1"]]
    tracker.fold([Put(record, 3) for record in records("off")])
    assert steps(tracker) == []


def test_without_a_zone_all_but_this_minion_s_are_far_and_one_that_it_gets_is_heard_of() -> None:
    tracker = told(*records("node"))
    assert steps(tracker) == [["10.1.1.1", "10.1.1.2"], ["10.1.2.1", "10.1.3.1"]]
    tracker.fold([Put(zone("b"), 2)])
    assert steps(tracker) == [["10.1.1.1", "10.1.1.2"], ["10.1.3.1"], ["10.1.2.1"]]


def test_who_fails_a_health_check_is_missing_in_its_step() -> None:
    tracker = told(*records("node", health="tcp"), zone("a"))
    tracker.fold([Verdict(WEB, "10.1.1.2", 80, "refused")])
    assert [level.passing for level in served(tracker).levels] == [0.5, 1.0, 1.0]
    tracker.fold([Verdict(WEB, "10.1.2.1", 80, "refused", "m2")])
    assert steps(tracker) == [["10.1.1.1"], ["10.1.3.1"]]
    assert [level.passing for level in served(tracker).levels] == [0.5, 1.0]


def test_in_a_panic_of_checks_nobody_is_missing() -> None:
    tracker = told(*records("node", health="tcp,panic=80"), zone("a"))
    tracker.fold([Verdict(WEB, "10.1.1.2", 80, "refused")])
    assert [level.passing for level in served(tracker).levels] == [1.0, 1.0, 1.0]
    assert steps(tracker)[0] == ["10.1.1.1", "10.1.1.2"]


@pytest.mark.parametrize(
    ("out", "share", "expected"),
    [
        ([], 70, [1, 0, 0]),
        (NEAR[:1], 70, [1, 0, 0]),  # 75 % are well
        (NEAR[:2], 70, [50 / 70, 20 / 70, 0]),
        (NEAR[:2], 100, [0.5, 0.5, 0]),
        (NEAR[:2], 50, [1, 0, 0]),
        (NEAR, 70, [0, 1, 0]),
        ([*NEAR[:3], *ZONE[:3]], 100, [0.25, 0.25, 0.5]),
        ([*NEAR, *ZONE, *FAR[:3]], 70, [0, 0, 1]),
        ([*NEAR[:3], *ZONE[:3], *FAR[:3]], 100, [1 / 3, 1 / 3, 1 / 3]),  # too few in all: all that there is
        (ALL, 70, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_a_step_with_less_than_its_share_well_leaves_the_rest_to_the_next(
    out: list[Backend], share: int, expected: list[float]
) -> None:
    assert Nearness(LEVELS, share).parts(dict.fromkeys(ALL, 1), out) == pytest.approx(expected)


def test_what_fails_its_check_and_what_is_ejected_add_up() -> None:
    levels = (LEVELS[0]._replace(passing=0.8), *LEVELS[1:])
    assert Nearness(levels, 100).parts(dict.fromkeys(ALL, 1), NEAR[:2]) == pytest.approx([0.4, 0.6, 0])


def test_weights_count_and_not_heads() -> None:
    weights = dict.fromkeys(ALL, 1) | {NEAR[0]: 5}
    assert Nearness(LEVELS, 100).parts(weights, NEAR[:1]) == pytest.approx([3 / 8, 5 / 8, 0])


@given(st.sets(st.sampled_from(ALL)), st.integers(1, 100), st.lists(st.integers(1, 256), min_size=12, max_size=12))
def test_all_traffic_goes_somewhere_and_each_step_gets_its_part(
    out: set[Backend], share: int, sizes: list[int]
) -> None:
    weights = dict(zip(ALL, sizes, strict=True))
    near = Nearness(LEVELS, share)
    parts = near.parts(weights, out)
    assert sum(parts) == pytest.approx(1)
    left = {b: w for b, w in weights.items() if b not in out} or weights
    weighed = near.weighed(left, parts if left is not weights else near.parts(weights, ()))
    assert weighed
    if left is weights:
        return
    total = sum(weighed.values())
    for members, part in zip((NEAR, ZONE, FAR), parts, strict=True):
        assert sum(weighed.get(b, 0) for b in members) / total == pytest.approx(part, abs=1e-3)


def pool(time: Time, choice: Choice = Choice.TURN, share: int = 100, local: tuple[Backend, ...] = ()) -> Pool:
    made = Pool("web", Room(), time)
    terms = Terms(locality=Locality("node", share), eject=Eject(failures=1, base_seconds=5, share=100))
    here = dict.fromkeys(local, 1)
    made.update(row.Service("web", dict.fromkeys(ALL, 1), here, choice, 0, terms, LEVELS))
    return made


def picked(made: Pool, times: int = 1200) -> Mapping[Backend | None, int]:
    return Counter(made.pick("10.9.0.1", 0.0) for _ in range(times))


@pytest.mark.parametrize("choice", [Choice.TURN, Choice.CHANCE, Choice.LEAST])
def test_connections_stay_near_spill_in_proportion_and_come_back(choice: Choice) -> None:
    time = Time()
    web = pool(time, choice)
    assert set(picked(web)) == set(NEAR)
    for backend in NEAR[:2]:
        web.failed(backend)
    found = picked(web)
    assert set(found) == {*NEAR[2:], *ZONE}
    assert sum(found[b] for b in NEAR) == pytest.approx(600, abs=120)
    time.go(6)
    assert set(picked(web)) == set(NEAR)


def test_in_turns_the_parts_are_exact() -> None:
    web = pool(Time())
    for backend in NEAR[:2]:
        web.failed(backend)
    found = picked(web, 800)
    assert [found[b] for b in (*NEAR[2:], *ZONE)] == pytest.approx([200, 200, 100, 100, 100, 100], abs=1)


def test_a_try_after_failed_ones_goes_further_when_all_who_are_near_failed() -> None:
    web = pool(Time())
    assert web.pick("10.9.0.1", 0.0, NEAR[:3]) == NEAR[3]
    assert web.pick("10.9.0.1", 0.0, NEAR) in ZONE
    assert web.pick("10.9.0.1", 0.0, [*NEAR, *ZONE]) in FAR
    assert web.pick("10.9.0.1", 0.0, ALL) is None


@pytest.mark.parametrize("choice", [Choice.HASH, Choice.AFFINITY])
def test_by_their_address_only_as_many_clients_move_as_spill(choice: Choice) -> None:
    def where(made: Pool) -> dict[str, Backend | None]:
        return {client: made.pick(client, 0.0) for client in CLIENTS}

    time = Time()
    web = pool(time, choice)
    before = where(web)
    assert set(before.values()) == set(NEAR)
    web.failed(NEAR[0])
    after = where(web)
    moved = {c for c in CLIENTS if before[c] != after[c]}
    assert {c for c in CLIENTS if before[c] == NEAR[0]} <= moved
    further = [c for c in CLIENTS if after[c] not in NEAR]
    assert set(after.values()) - set(NEAR) == set(ZONE) or choice is Choice.AFFINITY
    if choice is Choice.HASH:
        assert len(further) == pytest.approx(len(CLIENTS) / 4, rel=0.15)
        assert where(web) == after
        assert where(failed(pool(Time(), choice), NEAR[0])) == after, "so does every worker"
        time.go(6)
        assert where(web) == before


def failed(made: Pool, backend: Backend) -> Pool:
    made.failed(backend)
    return made


@pytest.mark.parametrize("choice", list(Choice))
def test_when_nobody_is_well_all_are_tried(choice: Choice) -> None:
    web = pool(Time(), choice)
    for backend in ALL:
        web.failed(backend)
    tried: list[Backend] = []
    while (found := web.pick("10.9.0.1", 0.0, tried)) is not None:
        tried.append(found)
    assert sorted(tried) == sorted(ALL)


def test_in_panic_a_step_of_which_all_fail_is_spared_all_the_same() -> None:
    time = Time()
    web = Pool("web", Room(), time)
    terms = Terms(locality=Locality("node"), eject=Eject(failures=1, share=10))
    web.update(row.Service("web", dict.fromkeys(ALL, 1), {}, Choice.TURN, 0, terms, LEVELS))
    for backend in NEAR:
        web.failed(backend)
    assert web.out == set(), "more than a tenth should be out"
    assert set(picked(web)) == set(ZONE)
    web.answered(NEAR[0])
    assert set(picked(web)) == {NEAR[0], *NEAR[1:], *ZONE}


def test_policy_local_has_one_step() -> None:
    web = pool(Time(), local=tuple(NEAR[:2]))
    web.failed(NEAR[0])
    assert {web.pick("10.9.0.1", 0.0, local=True) for _ in range(10)} == {NEAR[1]}


def test_slow_start_holds_within_a_step() -> None:
    time = Time()
    web = Pool("web", Room(), time)
    terms = Terms(locality=Locality("node"), slow_start_seconds=100)
    for targets in (ALL[1:], ALL):
        web.update(row.Service("web", dict.fromkeys(targets, 1), {}, Choice.TURN, 0, terms, LEVELS))
    found = picked(web, 3100)
    assert set(found) == set(NEAR)
    assert found[NEAR[0]] == pytest.approx(100, abs=5)
