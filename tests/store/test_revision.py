"""The revision never falls."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from svcnet.store.revision import BLOCK, Revisions


def test_it_rises_by_one_and_starts_at_unix_seconds(tmp_path: Path) -> None:
    revisions = Revisions(tmp_path / "state", now=1_700_000_000.7)
    assert [revisions.next() for _ in range(3)] == [1_700_000_001, 1_700_000_002, 1_700_000_003]


def test_a_restart_goes_on_above_even_when_the_clock_stepped_back(tmp_path: Path) -> None:
    last = 0
    for now in (1000, 1001, 500, 0):
        revisions = Revisions(tmp_path, now)
        for _ in range(BLOCK + 5):
            rev = revisions.next()
            assert rev > last
            last = rev


def test_it_is_at_least_the_time(tmp_path: Path) -> None:
    Revisions(tmp_path, 1000).next()
    assert Revisions(tmp_path, 9_000_000).next() > 9_000_000


def test_a_state_directory_that_is_deleted_or_broken_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "revision").write_text("nonsense")
    assert Revisions(tmp_path, 1000).next() == 1001
    (tmp_path / "file").write_text("")
    assert Revisions(tmp_path / "file/below", 1000).next() == 1001


def test_without_a_state_directory_nothing_is_written(tmp_path: Path) -> None:
    assert Revisions(None, 1000).next() == 1000
    assert list(tmp_path.iterdir()) == []


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from svcnet.store import revision\n"
        "revision.BLOCK = 7; revisions = revision.Revisions(Path(sys.argv[1]), 1000)\n"
        "while True: print(revisions.next(), flush=True)"
    )
    last = 0
    for lines in (1, 5, 30):
        path = ":".join(filter(None, sys.path))
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert child.stdout is not None
        seen = [int(child.stdout.readline()) for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        seen += [int(line) for line in child.stdout.read().splitlines()]
        child.wait()
        child.stdout.close()
        assert seen == sorted(set(seen))
        assert seen[0] > last
        last = seen[-1]


def test_it_follows_another_counter_where_that_is_ahead(tmp_path: Path) -> None:
    serials = Revisions(tmp_path, 1000, "serial")
    assert [serials.next(least) for least in (0, 5000, 17, 5001, 5003)] == [1001, 5000, 5001, 5002, 5003]
    assert Revisions(tmp_path, 1000, "serial").next(17) > 5003
    assert Revisions(tmp_path, 1000).next() == 1001, "one counter a name"


def test_what_another_has_reserved_meanwhile_stays_reserved(tmp_path: Path) -> None:
    """A daemon that was to take over, and did not."""
    old = Revisions(tmp_path, 1000)
    old.next()
    new = Revisions(tmp_path, 1000)
    highest = max(new.next() for _ in range(BLOCK + 5))
    for _ in range(BLOCK + 5):
        old.next()
    assert Revisions(tmp_path, 0).next() > highest
