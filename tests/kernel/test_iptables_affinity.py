"""Many clients of one service in iptables mode, on both kinds of tables: who stays where, and who moves."""

import re

import pytest

from tests.harness.crowd import CLIENTS, Visits, moved, settle, sticky, visit
from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until
from tests.kernel.test_iptables_daemon import IPTABLES, NFTABLES, VARIANTS, choose, plan

pytestmark = [pytest.mark.kernel, pytest.mark.needs("iptables", "ipset")]

FOUR = CLIENTS[4]
SHOP = ("ipset", "create", "shop", "hash:ip")


@pytest.fixture(params=VARIANTS)
def crowd(minion: Minion, request: pytest.FixtureRequest) -> Minion:
    """A minion on which every address of CLIENTS may be a client's, and others have rules and ipsets."""
    settle(minion)
    choose(minion, request.param)
    assert minion.run(*SHOP).returncode == 0
    return minion


def sets(minion: Minion) -> dict[str, dict[str, int]]:
    """Our ipsets: name → client → seconds that it has left (0: for ever)."""
    found: dict[str, dict[str, int]] = {}
    for line in minion.run("ipset", "save").stdout.splitlines():
        word, name, *rest = line.split()
        if word == "create":
            found[name] = {}
        else:
            found[name][rest[0]] = int(rest[2]) if len(rest) > 2 else 0
    assert found.pop("shop") == {}
    assert all(name.startswith("svcnet-") for name in found)
    return found


def restarted(minion: Minion, daemon: Daemon) -> Daemon:
    daemon.kill()
    return minion.daemon(IPTABLES).ready()


def test_250_clients_stay_until_their_endpoint_goes_also_over_restarts(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(10800), endpoints("web", A, B), endpoints("web", A6, B6))
    daemon = minion.daemon(IPTABLES).ready()
    for family, vip, first, second in ((4, VIP, A, B), (6, VIP6, A6, B6)):
        before = visit(minion, vip, CLIENTS[family])
        assert set(before.values()) == {first, second}
        assert [moved(before, visit(minion, vip, CLIENTS[family])) for _ in range(2)] == [set(), set()]
    four, six = (visit(minion, vip, CLIENTS[f]) for f, vip in ((4, VIP), (6, VIP6)))

    daemon = restarted(minion, daemon)
    assert plan(minion) == "0 to create, 0 to update, 0 to delete"
    minion.put(service("other", "10.0.0.6"), endpoints("other", C))
    assert minion.reaches("10.0.0.6", C)
    minion.put(sticky(3600))
    until(lambda: "--timeout 3600" in rules_of(minion))
    assert moved(four, visit(minion, VIP, FOUR)) == set()
    assert moved(six, visit(minion, VIP6, CLIENTS[6])) == set()

    minion.put(endpoints("web", A, C), endpoints("web", A6))
    until(lambda: plan(minion) == "0 to create, 0 to update, 0 to delete" and len(sets(minion)) == 3)
    after = visit(minion, VIP, FOUR)
    assert moved(four, after) == {client for client, where in four.items() if where == B}
    assert set(after.values()) == {A, C}
    assert moved(after, visit(minion, VIP, FOUR)) == set()
    assert set(visit(minion, VIP6, CLIENTS[6]).values()) == {A6}
    assert daemon.status()["last_error"] == ""


def test_a_client_is_forgotten_when_its_time_is_over_and_every_connection_begins_it_anew(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(4), endpoints("web", A, B))
    minion.daemon(IPTABLES).ready()
    client, *rest = FOUR[:20]

    def left() -> int:
        """Seconds that the client has left; -1 for a stranger."""
        return next((members[client] for members in sets(minion).values() if client in members), -1)

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
    until(lambda: not any(sets(minion).values()))
    assert set(visit(minion, VIP, [client, *rest]).values()) == {A, B}


def test_affinity_without_an_end_stays(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(0), endpoints("web", A, B))
    minion.daemon(IPTABLES).ready()
    before = visit(minion, VIP, FOUR)
    assert moved(before, visit(minion, VIP, FOUR)) == set()
    assert {seconds for members in sets(minion).values() for seconds in members.values()} == {0}


def test_a_client_keeps_its_endpoint_at_every_address_of_the_service(crowd: Minion) -> None:
    minion = crowd
    record = sticky(10800, type="NodePort", externalIPs=["203.0.113.9"])
    record["spec"]["ports"][0]["nodePort"] = 30080
    minion.put(record, endpoints("web", A, B))
    minion.daemon(IPTABLES, "--external-ips=203.0.113.0/24", "--nodeport-addresses=192.0.2.1/32").ready()
    before = visit(minion, VIP, FOUR)
    assert set(before.values()) == {A, B}
    assert moved(before, visit(minion, "203.0.113.9", FOUR)) == set()
    assert moved(before, visit(minion, "192.0.2.1", FOUR, 30080)) == set()
    assert len(sets(minion)) == 2


