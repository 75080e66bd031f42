"""Who gets a client's next connection in userspace mode, by the values alone."""

from collections import Counter
from collections.abc import Mapping

import pytest

from svcnet.iptables.desired import Pick, Target
from svcnet.iptables.elements import target_data
from svcnet.iptables.held import share_out
from svcnet.jhash import jhash, scaled
from svcnet.proxy.hashed import HASH_SEED, packed
from svcnet.proxy.lead import Lead, Neighbours
from svcnet.proxy.notes import Room
from svcnet.proxy.pool import Pool
from svcnet.proxy.row import Backend, Choice, Reach, Rule, Service
from svcnet.rendezvous import Rendezvous
from tests.harness.time import Time

A, B, C = (Backend(f"10.244.1.{n}", 8080) for n in (2, 3, 4))
CLIENTS = [f"10.1.{n // 250}.{n % 250}" for n in range(500)]
SECONDS = 60


def pool(*backends: Backend, choice: Choice = Choice.AFFINITY, room: int = 1000, seconds: int = SECONDS) -> Pool:
    made = Pool("web", Room(room), Time())
    lead(made, *backends, choice=choice, seconds=seconds)
    return made


def lead(made: Pool, *backends: Backend, choice: Choice = Choice.AFFINITY, seconds: int = SECONDS) -> None:
    made.update(Service("web", dict.fromkeys(backends, 1), {}, choice, seconds))


def where(made: Pool, now: float = 0.0) -> Mapping[str, Backend | None]:
    return {client: made.pick(client, now) for client in CLIENTS}


def noted(made: Pool) -> int:
    return sum(len(scope.notes) for scope in made.scopes.values())


def test_a_client_that_comes_in_both_ways_stays_on_each() -> None:
    web = Pool("web", Room(), Time())
    web.update(Service("web", {A: 1, B: 1, C: 1}, {A: 1, B: 1}, Choice.AFFINITY, SECONDS))
    first = {(client, local): web.pick(client, 0.0, local=local) for client in CLIENTS for local in (False, True)}
    assert {(c, local): web.pick(c, 1.0, local=local) for c, local in first} == first
    web.update(Service("web", {A: 1, B: 1}, {A: 1}, Choice.AFFINITY, SECONDS))
    for (client, local), backend in first.items():
        if not local and backend != C:
            assert web.pick(client, 2.0) == backend


def test_with_affinity_every_client_stays_while_others_come_and_loses_its_place_with_its_backend_alone() -> None:
    web = pool(A, B)
    before = where(web)
    assert set(before.values()) == {A, B}
    lead(web, A, B, C)
    assert where(web) == before
    lead(web, A, C)
    after = where(web)
    assert {c for c in CLIENTS if after[c] != before[c]} == {c for c in CLIENTS if before[c] == B}


def test_a_worker_that_was_just_started_leads_every_client_where_the_last_one_did() -> None:
    assert where(pool(A, B, C)) == where(pool(A, B, C))


def test_each_connection_begins_the_time_anew_and_after_it_a_client_is_a_stranger() -> None:
    web = pool(A, seconds=SECONDS)
    client = next(c for c in CLIENTS if pool(A, B).pick(c, 0.0) == B)
    assert web.pick(client, 0.0) == A
    lead(web, A, B)
    assert web.pick(client, SECONDS - 1) == A
    assert web.pick(client, 2 * SECONDS - 2) == A
    assert web.pick(client, 3 * SECONDS - 2) == B


def test_affinity_of_0_seconds_never_ends() -> None:
    web = pool(A, seconds=0)
    before = where(web)
    lead(web, A, B, seconds=0)
    assert where(web, 1e9) == before


def test_a_backend_that_does_not_answer_loses_its_client_to_the_one_that_does() -> None:
    web = pool(A, B, C)
    client = CLIENTS[0]
    first = web.pick(client, 0.0)
    assert first is not None
    second = web.pick(client, 0.0, (first,))
    assert second not in {None, first}
    assert web.pick(client, 1.0) == second
    assert web.pick(client, 1.0, (A, B, C)) is None
    assert noted(web) == 0


def test_notes_have_a_limit_and_who_was_away_longest_is_forgotten_first() -> None:
    room = Room(100)
    web, other = Pool("web", room, Time()), Pool("other", room, Time())
    for made in (web, other):
        lead(made, A)
    for client in CLIENTS[:100]:
        web.pick(client, 0.0)
    web.pick(CLIENTS[0], 1.0)
    web.pick("10.9.9.9", 1.0)
    assert noted(web) == 100
    lead(web, A, B)
    moved = {c for c in CLIENTS[:100] if web.pick(c, 1.0) != A}
    assert CLIENTS[0] not in moved
    assert other.pick(CLIENTS[0], 1.0) == A
    assert (room.used, noted(other)) == (100, 0)


def test_notes_whose_time_is_over_make_room_as_others_are_written() -> None:
    web = pool(A)
    for client in CLIENTS[:100]:
        web.pick(client, 0.0)
    for client in CLIENTS[100:150]:
        web.pick(client, SECONDS)
    assert noted(web) == 50


@pytest.mark.parametrize("weights", [{A: 1, B: 1, C: 1}, {A: 3, B: 1}])
def test_source_hash_leads_a_client_where_the_kernel_paths_do(weights: dict[Backend, int]) -> None:
    web = Pool("web", Room(), Time())
    web.update(Service("web", weights, {}, Choice.HASH))
    shares = share_out(tuple(Target(b.address, b.port, w) for b, w in weights.items()), Pick("hash"))
    slots = Rendezvous().assign(shares)
    names = {target_data(*backend): backend for backend in weights}
    for client in CLIENTS:
        slot = scaled(jhash(packed(client), HASH_SEED), len(slots))
        assert web.pick(client, 0.0) == names[slots[slot]]


def test_by_turn_everybody_gets_the_next() -> None:
    web = pool(A, B, choice=Choice.TURN)
    assert Counter(where(web).values()) == {A: 250, B: 250}
    assert noted(web) == 0


def test_pods_and_the_minion_itself_have_all_backends_others_those_of_this_minion() -> None:
    web = Pool("web", Room(), Time())
    web.update(Service("web", {A: 1, B: 1}, {A: 1}))
    near = Neighbours(["10.244.0.0/16", "fd00:244::/32"], lambda address: address == "192.0.2.1")
    frontend = Lead(near, lambda: 0.0)
    assert frontend.picker("10.244.9.9")(()) is None
    frontend.follow(web, Reach.BY_SOURCE)
    for client in ("10.244.9.9", "192.0.2.1", "fd00:244::9"):
        assert frontend.weights(client) == {A: 1, B: 1}
    for client in ("203.0.113.9", "2001:db8::1"):
        assert frontend.weights(client) == {A: 1}
        assert {frontend.picker(client)(()) for _ in range(4)} == {A}
    assert frontend.follow(web, Reach.LOCAL) is None
    assert frontend.weights("10.244.9.9") == {A: 1}
    assert frontend.follow(None) is web


def test_a_rule_arrives_as_it_was_sent() -> None:
    rule = Rule(Service("web", {A: 3, B: 1}, {A: 3}, Choice.AFFINITY, 7), Reach.BY_SOURCE)
    assert Rule.decoded(rule.encoded()) == rule
