"""The record directory vanishes, comes back, or is emptied: what was served goes on, and an operator can see why."""

import json
import shutil
from pathlib import Path

import pytest

from tests.harness.files import endpoints, service
from tests.harness.manager import service_manager
from tests.harness.minion import A6, VIP, VIP6, A, B, C, Minion

pytestmark = pytest.mark.kernel

WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")
MANY = tuple(service(f"s{n}", f"10.0.1.{n}") for n in range(1, 13))


def test_a_directory_that_vanishes_and_comes_back_is_away_and_never_empty(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    daemon = minion.daemon().ready()
    with minion.hammer(VIP):
        aside = minion.root / "aside"
        minion.records.rename(aside)
        daemon.until(lambda: not daemon.status()["store"]["connected"])
        daemon.until(lambda: daemon.status()["store"]["staleness_seconds"] > 0)
        assert daemon.get("/readyz")[0] == 200
        assert minion.ask(VIP6) == A6
        assert "away" in minion.svcnet("status").stdout

        aside.rename(minion.records)
        daemon.until(lambda: daemon.status()["store"]["connected"])
        assert daemon.status()["store"]["staleness_seconds"] == 0
        minion.put(endpoints("web", B))
        assert minion.reaches(VIP, B)

        # Removed with all that is in it, made anew and filled again, as `git clone` or `rsync` would.
        backup = shutil.copytree(minion.records, aside)
        shutil.rmtree(minion.records)
        daemon.until(lambda: not daemon.status()["store"]["connected"])
        backup.rename(minion.records)
        daemon.until(lambda: daemon.status()["store"]["connected"])
        minion.put(endpoints("web", C))
        assert minion.reaches(VIP, C)
    assert daemon.stop() == 0


def test_with_a_checkpoint_a_start_serves_while_the_store_is_away(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    minion.daemon().ready().stop()
    shutil.rmtree(minion.env)
    assert minion.run("nft", "flush", "ruleset").returncode == 0  # the machine was started again
    aside = minion.root / "aside"
    minion.records.rename(aside)
    with service_manager(minion.root) as (environ, told):
        daemon = minion.daemon(environ=environ)
        for address, end in ((VIP, A), (VIP6, A6)):
            assert daemon.until(lambda a=address, e=end: minion.ask(a) == e)  # type: ignore[misc]  # held values
        assert "WEB_SERVICE_HOST" in daemon.until(lambda: read(minion.env / "default.env"))
        assert daemon.until(lambda: daemon.get("/readyz")[0]) == 503
        assert not daemon.status()["store"]["connected"]

        aside.rename(minion.records)
        minion.put(endpoints("web", B))
        daemon.ready()
        assert minion.reaches(VIP, B)
        daemon.stop()
    assert told[0] == "READY=1"
    assert told[1].startswith("STATUS=checkpoint")


def test_without_a_checkpoint_and_a_store_nothing_is_written(minion: Minion) -> None:
    minion.records.rmdir()
    with service_manager(minion.root) as (environ, told):
        daemon = minion.daemon(environ=environ)
        assert daemon.until(lambda: daemon.get("/readyz")[0]) == 503
        assert daemon.get("/healthz")[0] == 200
        assert not daemon.status()["store"]["connected"]
        assert minion.ruleset() == ""
        assert not minion.env.exists() or not list(minion.env.iterdir())

        minion.records.mkdir()
        minion.put(WEB, endpoints("web", A))
        daemon.ready()
        assert minion.ask(VIP) == A
        daemon.stop()
    assert told[0] == "READY=1"
    assert "checkpoint" not in told[1]


def test_rules_that_are_there_outlive_a_start_without_store_and_checkpoint(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    minion.daemon().ready().kill()
    shutil.rmtree(minion.state)
    aside = minion.root / "aside"
    minion.records.rename(aside)
    with minion.hammer(VIP):
        daemon = minion.daemon()
        assert daemon.until(lambda: daemon.get("/readyz")[0]) == 503
        aside.rename(minion.records)
        daemon.ready()


def test_a_directory_emptied_while_no_daemon_runs_is_held_until_released(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), *MANY)
    minion.daemon().ready().stop()
    for file in minion.records.glob("*.json"):
        file.unlink()
    daemon = minion.daemon().ready()
    held = daemon.until(lambda: daemon.status()["store"]["held"])
    assert (held["missing"], held["known"]) == (13, 13)
    assert minion.ask(VIP) == A
    assert minion.ask("10.0.1.12") == "refused"
    assert "svcnet release" in minion.svcnet("status").stdout

    # What is written now is served beside what is held.
    minion.put(service("new", "10.0.2.1"), endpoints("new", B))
    assert minion.reaches("10.0.2.1", B)
    assert minion.ask(VIP) == A

    done = minion.svcnet("release", f"--state-dir={minion.state}")
    assert done.returncode == 0
    assert "13 of 13" in done.stdout + done.stderr
    assert minion.reaches(VIP, "silence")
    assert minion.ask("10.0.2.1") == B
    assert daemon.status()["store"]["held"] is None
    daemon.caught_up()
    assert minion.plan() == "0 to create, 0 to update, 0 to delete"


def test_files_that_are_unlinked_under_a_running_daemon_are_never_held(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), *MANY)
    daemon = minion.daemon().ready()
    minion.remove(*MANY)
    assert minion.reaches("10.0.1.1", "silence")
    assert minion.reaches("10.0.1.12", "silence")
    assert minion.reaches(VIP, A)
    assert daemon.caught_up().status()["store"]["held"] is None
    assert daemon.status()["services"] == 1


def test_the_checkpoint_that_cannot_be_read_is_no_reason_to_stop(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    minion.daemon().ready().stop()
    (minion.state / "checkpoint").write_bytes(b"\xff" * 100)
    (minion.state / "revision").write_text("junk")
    daemon = minion.daemon().ready()
    assert minion.ask(VIP) == A
    assert daemon.stop() == 0
    minion.daemon().ready()


def test_revisions_rise_across_kills(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    seen = []
    for ends in ((A,), (B,), (C,)):
        minion.put(endpoints("web", *ends))
        daemon = minion.daemon().caught_up()
        seen.append(daemon.status()["revision_seen"])
        daemon.kill()
    assert seen == sorted(set(seen))


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_status_is_json_with_the_fields_of_the_contract(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    report = json.loads(daemon.get("/status")[1])
    assert report.keys() >= {
        "node", "mode", "mode_reason", "revision_seen", "revision_applied", "services", "endpoints",
        "oldest_unapplied_seconds", "drift", "left_out", "last_error", "store", "parts",
    }  # fmt: skip
