"""A take-over in which one of the two dies or hangs, at every step: the services stay served, by exactly one daemon."""

import signal
import sys
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import TREE, VIP, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import until

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

USERSPACE, NFTABLES = "userspace", "nftables"
BRIEF = "--takeover-seconds=2"
FAULT = 0
"""Instead of a signal: the kernel refuses that step and what comes after it."""


def started(minion: Minion, mode: str) -> Daemon:
    minion.put(service("web", VIP), endpoints("web", A, B))
    return minion.daemon(f"--mode={mode}").ready()


def cut_short(minion: Minion, mode: str, step: str, number: int, whom: str, *options: str) -> Daemon:
    """Start one that takes over, and what happens to one of the two after a step (tests/proxy/faulty.py)."""
    wrap = (sys.executable, "-m", "tests.proxy.faulty", step, str(int(number)), whom)
    return minion.daemon(f"--mode={mode}", "--takeover", *options, wrap=wrap, environ={"PYTHONPATH": str(TREE)})


def leads(minion: Minion, daemon: Daemon) -> bool:
    """Wait until a daemon, and no other, does what the records say."""
    daemon.until(lambda: (minion.state / "lock").read_text().strip() == str(daemon.pid))
    daemon.ready()
    minion.put(endpoints("web", C))
    return minion.reaches(VIP, C) and minion.reaches(VIP, C, protocol="udp")


@pytest.mark.parametrize(
    ("mode", "step"),
    [
        (NFTABLES, "greeted"),
        (NFTABLES, "at rest"),
        (NFTABLES, "gone"),
        (NFTABLES, "claimed"),
        (USERSPACE, "at rest"),
        (USERSPACE, "gone"),
        (USERSPACE, "claimed"),
    ],
)
def test_when_the_new_one_dies_the_old_one_goes_on(minion: Minion, mode: str, step: str) -> None:
    old = started(minion, mode)
    with minion.hammer(VIP):
        new = cut_short(minion, mode, step, signal.SIGKILL, "new")
        assert new.ended() == -signal.SIGKILL, new.log
        assert leads(minion, old)


@pytest.mark.parametrize(
    ("mode", "step"), [(NFTABLES, "greeted"), (NFTABLES, "at rest"), (NFTABLES, "gone"), (USERSPACE, "gone")]
)
def test_when_the_old_one_dies_the_new_one_takes_its_place(minion: Minion, mode: str, step: str) -> None:
    old = started(minion, mode)
    with minion.hammer(VIP):
        new = cut_short(minion, mode, step, signal.SIGKILL, "old")
        assert old.ended() == -signal.SIGKILL
        assert leads(minion, new)


def test_one_that_hangs_before_go_is_given_up_and_ends_when_it_wakes(minion: Minion) -> None:
    old = started(minion, NFTABLES)
    new = cut_short(minion, NFTABLES, "at rest", signal.SIGSTOP, "new")
    old.until(lambda: "the daemon that wanted to take over hangs: going on" in old.log)
    assert leads(minion, old)
    new.signal(signal.SIGCONT)
    assert new.ended() == 1, new.log
    assert old.runs
    new = minion.daemon("--mode=nftables", "--takeover")  # nothing of it is in the way of another
    assert old.ended() == 0
    assert leads(minion, new)


@pytest.mark.parametrize("mode", [NFTABLES, USERSPACE])
def test_one_that_hangs_after_go_is_ended_by_the_old_one(minion: Minion, mode: str) -> None:
    old = started(minion, mode)
    with minion.hammer(VIP):
        new = cut_short(minion, mode, "claimed", signal.SIGSTOP, "new")
        assert new.ended() == -signal.SIGKILL
        assert leads(minion, old)


def test_an_old_one_that_hangs_is_not_taken_over_from(minion: Minion) -> None:
    old = started(minion, NFTABLES)
    new = cut_short(minion, NFTABLES, "greeted", signal.SIGSTOP, "old", BRIEF)
    assert new.ended() == 1, new.log
    old.signal(signal.SIGCONT)
    assert leads(minion, old)


@pytest.mark.parametrize("step", ["at rest", "claimed"])
def test_one_that_is_not_ready_in_time_ends_and_the_old_one_goes_on(minion: Minion, step: str) -> None:
    old = started(minion, NFTABLES)
    with minion.hammer(VIP):
        new = cut_short(minion, NFTABLES, step, FAULT, "new", BRIEF)
        assert new.ended() == 1
        assert leads(minion, old)


@pytest.mark.parametrize("step", ["at rest", "gone"])
def test_until_the_old_one_is_through_the_new_one_writes_nothing(minion: Minion, step: str) -> None:
    """But numbers that it reserves, which only rise."""
    old = started(minion, NFTABLES)
    until(lambda: (minion.state / "checkpoint").exists() and (minion.env / "default.env").exists())
    before = files(minion.state, minion.env)
    number = int((minion.state / "revision").read_text())
    new = cut_short(minion, NFTABLES, step, signal.SIGKILL, "new")
    assert new.ended() == -signal.SIGKILL
    assert leads(minion, old)
    assert files(minion.env) == {name: data for name, data in before.items() if name.endswith(".env")}
    assert int((minion.state / "revision").read_text()) >= number


@pytest.mark.parametrize("step", ["greeted", "at rest", "gone"])
def test_a_reload_that_is_asked_for_meanwhile_is_done_by_the_new_one(minion: Minion, tmp_path: Path, step: str) -> None:
    """The old one, whose configuration is another than that of the file by then, would start again beside it."""
    file = tmp_path / "svcnet.toml"
    file.write_text("masquerade-all = false\n")
    minion.put(service("web", VIP), endpoints("web", A, B))
    old = minion.daemon("--mode=nftables", f"--config={file}").ready()
    file.write_text("masquerade-all = true\n")
    with minion.hammer(VIP):
        new = cut_short(minion, NFTABLES, step, signal.SIGHUP, "old", f"--config={file}")
        assert old.ended() == 0, old.log
        new.until(lambda: "configuration unchanged" in new.log)
        assert leads(minion, new)


def test_a_reload_that_is_asked_for_meanwhile_is_done_by_the_old_one_if_it_stays(
    minion: Minion, tmp_path: Path
) -> None:
    file = tmp_path / "svcnet.toml"
    file.write_text("masquerade-all = false\n")
    minion.put(service("web", VIP), endpoints("web", A, B))
    old = minion.daemon("--mode=nftables", f"--config={file}").ready()
    new = cut_short(minion, NFTABLES, "at rest", signal.SIGSTOP, "new")
    old.until(lambda: "another daemon is about to take over" in old.log)
    file.write_text("masquerade-all = true\n")
    old.signal(signal.SIGHUP)
    old.until(lambda: old.log.count("starting node=") == 2)
    new.kill()
    assert leads(minion, old)


def files(*directories: Path) -> dict[str, tuple[int, bytes]]:
    """Name → when it was written, and what, of all files but reserved numbers."""
    found = {p.name: p for directory in directories for p in directory.iterdir() if p.is_file()}
    return {n: (p.stat().st_mtime_ns, p.read_bytes()) for n, p in found.items() if n not in {"revision", "serial"}}
