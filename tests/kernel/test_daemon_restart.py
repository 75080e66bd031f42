"""Ends and starts of the daemon: what stays in the kernel, who may run beside whom, and how it is taken away."""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.files import endpoints, service
from tests.harness.manager import service_manager
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until
from tests.kernel.every_kind import FOREIGN

pytestmark = pytest.mark.kernel

WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")
MAPS = ("services", "classes", "endpoints")


def held(minion: Minion) -> dict[str, list[str]]:
    """All elements of our maps, ids and slots included."""
    return {f"{family} {name}": minion.elements(name, family) for family in ("ip", "ip6") for name in MAPS}


def test_after_sigterm_the_rules_go_on_and_the_next_start_adopts_them(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6, B6), service("none", "10.0.0.6"))
    minion.put(service("other", "10.0.0.7"), endpoints("other", C))
    with service_manager(minion.root) as (environ, told):
        first = minion.daemon(environ=environ).ready()
        before = held(minion)
        with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
            assert first.stop() == 0
            asked = four.answers, six.answers
            until(lambda: four.answers > asked[0] + 50 and six.answers > asked[1] + 50)
            second = minion.daemon().ready()
            assert held(minion) == before
            minion.put(endpoints("web", C))
            assert minion.reaches(VIP, C)
            until(lambda: C in four.answered_by)
        assert four.answered_by == {A, B, C}
        assert second.stop() == 0
    assert told[0] == "READY=1"
    assert told[1].startswith("STATUS=nftables")
    assert told[-1] == "STOPPING=1"
    assert minion.ask(VIP6) in {A6, B6}


def test_sigint_ends_it_like_sigterm(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    daemon.signal(signal.SIGINT)
    assert daemon.ended() == 0
    assert minion.ask(VIP) == A


def test_a_start_finds_what_changed_while_nobody_ran(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), service("gone", "10.0.0.6"), endpoints("gone", A))
    minion.daemon().ready().stop()
    minion.put(endpoints("web", B), service("new", "10.0.0.7"), endpoints("new", C))
    minion.remove(service("gone", "10.0.0.6"), endpoints("gone", A))
    minion.daemon().ready()
    assert [minion.ask(ip) for ip in (VIP, "10.0.0.6", "10.0.0.7")] == [B, "silence", C]
    assert minion.plan() == "0 to create, 0 to update, 0 to delete"


def test_a_changed_configuration_takes_effect_on_sighup_and_a_broken_one_does_not(minion: Minion) -> None:
    config = minion.root / "svcnet.toml"
    config.write_text("masquerade-all = false\n")
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    with ExitStack() as stack:
        environ, told = stack.enter_context(service_manager(minion.root))
        daemon = minion.daemon(f"--config={config}", environ=environ).ready()
        stack.enter_context(minion.hammer(VIP))
        chain = ("nft", "list", "chain", "ip", "svcnet", "cluster-1")
        assert "meta mark set" not in minion.run(*chain).stdout

        config.write_text("masquerade-all = true\n")
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda: "meta mark set" in minion.run(*chain).stdout)
        daemon.ready()

        config.write_text("masquerade-al = false\n")
        daemon.signal(signal.SIGHUP)
        error = daemon.until(lambda: daemon.status()["last_error"])
        assert f"{config}:1" in error
        assert "masquerade-all" in error
        assert daemon.get("/readyz")[0] == 200
        assert "meta mark set" in minion.run(*chain).stdout

        config.write_text("masquerade-all = true\n")
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda: "configuration unchanged" in daemon.log)
        minion.put(endpoints("web", B))
        assert minion.reaches(VIP, B)
        assert daemon.stop() == 0
    assert "RELOADING=1" in told
    assert told.count("READY=1") == 2
    assert told.count("STOPPING=1") == 1, "a reload is no end"


def test_an_end_that_is_asked_for_in_the_middle_of_a_reload_is_not_forgotten(minion: Minion) -> None:
    config = minion.root / "svcnet.toml"
    config.write_text("masquerade-all = false\n")
    daemon = minion.daemon(f"--config={config}").ready()
    config.write_text("masquerade-all = true\n")
    for number in (signal.SIGHUP, signal.SIGTERM):
        daemon.signal(number)
    assert daemon.ended() == 0, daemon.log


def test_one_daemon_a_state_directory_and_a_namespace(minion: Minion, tmp_path: Path) -> None:
    minion.put(WEB, endpoints("web", A))
    first = minion.daemon().ready()
    same_state = minion.daemon("--mode=none", "--status-listen=127.0.0.1:0")
    assert same_state.ended() == 1
    assert f"pid {first.pid}" in same_state.log
    assert str(minion.state) in same_state.log
    same_namespace = minion.daemon(f"--state-dir={tmp_path}/state2", "--status-listen=127.0.0.1:0")
    assert same_namespace.ended() == 1
    assert f"pid {first.pid}" in same_namespace.log
    assert "namespace" in same_namespace.log

    # Without a data path there is nothing to fight over; in another namespace neither.
    beside = minion.daemon("--mode=none", f"--state-dir={tmp_path}/state3", "--status-listen=127.0.0.1:10300")
    beside.until((tmp_path / "state3" / "control.sock").exists)
    (tmp_path / "other").mkdir()
    with Minion(f"{minion.name}-other", tmp_path / "other") as other:
        other.put(WEB, endpoints("web", B))
        other.daemon().ready()
        assert (minion.ask(VIP), other.ask(VIP)) == (A, B)
    assert first.runs
    assert beside.stop() == 0


