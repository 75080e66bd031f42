"""iptables' programs as a machine may have them: missing, without rights, waiting for a lock, of two kinds."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from svcnet.iptables.xtables import WAIT_SECONDS, Xtables, installed, select
from svcnet.model.errors import KernelError
from tests.harness.files import endpoints, service
from tests.harness.minion import VIP, A, B, Minion

IPTABLES = "--mode=iptables"
PROGRAMS = [f"{command}-{variant}{part}" for command in ("iptables", "ip6tables") for variant in ("legacy-", "nft-", "")
            for part in ("save", "restore")]  # fmt: skip
kernel = pytest.mark.kernel
needs_iptables = pytest.mark.needs("iptables")


def machine_with(monkeypatch: pytest.MonkeyPatch, directory: Path, programs: dict[str, str]) -> None:
    """A PATH of these programs alone, each of which says its version."""
    for name, version in programs.items():
        program = directory / name
        program.write_text(f"#!/bin/sh\necho '{name} v1.8.9 ({version})'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr("svcnet.iptables.xtables.SBIN", str(directory))


def test_missing_programs_are_named_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, tmp_path, {})
    with pytest.raises(KernelError, match=r"iptables-restore and ip6tables-restore are missing .*apt install iptables"):
        installed()


def test_programs_without_a_variant_in_their_name_are_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [name for name in PROGRAMS if "legacy" not in name and "nft" not in name]
    machine_with(monkeypatch, tmp_path, dict.fromkeys(plain, "legacy"))
    assert list(installed()) == ["legacy"]


def test_one_missing_program_of_four_takes_the_variant_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them = {name: "legacy" if "nft" not in name else "nf_tables" for name in PROGRAMS}
    machine_with(monkeypatch, tmp_path, all_of_them)
    assert list(installed()) == ["legacy", "nft"]
    (tmp_path / "ip6tables-nft-save").unlink()
    assert list(installed()) == ["legacy"]


@pytest.mark.parametrize(
    ("rules", "chosen", "warned"),
    [
        ({}, "nft", False),
        ({"legacy": 3}, "legacy", False),
        ({"nft": 3}, "nft", False),
        ({"legacy": 3, "nft": 1}, "nft", True),
    ],
)
def test_the_variant_that_holds_the_machines_rules_is_used(rules: dict[str, int], chosen: str, warned: bool) -> None:
    variants = {name: Xtables(name, {}) for name in ("nft", "legacy")}
    tables, warning = select(variants, rules)
    assert tables is variants[chosen]
    assert ("3 rules in legacy tables" in warning) == warned


@kernel
@needs_iptables
def test_a_start_without_programs_fails_and_says_what_to_install(minion: Minion) -> None:
    empty = minion.root / "empty"
    empty.mkdir()
    hide = (f'for p in {" ".join(PROGRAMS)}; do f=$(command -v "$p") && mount --bind {empty} "$(dirname "$f")"; done; '
            'exec "$@"')  # fmt: skip
    daemon = minion.daemon(IPTABLES, wrap=("unshare", "--mount", "/bin/sh", "-c", hide, "sh"))
    assert daemon.ended() == 1
    assert "apt install iptables" in daemon.log


@kernel
@needs_iptables
def test_a_start_without_the_right_names_it(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    daemon = minion.daemon(IPTABLES, wrap=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"))
    assert daemon.ended() == 5
    assert "CAP_NET_RAW" in daemon.log


@kernel
@needs_iptables
def test_a_change_waits_for_the_lock_that_another_holds_while_the_daemon_lives_on(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    lock = use_legacy(minion)
    daemon = minion.daemon(IPTABLES, environ={"XTABLES_LOCKFILE": str(lock)}).ready()
    assert minion.ask(VIP) == A
    with held(lock):
        minion.put(endpoints("web", B))
        daemon.until(lambda: waiting(daemon.pid))
        assert daemon.get("/healthz")[0] == 200
        assert minion.ask(VIP) == A
        daemon.until(lambda: "does another one hold the xtables lock?" in daemon.log)
    assert minion.reaches(VIP, B)
    # The second: where this test was so slow that the lock was held for longer than the daemon waits.
    assert daemon.status()["last_error"] in {
        "",
        f"iptables: another program held the xtables lock for {WAIT_SECONDS} s",
    }


@kernel
@needs_iptables
def test_a_start_that_waits_for_the_lock_says_so_and_goes_on(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    lock = use_legacy(minion)
    with held(lock):
        daemon = minion.daemon(IPTABLES, environ={"XTABLES_LOCKFILE": str(lock)})
        daemon.until(lambda: "does another one hold the xtables lock?" in daemon.log)
    daemon.ready()
    assert minion.ask(VIP) == A


@pytest.fixture(params=["legacy", "nft"])
def variant(request: pytest.FixtureRequest, minion: Minion) -> str:
    """Where the machine's rules are."""
    for command in ("iptables", "ip6tables"):
        assert minion.run(f"{command}-{request.param}", "-A", "INPUT", "-j", "ACCEPT").returncode == 0
    return str(request.param)


