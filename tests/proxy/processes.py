"""The worker processes of a daemon under test."""

from pathlib import Path

from tests.harness.daemon import Daemon

WORKER = "svcnet.proxy.worker"


def workers() -> set[int]:
    """The worker processes of this session (in a user's own namespace of process ids there may be others')."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                comm = (path / "comm").read_text().strip()
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if WORKER.encode() in words and comm != "proxy-spare":
                found.add(int(path.name))
    return found


def children(daemon: Daemon) -> set[int]:
    """The workers of one daemon."""
    return {pid for pid in workers() if parent(pid) == daemon.pid}


def parent(pid: int) -> int:
    """Who started a process; 0: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def another_than(pid: int, daemon: Daemon) -> bool:
    return bool(children(daemon) - {pid})
