"""Network namespaces: made, entered, wired and deleted by name. Shell.

Owns: /run/netns, `ip -batch`, setns. Must not know what a lab is.

One `ip` call a namespace: measured 6 to 9 times faster than a netlink library that opens each namespace. setns changes
the calling thread alone, so whoever needs a namespace gets a thread that ends with its errand: the caller never leaves
its own.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from svcnet.model.errors import KernelError, NotPermittedError

DIRECTORY = Path("/run/netns")
"""Where ip(8) keeps named namespaces."""

CLONE_NEWNET = 0x40000000

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""What making and entering a network namespace takes: bit numbers of capabilities(7)."""

Result = TypeVar("Result")


def path(namespace: str) -> Path:
    """Return the file that stands for a namespace, for nsenter(1) and setns(2)."""
    return DIRECTORY / namespace


def existing(pattern: re.Pattern[str]) -> list[str]:
    """Return the namespaces whose whole name matches, sorted."""
    try:
        return sorted(file.name for file in DIRECTORY.iterdir() if pattern.fullmatch(file.name))
    except FileNotFoundError:
        return []


def require_privilege() -> None:
    """Raise NotPermittedError that names the capabilities, or the programs, which are missing."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise NotPermittedError(f"the lab makes network namespaces: {' and '.join(missing)} missing; run it as root")


def run_batches(batches: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Run `ip -n NAMESPACE -batch` with each list of lines; "" is for lines that name their namespace themselves.

    Batches run beside each other: none may need what another makes. KernelError names the line that failed.
    """
    # Two at a time: more only queue behind the kernel's one lock for links and addresses.
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(lambda batch: _run_batch(*batch), batches))


def add(names: Sequence[str]) -> None:
    """Make namespaces."""
    _run_batch("", [f"netns add {name}" for name in names])


def delete(names: Sequence[str]) -> None:
    """Delete namespaces that exist; those half made by an interrupted `add` as well."""
    if names:
        _run_batch("", [f"netns del {name}" for name in names])


def inside(namespace: str, act: Callable[[], Result]) -> Result:
    """Return act(), run by a thread inside the namespace. Sockets that it opens stay there."""

    def enter_and_act() -> Result:
        enter(namespace)
        return act()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(enter_and_act).result()


def enter(namespace: str) -> None:
    """Move the calling thread, for good, into a namespace. OSError as setns(2) gives it."""
    import ctypes  # noqa: PLC0415 - only the lab's own processes need it, never the command line's start

    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path(namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path(namespace)))
    finally:
        os.close(handle)


def write_settings(namespace: str, settings: Sequence[tuple[str, str]]) -> list[str]:
    """Write (path below /proc/sys, value) inside a namespace; return the paths that this kernel doesn't have there."""

    def write() -> list[str]:
        absent = []
        for name, value in settings:
            file = Path("/proc/sys", name)
            try:
                if file.read_text(encoding="utf-8").strip() != value:
                    file.write_text(value, encoding="utf-8")
            except FileNotFoundError:
                absent.append(name)
        return absent

    return inside(namespace, write) if settings else []


def _run_batch(namespace: str, lines: Sequence[str]) -> None:
    where = ["-n", namespace] if namespace else []
    try:
        done = subprocess.run(
            ["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise KernelError("the lab needs ip(8): install iproute2") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        number = re.search(r"Command failed -:(\d+)", said)
        line = f" at `{lines[int(number[1]) - 1]}`" if number else ""
        raise KernelError(f"ip in namespace {namespace or '(by name)'}{line}: {said}")
