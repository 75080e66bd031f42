"""What operators do to a daemon at night: reloads that can't run, signals in a row, rules flushed, nft upgraded."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.harness.files import endpoints, service
from tests.harness.minion import VIP, A, B, C, Minion

pytestmark = pytest.mark.kernel

WEB = service("web", VIP)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('service-cidr = "10.9.0.0/16"', "10.9.0.0/16"),
        ('service-cidr = "192.0.2.0/24"', "overlaps"),
        ('cluster-cidr = "10.0.4.0/24"', "10.0.4.0/24 of --cluster-cidr"),
    ],
)
def test_a_reload_that_can_not_run_keeps_the_old_configuration(
    minion: Minion, tmp_path: Path, line: str, said: str
) -> None:
    config = tmp_path / "svcnet.toml"
    minion.put(WEB, endpoints("web", A))
    config.write_text('service-cidr = "10.0.0.0/16,fd00:10::/112"\n')
    daemon = minion.daemon(f"--config={config}", without="--service-cidr").ready()
    config.write_text(line + "\n")
    daemon.signal(signal.SIGHUP)
    error = daemon.until(lambda: daemon.status()["last_error"])
    assert said in error
    assert "the old configuration stays" in error
    minion.put(endpoints("web", B))
    assert minion.reaches(VIP, B)
    assert daemon.stop() == 0


def test_reloads_in_a_row_leave_a_daemon_that_runs_the_last(minion: Minion, tmp_path: Path) -> None:
    config = tmp_path / "svcnet.toml"
    config.write_text("masquerade-bit = 14\n")
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon(f"--config={config}").ready()
    for bit in (15, 16, 17):
        config.write_text(f"masquerade-bit = {bit}\n")
        for _ in range(5):
            daemon.signal(signal.SIGHUP)
    daemon.until(lambda: f"{1 << 17:#010x}" in minion.ruleset())
    daemon.ready()
    assert minion.reaches(VIP, A)
    assert daemon.stop() == 0


def test_sigterm_while_it_starts_ends_it_with_0(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon()

    def starts() -> bool:
        """Or has just started, where nobody had a look in time."""
        blocked = "SigBlk:\t0000000000004001" in Path(f"/proc/{daemon.pid}/status").read_text()
        return blocked or daemon.get("/healthz")[0] != 0

    daemon.until(starts)
    daemon.signal(signal.SIGTERM)
    assert daemon.ended() == 0


@pytest.mark.parametrize("damage", ["flush ruleset", "delete table ip svcnet", "flush map ip svcnet endpoints"])
def test_what_somebody_else_breaks_is_mended_while_the_records_are_quiet(minion: Minion, damage: str) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    assert minion.reaches(VIP, A)
    minion.run("nft", *damage.split())
    assert minion.reaches(VIP, A)
    daemon.until(lambda: daemon.status()["drift"] > 0)
    assert daemon.stop() == 0


def test_other_peoples_tables_cost_no_drift(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    minion.run("nft", "add", "table", "inet", "shop")
    minion.put(endpoints("web", B))
    assert minion.reaches(VIP, B)
    assert daemon.status()["drift"] == 0
    assert daemon.stop() == 0


def test_sighup_reads_the_kernel_back_when_the_configuration_is_the_same(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    minion.run("nft", "delete", "table", "ip", "svcnet")
    daemon.signal(signal.SIGHUP)
    assert minion.reaches(VIP, A)
    assert daemon.stop() == 0


def test_cleanup_beside_a_running_daemon_is_refused(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    cleanup = minion.daemon("--cleanup")
    assert cleanup.ended() == 1
    assert f"pid {daemon.pid}" in cleanup.log
    assert minion.reaches(VIP, A)
    assert daemon.stop() == 0


def test_nft_taken_away_while_it_runs_is_an_error_that_passes(minion: Minion, tmp_path: Path) -> None:
    there = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin")
    assert there
    here = tmp_path / "bin"
    here.mkdir()
    shutil.copy(there, here / "nft")
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon(environ={"PATH": f"{here}:{os.environ['PATH']}"}).ready()
    (here / "nft").rename(here / "gone")
    minion.put(endpoints("web", *(f"192.0.3.{n}" for n in range(1, 91))))
    daemon.until(lambda: "nft" in daemon.status()["last_error"])
    (here / "gone").rename(here / "nft")
    daemon.caught_up()
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert daemon.stop() == 0
