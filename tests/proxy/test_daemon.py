"""`--mode userspace`: the daemon with its worker, as clients and an operator see it."""

import json
import os
import re
import shutil
import signal
import socket
from functools import partial
from pathlib import Path

import pytest

from tests.harness import client
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import until
from tests.proxy.processes import another_than, children, serving, workers

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

MODE = "--mode=userspace"


def one_service(minion: Minion) -> None:
    minion.put(service("web", VIP, VIP6, ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4", "IPv6"]))
    minion.put(endpoints("web", A, B), endpoints("web", A6, B6))


def test_services_are_served_in_both_families_and_protocols(minion: Minion) -> None:
    one_service(minion)
    daemon = minion.daemon(MODE).ready()
    for protocol in ("tcp", "udp"):
        assert minion.reaches(VIP, A, B, protocol=protocol)
        assert minion.reaches(VIP6, A6, B6, protocol=protocol)
    daemon.until(lambda: re.fullmatch(r"running: at most \d+ connections", daemon.status()["parts"]["proxy worker 0"]))
    status = daemon.status()
    assert status["mode"] == "userspace"
    assert status["left_out"] == []
    plan = minion.svcnet("plan", *minion.options(), MODE)
    assert plan.stdout == "0 to create, 0 to update, 0 to delete\n", plan.stderr


def test_traffic_is_counted_by_service_and_endpoint(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    daemon = minion.daemon(MODE).ready()
    for _ in range(3):
        assert minion.ask(VIP) == A
    service_labels = 'namespace="default",port="80",protocol="tcp",service="web"'
    endpoint_labels = f'endpoint="{A}:8080",{service_labels}'
    for series in (
        f"svcnet_service_connections_total{{{service_labels}}} 3.0",
        f"svcnet_endpoint_connections_total{{{endpoint_labels}}} 3.0",
        'svcnet_service_bytes_total{direction="out"',
    ):
        daemon.until(lambda wanted=series: wanted in daemon.get("/metrics")[1])  # type: ignore[misc]  # held value
    code, text = daemon.get("/traffic")
    (told,) = json.loads(text)["services"]
    (end,) = told["endpoints"]
    assert (code, told["service"], told["connections"], end["endpoint"]) == (200, "web", 3, f"{A}:8080")
    for numbers in (told, end):
        assert numbers["dial_failures"] == {"refused": 0, "timeout": 0, "unreachable": 0}
        dials = numbers["dial_duration_seconds"]
        assert (dials["count"], sum(count for _, count in dials["buckets"])) == (3, 3)
        assert dials["sum"] > 0
        assert [bound for bound, _ in dials["buckets"]][-1] is None
    assert (told["queued_connections"], told["connections_limited"], end["ejected"]) == (0, False, False)


def test_no_rule_of_netfilter_is_made(minion: Minion) -> None:
    one_service(minion)
    minion.daemon(MODE).ready()
    assert minion.ask(VIP) in {A, B}
    assert minion.ruleset() == ""


def test_endpoints_come_and_go_under_a_client_that_never_fails(minion: Minion) -> None:
    one_service(minion)
    minion.daemon(MODE).ready()
    with minion.hammer(VIP):
        minion.put(endpoints("web", C))
        assert minion.reaches(VIP, C)
        minion.put(endpoints("web", A, C))
        assert minion.reaches(VIP, A, C)


def test_a_service_without_endpoints_and_one_that_goes_are_refused(minion: Minion) -> None:
    one_service(minion)
    minion.daemon(MODE).ready()
    for protocol in ("tcp", "udp"):
        assert minion.reaches(VIP, A, B, protocol=protocol)
    minion.put(endpoints("web"))
    for protocol in ("tcp", "udp"):
        assert minion.reaches(VIP, client.REFUSED, protocol=protocol)
    minion.put(endpoints("web", A))
    assert minion.reaches(VIP, A)
    minion.remove(service("web"))
    assert minion.reaches(VIP, client.REFUSED)


def test_a_killed_worker_fails_no_new_connection(minion: Minion) -> None:
    one_service(minion)
    daemon = minion.daemon(MODE).ready()
    for _ in range(3):
        (pid,) = serving(daemon)
        os.kill(pid, signal.SIGKILL)
        assert minion.inside(lambda: client.ask(VIP, patience_seconds=client.LONG_SECONDS)) in {A, B}
        daemon.until(partial(another_than, pid, daemon))
    daemon.until(lambda: "svcnet_proxy_worker_starts_total 4.0" in daemon.get("/metrics")[1])
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert minion.reaches(VIP, C, protocol="udp")


def test_workers_end_with_a_daemon_that_is_stopped(minion: Minion) -> None:
    one_service(minion)
    daemon = minion.daemon(MODE, "--proxy-workers=2").ready()
    pids = serving(daemon, 2)
    assert daemon.stop() == 0
    until(lambda: not pids & workers())
    assert minion.ask(VIP) == client.REFUSED


def test_a_reload_ends_the_workers_and_starts_others(minion: Minion) -> None:
    one_service(minion)
    config = minion.root / "svcnet.toml"
    config.write_text("proxy-workers = 1\n")
    daemon = minion.daemon(MODE, f"--config={config}").ready()
    (pid,) = serving(daemon)
    config.write_text("proxy-workers = 2\n")
    daemon.signal(signal.SIGHUP)
    daemon.until(lambda: len(children(daemon)) == 2 and not Path(f"/proc/{pid}").exists())
    assert minion.reaches(VIP, A, B)
    assert minion.reaches(VIP, A, B, protocol="udp")


def test_a_taken_port_is_reported_everything_else_goes_on_and_it_is_served_once_free(minion: Minion) -> None:
    one_service(minion)
    with minion.inside(lambda: socket.create_server(("0.0.0.0", 80))) as other:
        minion.put(service("second", "10.0.0.6", protocols=["UDP"]), endpoints("second", C, protocols=["UDP"]))
        daemon = minion.daemon(MODE).ready()
        assert minion.reaches(VIP, A, B, protocol="udp")
        assert minion.reaches("10.0.0.6", C, protocol="udp")
        (left,) = daemon.status()["left_out"]
        assert left["what"] == f"{VIP} tcp/80 (default/web tcp/80)"
        assert "something else listens there" in left["reason"]
        other.shutdown(socket.SHUT_RDWR)
    assert minion.reaches(VIP, A, B)
    until(lambda: daemon.status()["left_out"] == [])


def test_services_beyond_the_limit_are_named_and_the_others_served(minion: Minion) -> None:
    names = [f"s{i:03}" for i in range(140)]
    for i, name in enumerate(names, 1):
        minion.put(service(name, f"10.0.1.{i}", protocols=["TCP"]), endpoints(name, A, protocols=["TCP"]))
    daemon = minion.daemon(MODE, wrap=("prlimit", "--nofile=256:256")).ready()
    left = daemon.status()["left_out"]
    assert len(left) == 140 - 128
    assert all("the limit of 128 ports" in item["reason"] for item in left)
    answers = [minion.ask(f"10.0.1.{i}") for i in range(1, 141)]
    assert answers.count(A) == 128
    assert answers.count(client.REFUSED) == 12
    for name in names[:70]:
        minion.remove(service(name))
    until(lambda: daemon.status()["left_out"] == [])
    assert all(minion.ask(f"10.0.1.{i}") == A for i in range(71, 141))


def test_a_route_that_somebody_removed_comes_back(minion: Minion) -> None:
    one_service(minion)
    minion.daemon(MODE).ready()
    minion.run("ip", "route", "del", "local", "10.0.0.0/16", "dev", "lo", "table", "local")
    assert minion.reaches(VIP, A, B)


def test_cleanup_removes_the_routes(minion: Minion) -> None:
    one_service(minion)
    minion.daemon(MODE).ready().stop()
    assert "proto 115" in minion.run("ip", "route", "show", "table", "local").stdout
    done = minion.daemon("--cleanup")
    assert done.ended() == 0
    assert "removed local routes" in done.log
    for family in ("-4", "-6"):
        assert "proto 115" not in minion.run("ip", family, "route", "show", "table", "local").stdout


def is_translated(minion: Minion, *, by_netfilter: bool) -> bool:
    programs = ("iptables-legacy-save", "iptables-nft-save")
    text = "".join(minion.run(program).stdout for program in programs if shutil.which(program))
    return ("svcnet" in f"{text}{minion.ruleset()}".lower()) == by_netfilter


def has_routes(minion: Minion, *, wanted: bool) -> bool:
    return ("proto 115" in minion.run("ip", "route", "show", "table", "local").stdout) == wanted


@pytest.mark.parametrize("other", ["nftables", "iptables"])
def test_modes_take_each_others_place(minion: Minion, other: str) -> None:
    one_service(minion)
    for mode in ("userspace", other, "userspace"):
        daemon = minion.daemon(f"--mode={mode}").ready()
        assert minion.reaches(VIP, A, B)
        daemon.until(partial(has_routes, minion, wanted=mode == "userspace"))
        # Rules stay until the last connection through them is over.
        daemon.until(partial(is_translated, minion, by_netfilter=mode != "userspace"))
        daemon.stop()
