"""What /status and `svcnet status` show while the kernel is not as it should be: drift, the failing batch, its age."""

import os
import shutil
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import VIP, A, B, Minion

pytestmark = pytest.mark.kernel

OTHER = "10.0.0.9"
MODE = "--mode=nftables"


def drift_metric(daemon: Daemon) -> float:
    lines = daemon.get("/metrics")[1].splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("svcnet_rule_drift_total ")))


def test_an_element_that_somebody_else_deleted_fails_a_commit_and_is_told_with_its_batch(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    daemon = minion.daemon(MODE).caught_up()
    turns = [B, A]

    def failed() -> bool:
        """The watch may be faster and mend it: then once more."""
        minion.run("nft", "delete element ip svcnet endpoints { 0:1 . 0 }")
        minion.put(endpoints("web", turns[0]))
        daemon.until(lambda: minion.ask(VIP) == turns[0])
        turns.reverse()
        return bool(daemon.status()["last_error"])

    daemon.until(failed)
    status = daemon.status()
    assert "ENOENT" in status["last_error"]
    assert status["last_error_changes"] == len(status["last_error_batch"]) == 2
    assert status["last_error_batch"][0].startswith(f"~ {VIP} tcp/80 → ")
    assert status["drift"] > 0
    daemon.until(lambda: drift_metric(daemon) == daemon.status()["drift"])
    shown = minion.svcnet("status").stdout
    assert "Not done then (2)\n" in shown
    assert status["last_error_batch"][1] in shown
    daemon.until(lambda: daemon.status()["oldest_unapplied_seconds"] == 0)


def test_an_element_that_somebody_else_added_is_told_and_gives_way(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    daemon = minion.daemon(MODE).caught_up()

    def failed() -> bool:
        minion.run("nft", f"add element ip svcnet classes {{ {OTHER} . tcp . 80 : 2:0 }}")
        minion.put(service("api", OTHER), endpoints("api", B))
        daemon.until(lambda: minion.ask(OTHER) == B)
        minion.remove(service("api", OTHER), endpoints("api", B))
        daemon.until(lambda: minion.ask(OTHER) != B)
        return bool(daemon.status()["last_error"])

    daemon.until(failed)
    assert "EEXIST" in daemon.status()["last_error"]
    assert any(line.startswith(f"+ {OTHER} tcp/80") for line in daemon.status()["last_error_batch"])
    assert daemon.status()["drift"] > 0


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("nftables", "nft flush table ip svcnet"),
        ("nftables", "nft 'flush map ip svcnet endpoints'"),
        ("iptables", "iptables-nft -t nat -F SVCNET-SERVICES"),
        ("iptables", "iptables-nft -t nat -F PREROUTING"),
    ],
)
def test_what_was_flushed_by_hand_is_back_within_seconds_and_counts_as_drift(
    minion: Minion, mode: str, fault: str
) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    daemon = minion.daemon(f"--mode={mode}").caught_up()
    assert minion.run("sh", "-c", fault).returncode == 0
    drift = daemon.until(lambda: daemon.status()["drift"])
    assert minion.reaches(VIP, A)
    assert drift_metric(daemon) >= drift
    assert daemon.status()["last_error"] == ""


def test_the_age_of_what_waits_grows_until_the_kernel_takes_it(minion: Minion, tmp_path: Path) -> None:
    real = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    program = tmp_path / "bin" / "nft"
    program.parent.mkdir()

    def become(line: str) -> None:
        fresh = program.with_name("fresh")
        fresh.write_text(f"#!/bin/sh\n{line}\n")
        fresh.chmod(0o755)
        fresh.rename(program)

    become(f'exec {real} "$@"')
    minion.put(service("web", VIP), endpoints("web", A))
    daemon = minion.daemon(MODE, environ={"PATH": f"{program.parent}:{os.environ['PATH']}"}).caught_up()
    become("echo it is being upgraded >&2; exit 1")
    # So many need chains that only nft can make.
    minion.put(endpoints("web", *(f"192.0.2.{last}" for last in range(100, 130))))
    status = daemon.until(lambda: (s := daemon.status())["last_error"] and s["last_error_batch"] and s)
    assert "it is being upgraded" in status["last_error"]
    assert status["last_error_batch"][0].startswith(f"~ {VIP} tcp/80 → {A}:8080 ")
    assert all(len(line) <= 200 for line in status["last_error_batch"])
    ages = [status["oldest_unapplied_seconds"]]

    def is_older() -> bool:
        ages.append(daemon.status()["oldest_unapplied_seconds"])
        return bool(ages[-1] > ages[0] + 2)

    daemon.until(is_older)
    assert ages == sorted(ages), "it never went back while the kernel refused"
    assert minion.ask(VIP) == A
    assert "behind by " in minion.svcnet("status").stdout
    become(f'exec {real} "$@"')
    daemon.until(lambda: daemon.status()["oldest_unapplied_seconds"] == 0)
    daemon.caught_up()
    assert daemon.status()["last_error"] == status["last_error"], "it stays until the next one"
