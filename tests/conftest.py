"""The rules of a test session: what is collected here, and that nothing is left behind.

Owns: the private mount namespace in which the suite's network namespaces live, the markers `kernel`, `root`, `needs`,
and the guard at the end. Must not know any single test.

As root, the session unshares its mounts and gets an empty /run/netns: what it makes is seen by nobody else, what others
make is not taken for its own, and a suite that is killed leaves no namespace.
"""

import ctypes
import os
import platform
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("svcnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("svcnet")
"""No test fails as the machine is slow: an example that usually takes 7 ms took 260 on a busy one."""
NETNS = Path("/run/netns")
SESSION = f"{os.getpid()}-{time.time_ns()}"
"""In the environment of this process, and so of all that it starts: how the guard knows them."""
SESSION_VARIABLE = "PYTEST_SVCNET_SESSION"
PATIENCE_SECONDS = 30.0
"""How long processes of the suite may take to end after the last test."""

CLONE_NEWNS, MS_REC, MS_SLAVE = 0x20000, 0x4000, 0x80000


def _can_make_sctp_socket() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    except OSError:
        return False
    return True


def _which(program: str) -> bool:
    # Where Debian puts servers, not every user's PATH leads to.
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))) is not None


def _has_container_engine() -> bool:
    # Where Debian puts netavark, no PATH leads to.
    where = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/lib/podman"))
    return all(shutil.which(program, path=where) for program in ("podman", "runc", "conmon", "netavark"))


CAPABILITIES: dict[str, Callable[[], bool]] = {
    "bridge-nf": Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists,
    "etcd": lambda: shutil.which("etcd") is not None,
    "ipset": lambda: shutil.which("ipset") is not None,
    "haproxy": lambda: _which("haproxy"),
    "iptables": lambda: shutil.which("iptables-restore") is not None,
    "ipv6": Path("/proc/sys/net/ipv6").exists,
    "knot": lambda: _which("knotd"),
    "nsd": lambda: _which("nsd"),
    "openssl": lambda: shutil.which("openssl") is not None,
    "podman": _has_container_engine,
    "sctp": _can_make_sctp_socket,
}
"""What `@pytest.mark.needs(NAME)` may ask of the machine. Tests that need something else of it add it here."""

INSTALLED_ON_DEBIAN = frozenset({"haproxy", "knot", "nsd", "podman"})
"""What .ci/setup installs there as root. Where it should have, a session in CI fails without it."""

TOOLS = ("ip", "nft", "conntrack")


class Session:
    """What the hooks of one session count."""

    def __init__(self) -> None:
        self.private = False
        self.deselected: dict[str, int] = {}
        self.skipped: list[str] = []
        self.left_behind: list[str] = []


STATE = pytest.StashKey[Session]()


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _is_debian_as_root() -> bool:
    try:
        return os.geteuid() == 0 and platform.freedesktop_os_release()["ID"] == "debian"
    except OSError:  # no such file: some other system
        return False


def _own_namespaces() -> bool:
    """Unshare the mounts and put an empty /run/netns there; False where this process may not."""
    if os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return False
    NETNS.mkdir(parents=True, exist_ok=True)
    apart: int = libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None)
    empty: int = libc.mount(b"tmpfs", str(NETNS).encode(), b"tmpfs", 0, b"mode=755")
    return apart == 0 and empty == 0


def _missing_for_kernel_tests(private: bool) -> str:
    """Return why kernel tests can't run here, or ""."""
    if os.geteuid() != 0:
        return "no root"
    if not private:
        return "no mount namespace may be made"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"no {', '.join(missing)}" if missing else ""


def pytest_configure(config: pytest.Config) -> None:
    """Name the session in the environment and take the mounts apart, before any test starts anything."""
    config.addinivalue_line("markers", f"needs(name): what the kernel or machine must have: {', '.join(CAPABILITIES)}")
    config.stash[STATE] = state = Session()
    os.environ[SESSION_VARIABLE] = SESSION
    if not config.option.collectonly:
        state.private = _own_namespaces()


def _obstacle(item: pytest.Item, kernel: str, absent: set[str]) -> str:
    """Return why this test can't run here, or ""."""
    if item.get_closest_marker("kernel") and kernel:
        return f"kernel tests: {kernel}"
    if item.get_closest_marker("root") and os.geteuid() != 0:
        return "root tests: no root"
    wanted = {name for mark in item.iter_markers("needs") for name in mark.args}
    if unknown := wanted - CAPABILITIES.keys():
        raise pytest.UsageError(f"{item.nodeid}: needs {', '.join(sorted(unknown))}: not in tests/conftest.py")
    if forgotten := sorted(wanted & absent & INSTALLED_ON_DEBIAN if _is_debian_as_root() else ()):
        return f"not installed: {', '.join(forgotten)}"
    lacking = sorted(wanted & absent)
    return f"this machine lacks {', '.join(lacking)}" if lacking else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine can't run, and count it: a test that can't run is not a skipped one."""
    state = config.stash[STATE]
    kernel = "" if config.option.collectonly else _missing_for_kernel_tests(state.private)
    absent = {name for name, present in CAPABILITIES.items() if not present()}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        obstacle = _obstacle(item, kernel, absent)
        if obstacle:
            state.deselected[obstacle] = state.deselected.get(obstacle, 0) + 1
        (left_out if obstacle else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_report_header(config: pytest.Config) -> str:
    """Say in the first lines whether kernel tests run."""
    missing = _missing_for_kernel_tests(config.stash[STATE].private)
    return f"kernel tests: {'not collected: ' + missing if missing else 'collected'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    """Note skips: in CI they fail the session."""
    report = yield
    if getattr(report, "skipped", False):
        item.config.stash[STATE].skipped.append(item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> object:
    """Note modules that skip themselves."""
    report = yield
    if getattr(report, "skipped", False):
        collector.config.stash[STATE].skipped.append(collector.nodeid)
    return report


def _children() -> dict[int, str]:
    """Return pid → command line of the processes that this session started and that are still there, zombies too."""
    tag = f"{SESSION_VARIABLE}={SESSION}".encode()
    found = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            status = (directory / "stat").read_text().rpartition(")")[2].split()
            # A zombie has no environment any more; it counts when it is our own child.
            if tag in (directory / "environ").read_bytes().split(b"\0") or int(status[1]) == os.getpid():
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                found[int(directory.name)] = command or (directory / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _left_behind(private: bool) -> list[str]:
    """Wait for the suite's processes to end, end those that don't, and return what was left."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (processes := _children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    left = [f"process {pid}: {command}" for pid, command in sorted(processes.items())]
    if private:
        left += [f"network namespace {path.name}" for path in sorted(NETNS.iterdir())]
    return left


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that left something behind and, in CI, one that did not run everything."""
    state = session.config.stash[STATE]
    if session.config.option.collectonly:
        return
    state.left_behind = _left_behind(state.private)
    unrun = any(reason.startswith(("kernel tests", "root tests", "not installed")) for reason in state.deselected)
    if state.left_behind or (_in_ci() and (state.skipped or unrun)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was not collected, and why the session failed if no test did."""
    state = config.stash[STATE]
    for reason, number in sorted(state.deselected.items()):
        terminalreporter.write_line(f"not collected: {number} ({reason})")
    for name in state.skipped if _in_ci() else ():
        terminalreporter.write_line(f"FAILED: skipped in CI: {name}")
    for name in state.left_behind:
        terminalreporter.write_line(f"FAILED: left behind: {name}")