def without(minion: Minion, *extensions: str) -> dict[str, str]:
    """The environment of a program of iptables that lacks these extensions, as on a kernel without their modules."""
    (library,) = {found.parent for found in Path("/usr/lib").glob("**/xtables/libxt_set.so")}
    directory = minion.root / "extensions"
    directory.mkdir()
    for found in library.iterdir():
        if found.stem.partition("_")[2] not in extensions:
            (directory / found.name).symlink_to(found)
    return {"XTABLES_LIBDIR": str(directory)}


@kernel
@needs_iptables
@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("extension", ["addrtype", "statistic", "conntrack", "comment"])
def test_a_start_without_a_match_that_every_service_needs_names_its_module(minion: Minion, extension: str) -> None:
    daemon = minion.daemon(IPTABLES, environ=without(minion, extension))
    assert daemon.ended() == 1
    assert f"this kernel or iptables has no match {extension} (module xt_{extension})" in daemon.log


@kernel
@needs_iptables
@pytest.mark.usefixtures("variant")
def test_services_that_want_what_is_missing_are_served_by_chance_and_named(minion: Minion) -> None:
    hashed = service("hashed", "10.0.0.7")
    hashed["metadata"]["annotations"] = {"svcnet.dev/balance": "source-hash"}
    minion.put(service("web", VIP, sessionAffinity="ClientIP"), endpoints("web", A, B))
    minion.put(hashed, endpoints("hashed", A, B), service("other", "10.0.0.6"), endpoints("other", A))
    daemon = minion.daemon(IPTABLES, environ=without(minion, "cluster", "set", "bpf")).ready()
    for address in (VIP, "10.0.0.7"):
        assert minion.reaches(address, A, B)
    assert minion.ask("10.0.0.6") == A
    left_out = {item["what"]: item["reason"] for item in daemon.status()["left_out"]}
    assert left_out.keys() == {f"default/{name} {p}/80" for name in ("web", "hashed") for p in ("tcp", "udp")}
    assert "session affinity is not kept: this kernel or iptables has no match set (module xt_set)" in str(left_out)
    assert "source hash is not kept: this kernel or iptables has no match cluster (module xt_cluster)" in str(left_out)
    minion.remove(hashed)
    daemon.until(lambda: len(daemon.status()["left_out"]) == 2)
    assert daemon.status()["last_error"] == ""


def use_legacy(minion: Minion) -> Path:
    """Make the daemon use legacy tables, where others' rules are; a file for their lock."""
    for command in ("iptables", "ip6tables"):
        done = minion.run(f"{command}-legacy", "-A", "INPUT", "-j", "ACCEPT")
        assert done.returncode == 0, done.stderr
    return minion.root / "xtables.lock"


@contextmanager
def held(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def waiting(pid: int) -> bool:
    """Whether a child of this process is an iptables-restore."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended, or the child
            for child in file.read_text().split():
                if "iptables-legacy-restore" in Path(f"/proc/{child}/cmdline").read_text():
                    return True
    return False
