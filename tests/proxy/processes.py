"""The worker processes of a daemon under test."""

from pathlib import Path

from tests.harness.daemon import Daemon

COMM = "proxy-worker"
"""What a worker is called once it serves; before, and while it is a spare, it is called otherwise."""


def workers() -> set[int]:
    """The worker processes of this session (in a user's own namespace of process ids there may be others')."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if (path / "comm").read_text().strip() == COMM:
                    found.add(int(path.name))
            except OSError:
                continue
    return found


def children(daemon: Daemon) -> set[int]:
    """The workers of one daemon."""
    return {pid for pid in workers() if parent(pid) == daemon.pid}


def serving(daemon: Daemon, number: int = 1) -> set[int]:
    """Its workers, once so many serve: a daemon is ready while one may still start."""
    return daemon.until(lambda: found if len(found := children(daemon)) == number else set())


def parent(pid: int) -> int:
    """Who started a process; 0: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def another_than(pid: int, daemon: Daemon) -> bool:
    return bool(children(daemon) - {pid})
