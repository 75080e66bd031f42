"""Processes that the lab starts, known by more than a number. Shell.

Owns: starting, naming and ending them. Must not know what they do.

Every process writes down who it is (boot, pid, start time) before it becomes what it shall be: whoever started it may
be killed at any moment, and the file is there all the same. A pid that another process has since is never taken
for ours, and a signal goes through a pidfd that was opened before that check.
"""

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

BOOT = Path("/proc/sys/kernel/random/boot_id")

# $0: where to write; the rest is executed by the same process, after descriptor 4 told the parent that it has written.
# Shell built-ins only: no further process, 1 ms.
WRITE_AND_BECOME = (
    f'read -r boot <{BOOT} && read -r stat </proc/$$/stat && printf "%s %s\\n" "$boot" "$stat" >"$0" '
    '&& exec 4>&- && exec "$@"'
)


class Process(NamedTuple):
    """One process for good: boot id, pid, start time in clock ticks since boot (proc(5), field 22)."""

    boot: str
    pid: int
    start: int


class Stat(NamedTuple):
    """What is read of /proc/PID/stat."""

    pid: int
    state: str
    session: int
    start: int


def parse_stat(line: str) -> Stat:
    """Parse /proc/PID/stat; the name in parentheses may hold anything. ValueError for other text."""
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    if len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {line!r}")
    return Stat(pid=int(head.split()[0]), state=fields[0], session=int(fields[3]), start=int(fields[19]))


def parse(text: str) -> Process:
    """Parse what a process wrote about itself. ValueError for other text."""
    boot, _, line = text.strip().partition(" ")
    stat = parse_stat(line)
    return Process(boot, stat.pid, stat.start)


def read(file: Path) -> Process | None:
    """Return who wrote `file`, None when nobody did, or only half."""
    try:
        return parse(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, IndexError):
        return None


def write_own(file: Path) -> None:
    """Write down who the calling process is."""
    line = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    file.write_text(f"{boot_id()} {line}", encoding="utf-8")


def boot_id() -> str:
    """Return the id of this boot: start times count from it."""
    return BOOT.read_text(encoding="utf-8").strip()


def is_alive(process: Process) -> bool:
    """Whether it still runs; a zombie doesn't."""
    stat = _stat(process.pid)
    return bool(stat and stat.start == process.start and stat.state not in "ZX" and boot_id() == process.boot)


def session_members(leader: Process, namespace: Path) -> list[Process]:
    """Return who else is in the session that `leader` began, inside `namespace`: what a killed daemon leaves."""
    members: list[Process] = []
    try:
        inside = namespace.stat().st_ino
    except OSError:
        return members
    for entry in Path("/proc").iterdir():
        stat = _stat(int(entry.name)) if entry.name.isdigit() else None
        if stat is None or stat.session != leader.pid or stat.pid == leader.pid or stat.start < leader.start:
            continue
        with contextlib.suppress(OSError):
            if (entry / "ns/net").stat().st_ino == inside:
                members.append(Process(leader.boot, stat.pid, stat.start))
    return members


def spawn(
    argv: Sequence[str], identity: Path, log: Path, environ: Mapping[str, str], keep: int | None = None
) -> Process | None:
    """Start `argv` in a session of its own, output appended to `log`; return who it is, None if it can't say.

    `keep`: a file descriptor that it gets as number 3.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    launcher = ["/bin/sh", "-c", WRITE_AND_BECOME, str(identity), *argv]
    hears, tells = os.pipe()
    # Copies above 9: one of the originals may itself have number 3 or 4.
    copies = [(fcntl.fcntl(tells, fcntl.F_DUPFD_CLOEXEC, 10), 4)]
    os.close(tells)
    if keep is not None:
        copies.append((fcntl.fcntl(keep, fcntl.F_DUPFD_CLOEXEC, 10), 3))
    actions += [(os.POSIX_SPAWN_DUP2, copy, number) for copy, number in copies]
    try:
        os.posix_spawn("/bin/sh", launcher, dict(environ), file_actions=actions, setsid=True)
    finally:
        for copy, _ in copies:
            os.close(copy)
        os.read(hears, 1)  # nothing comes: it returns when nobody holds the other end
        os.close(hears)
    return read(identity)


def end(processes: Sequence[Process], grace_seconds: float) -> list[Process]:
    """End processes: SIGTERM, and SIGKILL for those still there after the grace (0: at once). Return who outlived it.

    Those that are gone, or whose number another process has now, are left alone.
    """
    handles = {handle: process for process in processes if (handle := _open(process)) is not None}
    try:
        left = set(handles)
        if grace_seconds > 0:
            _signal(left, signal.SIGTERM)
            left = _wait(left, grace_seconds)
        _signal(left, signal.SIGKILL)
        left = _wait(left, 5.0)
        return [handles[handle] for handle in left]
    finally:
        for handle, process in handles.items():
            os.close(handle)
            # Whoever started it from this very process is its parent, and must take its exit status.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _open(process: Process) -> int | None:
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    if is_alive(process):
        return handle
    os.close(handle)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return None


def _signal(handles: set[int], number: signal.Signals) -> None:
    for handle in handles:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)


def _wait(handles: set[int], seconds: float) -> set[int]:
    """Return those that have not ended within `seconds`."""
    left = set(handles)
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for handle in left:
        poll.register(handle, select.POLLIN)
    while left and (remaining := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(remaining * 1000):
            poll.unregister(handle)
            left.discard(handle)
    return left


def _stat(pid: int) -> Stat | None:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