def test_source_hash_leads_a_client_to_one_endpoint_and_moves_those_of_one_that_goes_alone(crowd: Minion) -> None:
    minion = crowd
    record = service("web", VIP, protocols=["TCP"])
    record["metadata"]["annotations"] = {"svcnet.dev/balance": "source-hash"}
    minion.put(record, endpoints("web", A, B, C))
    daemon = minion.daemon(IPTABLES).ready()
    before = visit(minion, VIP, FOUR)
    assert set(before.values()) == {A, B, C}
    daemon = restarted(minion, daemon)
    assert moved(before, visit(minion, VIP, FOUR)) == set()
    minion.put(endpoints("web", A, C))
    until(lambda: _visit_of(minion, before, B) != B)
    after = visit(minion, VIP, FOUR)
    assert moved(before, after) == {client for client, where in before.items() if where == B}
    minion.put(endpoints("web", A, B, C))
    until(lambda: _visit_of(minion, before, B) == B)
    assert moved(before, visit(minion, VIP, FOUR)) == set()
    assert daemon.status()["left_out"] == []


def test_cleanup_removes_our_ipsets_also_those_of_a_daemon_that_died_between_them_and_its_chains(
    crowd: Minion,
) -> None:
    minion = crowd
    minion.put(sticky(60), endpoints("web", A, B))
    daemon = minion.daemon(IPTABLES).ready()
    visit(minion, VIP, FOUR[:3])
    daemon.stop()
    assert len(sets(minion)) == 2
    assert minion.run("ipset", "create", "svcnet-4-LEFT", "hash:ip", "timeout", "0").returncode == 0
    assert minion.daemon("--cleanup").ended() == 0
    assert sets(minion) == {}
    assert minion.run("ipset", "create", "svcnet-6-LEFT", "hash:ip", "family", "inet6").returncode == 0
    assert minion.daemon("--cleanup").ended() == 0
    assert sets(minion) == {}


def test_a_start_takes_over_ipsets_and_deletes_those_that_nobody_needs(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(60), endpoints("web", A, B))
    minion.daemon(IPTABLES).ready().kill()
    kept = set(sets(minion))
    assert minion.run("ipset", "create", "svcnet-4-LEFT", "hash:ip", "timeout", "0").returncode == 0
    minion.daemon(IPTABLES).ready()
    until(lambda: set(sets(minion)) == kept)


def test_a_switch_to_nftables_fails_no_client_and_takes_our_ipsets(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(60), endpoints("web", A, B))
    first = minion.daemon(IPTABLES).ready()
    with minion.hammer(VIP) as client:
        until(lambda: client.answers > 20)
        assert first.stop() == 0
        second = minion.daemon(NFTABLES).ready()
        asked = client.answers
        until(lambda: client.answers > asked + 50)
    until(lambda: sets(minion) == {})
    assert second.status()["last_error"] == ""


def test_where_the_other_kind_of_tables_takes_over_clients_stay(minion: Minion) -> None:
    """Both kinds name the same ipsets, and the kernel keeps those that rules name."""
    settle(minion)
    assert minion.run(*SHOP).returncode == 0
    choose(minion, "legacy")
    minion.put(sticky(60), endpoints("web", A, B), endpoints("web", A6))
    first = minion.daemon(IPTABLES).ready()
    before = visit(minion, VIP, FOUR)
    first.stop()
    for command in ("iptables-legacy", "ip6tables-legacy"):
        assert minion.run(command, "-D", "INPUT", "2").returncode == 0
    choose(minion, "nft")
    minion.daemon(IPTABLES).ready()
    until(lambda: "SVCNET-" not in minion.run("iptables-legacy-save").stdout)
    assert len(sets(minion)) == 3
    assert moved(before, visit(minion, VIP, FOUR)) == set()


def test_without_the_program_ipset_all_is_served_and_status_says_what_is_not_done(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(60), endpoints("web", A, B), service("other", "10.0.0.6"), endpoints("other", C))
    hide = (f'touch {minion.root}/no && mount --bind {minion.root}/no "$(readlink -f "$(command -v ipset)")" && '
            'exec "$@"')  # fmt: skip
    daemon = minion.daemon(IPTABLES, wrap=("unshare", "--mount", "sh", "-c", hide, "sh")).ready()
    assert minion.reaches(VIP, A, B)
    assert minion.reaches("10.0.0.6", C)
    (one,) = daemon.status()["left_out"]
    assert one["what"] == "default/web tcp/80"
    assert "the program ipset is missing (Debian: apt install ipset)" in one["reason"]
    assert sets(minion) == {}
    daemon.kill()
    again = minion.daemon(IPTABLES).ready()
    assert again.status()["left_out"] == []
    assert len(sets(minion)) == 2


def rules_of(minion: Minion) -> str:
    """Of both kinds of tables."""
    return "".join(minion.run(f"iptables-{variant}-save").stdout for variant in VARIANTS)


def _visit_of(minion: Minion, visits: Visits, where: str) -> str:
    """Whom one of the clients of an endpoint reaches now."""
    client = next(c for c, w in visits.items() if w == where)
    return visit(minion, VIP, [client])[client]


def test_names_of_ipsets_tell_the_family(crowd: Minion) -> None:
    minion = crowd
    minion.put(sticky(60), endpoints("web", A), endpoints("web", A6))
    minion.daemon(IPTABLES).ready()
    assert sorted(re.sub("-[A-Z2-7]{16}$", "", name) for name in sets(minion)) == ["svcnet-4", "svcnet-6"]
