"""`svcnet trace` and `svcnet plan` beside a kernel that really carries the connections."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, SERVICE_CIDRS, VIP, VIP6, A, B, C, Minion
from tests.store.etcd_server import EtcdServer

pytestmark = pytest.mark.kernel

OWN, POD, OUTSIDE = "192.0.2.1", "10.244.1.2", "203.0.113.9"
HASHED, STICKY, EMPTY, LOCAL, ABROAD, BALANCED = (f"10.0.0.{last}" for last in (11, 12, 13, 14, 15, 16))
NODE_PORT, EXTERNAL, INGRESS = 30080, "198.51.100.1", "198.51.100.2"
OPTIONS = (f"--service-cidr={SERVICE_CIDRS}", "--cluster-cidr=10.244.0.0/16", "--external-ips=198.51.100.0/24")
MODES = ("nftables", "iptables", "userspace")
QUESTIONS = (
    (POD, "web:80"),
    (OUTSIDE, "web:80/udp"),
    ("minion", "hashed:80"),
    (POD, "hashed:80"),
    ("-", "sticky:80"),
    (A, "web:80"),
    (POD, "empty:80"),
    (POD, "web:81"),
    (POD, "10.0.77.77:80"),
    (POD, "198.51.100.77:80"),
    ("fd00:99::1", "web:80"),
    (POD, "local:80"),
    (OUTSIDE, f"{OWN}:{NODE_PORT}"),
    ("minion", f"minion:{NODE_PORT}"),
    (POD, f"{OWN}:{NODE_PORT}"),
    (POD, f"{EXTERNAL}:80"),
    (OUTSIDE, f"{INGRESS}:80"),
    ("198.51.100.200", f"{INGRESS}:80"),
)


def world() -> list[Written]:
    """A service of every kind."""
    abroad = service("abroad", ABROAD, type="NodePort", externalTrafficPolicy="Local", externalIPs=[EXTERNAL])
    abroad["spec"]["ports"][0]["nodePort"] = NODE_PORT
    hashed = service("hashed", HASHED)
    hashed["metadata"]["annotations"] = {"svcnet.dev/balance": "source-hash"}
    ranges = ["198.51.100.128/25"]
    balanced = service("balanced", BALANCED, type="LoadBalancer", loadBalancerSourceRanges=ranges)
    balanced["status"] = {"loadBalancer": {"ingress": [{"ip": INGRESS}]}}
    mine = endpoints("abroad", A, B)
    mine["endpoints"][1]["nodeName"] = "m2"
    return [
        service("web", VIP, VIP6), endpoints("web", A, B, C), endpoints("web", A6, B6),
        hashed, endpoints("hashed", A, B, C),
        service("sticky", STICKY, sessionAffinity="ClientIP"), endpoints("sticky", A, B),
        service("empty", EMPTY),
        service("local", LOCAL, internalTrafficPolicy="Local"), endpoints("local", A),
        abroad, mine,
        balanced, endpoints("balanced", C),
    ]  # fmt: skip


class Desk:
    """Commands of one minion; `given` are options, none while a daemon runs that has them."""

    def __init__(self, minion: Minion, *given: str) -> None:
        self.minion, self.given = minion, (f"--records=dir:{minion.records}", f"--state-dir={minion.state}", *given)

    def trace(self, source: str, destination: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.minion.svcnet("trace", source, destination, *self.given, *more)

    def told(self, source: str, destination: str) -> Any:
        done = self.trace(source, destination, "-o", "json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def plan(self) -> str:
        done = self.minion.svcnet("plan", *self.given)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def desk(minion: Minion, mode: str) -> Iterator[Desk]:
    minion.put(*world())
    daemon = minion.daemon(f"--mode={mode}", *OPTIONS).caught_up()
    yield Desk(minion)
    assert daemon.runs


def test_records_and_kernel_agree_about_every_kind_of_address(desk: Desk) -> None:
    for source, destination in QUESTIONS:
        done = desk.trace(source, destination, "--node=m1")
        assert done.returncode == 0, f"{source} → {destination}\n{done.stdout}{done.stderr}"
        assert "Verdict   the same in records and kernel" in done.stdout


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_the_endpoint_of_one_client_is_named_before_it_connects(desk: Desk) -> None:
    for address, name in ((HASHED, "hashed"), (STICKY, "sticky")):
        if name == "sticky":
            assert len(desk.told("minion", f"{name}:80")["kernel"]["arrivals"]) == 2, "not yet"
            desk.minion.ask(address)
        told = desk.told("minion", f"{name}:80")["kernel"]
        assert told["this_client_alone"]
        (arrival,) = told["arrivals"]
        assert {desk.minion.ask(address) for _ in range(5)} == {arrival["address"]}
        assert OWN in told["remark"]


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_plan_knows_what_is_in_force_without_a_daemon(minion: Minion, mode: str) -> None:
    minion.put(*world())
    daemon = minion.daemon(f"--mode={mode}", *OPTIONS).caught_up()
    # Its options, and its mode, are the daemon's as long as one runs.
    assert Desk(minion).plan() == "0 to create, 0 to update, 0 to delete\n"
    daemon.stop()
    desk = Desk(minion, f"--mode={mode}", "--node=m1", *OPTIONS)
    assert desk.plan() == "0 to create, 0 to update, 0 to delete\n"
    minion.put(endpoints("web", A))
    assert f"~ {VIP} tcp/80 → " in desk.plan()
    done = desk.trace(POD, "web:80")
    assert done.returncode == 1
    assert f"the kernel sends to {B}:8080, which the records don't have" in done.stdout
    assert "no svcnet-proxy runs with" in done.stdout


@pytest.fixture
def etcd(minion: Minion, tmp_path: Path) -> Iterator[EtcdServer]:
    directory = tmp_path / "etcd"
    directory.mkdir()
    server = EtcdServer(directory)
    minion.inside(server.start)
    yield server
    server.kill()


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_records_in_etcd_are_planned_and_traced_likewise(minion: Minion, etcd: EtcdServer, mode: str) -> None:
    where = f"--records=etcd://{etcd.host}/svcnet"
    minion.put(*world())
    done = minion.svcnet("create", "-f", str(minion.records), where, OPTIONS[0])
    assert done.returncode == 0, done.stderr
    desk = Desk(minion, where, f"--mode={mode}", "--node=m1", *OPTIONS)
    assert desk.plan().endswith(" to create, 0 to update, 0 to delete\n")
    assert "+ 192.0.2.1 tcp/30080 → external local" in desk.plan()
    minion.daemon(where, f"--mode={mode}", *OPTIONS).caught_up().stop()
    assert desk.plan() == "0 to create, 0 to update, 0 to delete\n"
    assert desk.trace(POD, "web:80").returncode == 0
    etcd.kill()
    done = desk.trace(POD, "web:80")
    assert (done.returncode, done.stdout) == (3, "")


def test_a_foreign_change_is_seen_in_nftables(minion: Minion) -> None:
    minion.put(*world())
    minion.daemon("--mode=nftables", *OPTIONS).caught_up().stop()
    desk = Desk(minion, *OPTIONS)
    assert desk.trace(POD, "empty:80").returncode == 0
    assert minion.run("nft", "delete element ip svcnet classes {", EMPTY, ". tcp . 80 }").returncode == 0
    assert minion.run("nft", "delete element ip svcnet classes {", VIP, ". tcp . 80 }").returncode == 0
    done = desk.trace(POD, "web:80")
    assert done.returncode == 1
    assert "by the records it is translated, in the kernel refused" in done.stdout
    assert minion.run("nft", "insert rule ip svcnet dispatch counter").returncode == 0
    done = desk.trace(POD, "web:80")
    assert done.returncode == 1
    assert "somebody else changed chain dispatch: it has 4 rules, we wrote 3" in done.stdout
    assert minion.run("nft", "flush chain ip svcnet dispatch").returncode == 0
    assert "in the kernel dropped" in desk.trace(POD, "web:80").stdout, "by the guard"
    assert minion.run("nft", "delete table ip svcnet").returncode == 0
    assert "nothing of svcnet is in this network namespace's kernel" in desk.trace(POD, "web:80").stdout


def test_an_ordinary_user_is_told_what_the_records_say(minion: Minion, tmp_path: Path) -> None:
    minion.put(*world())
    minion.daemon("--mode=nftables", *OPTIONS).caught_up()
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search",
              "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # fmt: skip
    given = (f"--records=dir:{minion.records}", f"--state-dir={tmp_path}/none", *OPTIONS)
    done = minion.run(*nobody, sys.executable, "-m", "svcnet.cli.main", "trace", POD, "web:80", *given)
    assert done.returncode == 5, done.stderr
    assert f"{A}:8080   33.33 %   ?" in done.stdout
    assert "CAP_NET_ADMIN" in done.stderr


def test_bad_input_and_a_store_that_is_away_have_their_codes(minion: Minion) -> None:
    desk = Desk(minion, *OPTIONS)
    done = desk.trace(POD, "web:80")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no service default/web, expected ADDRESS:PORT" in done.stderr
    done = minion.svcnet("trace", POD, "10.0.0.5:80", f"--records=dir:{minion.root}/none")
    assert (done.returncode, done.stdout) == (3, "")


def test_tracing_and_planning_change_nothing(minion: Minion) -> None:
    minion.put(*world())
    minion.daemon("--mode=nftables", *OPTIONS).caught_up().stop()
    minion.ask(STICKY)
    desk = Desk(minion, *OPTIONS)
    before = minion.run("nft", "-s", "list", "ruleset").stdout
    for question in QUESTIONS[:6]:
        desk.trace(*question)
    desk.plan()
    assert minion.run("nft", "-s", "list", "ruleset").stdout == before