@pytest.mark.parametrize("ended_by", ["SIGTERM", "SIGKILL"])
def test_cleanup_removes_all_that_is_ours_and_nothing_else(minion: Minion, ended_by: str) -> None:
    (minion.root / "foreign").write_text(FOREIGN)
    assert minion.run("nft", "-f", str(minion.root / "foreign")).returncode == 0
    before = minion.ruleset()
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    daemon = minion.daemon().ready()
    during = minion.ruleset()
    assert during != before
    assert during.startswith(before.rstrip("\n"))
    daemon.signal(signal.Signals[ended_by])
    daemon.ended()

    cleanup = minion.daemon("--cleanup")
    assert cleanup.ended() == 0
    assert "removed nftables table svcnet" in cleanup.log
    assert minion.ruleset() == before
    again = minion.daemon("--cleanup")
    assert again.ended() == 0
    assert "nothing of svcnet" in again.log
    minion.daemon().ready()
    assert minion.ask(VIP) == A


@pytest.mark.parametrize(
    "damage",
    [
        "flush table ip svcnet",
        "flush chain ip svcnet cluster-1",
        "delete table ip svcnet",
        "flush map ip svcnet endpoints",
        "flush ruleset",
    ],
)
def test_what_somebody_else_broke_is_repaired_with_the_next_change(minion: Minion, damage: str) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6), service("other", "10.0.0.6"), endpoints("other", B))
    daemon = minion.daemon().ready()
    assert daemon.status()["drift"] == 0
    assert minion.run("nft", damage).returncode == 0
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    daemon.until(
        lambda: [minion.ask(VIP6), minion.ask("10.0.0.6")] == [A6, B]
    )  # what the change did not meet, a bit later
    daemon.until(lambda: minion.plan() == "0 to create, 0 to update, 0 to delete")
    daemon.until(lambda: daemon.status()["drift"] > 0)


def test_rules_that_were_flushed_while_no_daemon_ran_come_back_with_the_next_start(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    minion.daemon().ready().stop()
    before = minion.ruleset()
    assert minion.run("nft", "flush table ip svcnet").returncode == 0
    assert minion.ask(VIP) == "silence"
    assert minion.plan() == "2 to create, 0 to update, 0 to delete"
    minion.daemon().ready()
    assert [minion.ask(VIP), minion.ask(VIP6)] == [A, A6]
    assert sorted(minion.ruleset()) == sorted(before)


def test_sigterm_in_the_middle_of_a_load_ends_it_in_order(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    minion.daemon().ready().stop()
    numbers = range(1, 1501)
    for n in numbers:
        minion.put(service(f"s{n}", f"10.0.{8 + n // 250}.{n % 250 + 1}"), endpoints(f"s{n}", B))
    socket = minion.state / "control.sock"
    with minion.hammer(VIP):
        for _ in range(3):
            assert not socket.exists()
            daemon = minion.daemon()
            daemon.until(socket.exists)
            assert daemon.stop() == 0
            assert "Traceback" not in daemon.log
        minion.daemon().caught_up()
    assert minion.ask("10.0.14.1") == B
    assert minion.plan() == "0 to create, 0 to update, 0 to delete"


def test_a_family_that_the_service_cidr_has_no_more_is_taken_away(minion: Minion) -> None:
    options = ("--service-cidr=10.0.0.0/16", "--service-cidr=10.0.0.0/16,fd00:10::/112")
    minion.put(service("web", VIP, protocols=["TCP"]), endpoints("web", A))
    minion.daemon(options[1]).ready().stop()
    assert minion.run("nft", "list", "tables").stdout.splitlines() == ["table ip svcnet", "table ip6 svcnet"]
    (minion.records / ".virtual-ips").unlink(missing_ok=True)
    with minion.hammer(VIP):
        daemon = minion.daemon(options[0]).ready()
        daemon.until(lambda: minion.run("nft", "list", "tables").stdout.splitlines() == ["table ip svcnet"])
        assert daemon.stop() == 0


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_mode_none_says_that_rules_stay_and_nobody_keeps_them(minion: Minion, mode: str) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    minion.daemon(f"--mode={mode}").ready().stop()
    daemon = minion.daemon("--mode=none").ready()
    assert "stays as it was, until svcnet-proxy --cleanup" in daemon.status()["mode_reason"]
    assert minion.ask(VIP) == A
    daemon.stop()
    minion.run(sys.executable, "-m", "svcnet.cli.daemon", "--cleanup")
    assert minion.daemon("--mode=none").ready().status()["mode_reason"] == "--mode none: no data path"
