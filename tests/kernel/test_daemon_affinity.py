"""Many clients of one service: who stays where, and who moves when an endpoint goes."""

import json

import pytest

from tests.harness.crowd import CLIENTS, Visits, moved, settle, sticky, visit
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until

pytestmark = pytest.mark.kernel


@pytest.fixture
def crowd(minion: Minion) -> Minion:
    """A minion on which every address of CLIENTS may be a client's."""
    settle(minion)
    return minion


def members(minion: Minion) -> int:
    return len(minion.elements("members")) + len(minion.elements("members", "ip6"))


def test_250_clients_stay_until_their_endpoint_goes_also_over_restarts(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(10800), endpoints("web", A, B), endpoints("web", A6, B6))
    daemon = minion.daemon().ready()
    for family, vip, first, second in ((4, VIP, A, B), (6, VIP6, A6, B6)):
        clients = CLIENTS[family]
        before = visit(minion, vip, clients)
        assert set(before.values()) == {first, second}
        assert [moved(before, visit(minion, vip, clients)) for _ in range(2)] == [set(), set()]

    four, six = (visit(minion, vip, CLIENTS[f]) for f, vip in ((4, VIP), (6, VIP6)))
    daemon.kill()
    daemon = minion.daemon().ready()
    assert daemon.stop() == 0
    minion.put(service("other", "10.0.0.6"), endpoints("other", C))
    minion.daemon().ready()
    assert minion.reaches("10.0.0.6", C)
    assert moved(four, visit(minion, VIP, CLIENTS[4])) == set()
    assert moved(six, visit(minion, VIP6, CLIENTS[6])) == set()

    minion.put(endpoints("web", A, C), endpoints("web", A6))
    until(lambda: minion.plan() == "0 to create, 0 to update, 0 to delete")
    assert members(minion) == 3
    after = visit(minion, VIP, CLIENTS[4])
    assert moved(four, after) == {client for client, where in four.items() if where == B}
    assert set(after.values()) == {A, C}
    assert moved(after, visit(minion, VIP, CLIENTS[4])) == set()
    assert set(visit(minion, VIP6, CLIENTS[6]).values()) == {A6}


def test_a_client_is_forgotten_when_its_time_is_over_and_every_connection_begins_it_anew(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(4), endpoints("web", A, B))
    minion.daemon().ready()
    (client, *rest) = CLIENTS[4][:20]

    def left() -> int:
        """Seconds that the client has left; -1 for a stranger."""
        notes = [json.loads(note) for note in minion.elements("affinity")]
        found = [key["elem"]["expires"] for key, _ in notes if key["elem"]["val"]["concat"][1] == client]
        return found[0] if found else -1

    def begins_anew() -> bool:
        """A visit late in its time leaves it more than there was; one that came too late is another's begin."""
        before = left()
        if 0 <= before < 3:
            visit(minion, VIP, [client])
            return left() > before
        if before < 0:
            visit(minion, VIP, [client])
        return False

    until(begins_anew)
    visit(minion, VIP, rest)
    until(lambda: not minion.elements("affinity"))
    assert set(visit(minion, VIP, [client, *rest]).values()) == {A, B}


def test_affinity_without_an_end_outlasts_what_has_one(crowd: Minion) -> None:
    minion = crowd
    record = sticky(1)
    minion.put(record, endpoints("web", A, B))
    minion.daemon().ready()
    visit(minion, VIP, CLIENTS[4])
    record["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] = 0
    minion.put(record)
    until(lambda: "timeout 3650d" in minion.ruleset())
    until(lambda: not minion.elements("affinity"))
    before = visit(minion, VIP, CLIENTS[4])
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()
    assert len(minion.elements("affinity")) == len(CLIENTS[4])


def test_source_hash_leads_a_client_to_one_endpoint_and_moves_those_of_one_that_goes_alone(crowd: Minion) -> None:
    minion = crowd
    record = service("web", VIP, protocols=["TCP"])
    record["metadata"]["annotations"] = {"svcnet.dev/balance": "source-hash"}
    minion.put(record, endpoints("web", A, B, C))
    minion.daemon().ready()
    before = visit(minion, VIP, CLIENTS[4])
    assert set(before.values()) == {A, B, C}
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()
    minion.put(endpoints("web", A, C))
    until(lambda: _visit_of(minion, before, B) != B)
    after = visit(minion, VIP, CLIENTS[4])
    assert moved(before, after) == {client for client, where in before.items() if where == B}
    minion.put(endpoints("web", A, B, C))
    until(lambda: _visit_of(minion, before, B) == B)
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()


def _visit_of(minion: Minion, visits: Visits, where: str) -> str:
    """Whom one of the clients of an endpoint reaches now."""
    client = next(c for c, w in visits.items() if w == where)
    return visit(minion, VIP, [client])[client]


def test_all_of_it_lists_and_a_second_plan_is_empty(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(60), endpoints("web", A, B), endpoints("web", A6))
    minion.daemon().ready()
    visit(minion, VIP6, CLIENTS[6][:3])
    assert "update @affinity" in minion.ruleset()
    assert minion.plan() == "0 to create, 0 to update, 0 to delete"
