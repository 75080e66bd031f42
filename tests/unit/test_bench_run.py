"""bench/run.py as a user runs it: the table, the files, and that nothing of it stays."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from svcnet.bench import load
from svcnet.bench.paths import OURS, Cores, Ground
from svcnet.lab import namespace
from tests.harness.until import PATIENCE_SECONDS, until

RUN = Path(__file__).parents[2] / "bench" / "run.py"
CORES = Cores(min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0)))
PATHS = ("direct", "nftables", "iptables-nft", "userspace", "haproxy")


def bench(*options: str) -> list[str]:
    return [sys.executable, str(RUN), *options]


def running(*options: str) -> subprocess.Popen[bytes]:
    """Started, and measuring."""
    process = subprocess.Popen(bench(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = b""
    while b"round 1" not in told:
        some = os.read(process.stderr.fileno(), 4096)
        assert some, told
        told += some
    return process


def left_behind(pid: int) -> list[str]:
    """Namespaces and directories."""
    names = [*namespace.existing(OURS), *(found.name for found in Path(tempfile.gettempdir()).glob("bench-*"))]
    return [name for name in names if f"-{pid}-" in name]


def test_help_names_the_suites_and_the_options_of_the_default_one() -> None:
    done = subprocess.run(bench("--help"), capture_output=True, text=True, check=True)
    assert all(
        word in done.stdout for word in ("load", "worker", "curve", "sync", "keys", "--quick", "--json", "--plot")
    )


def test_an_unknown_option_is_a_usage_error_before_anything_is_made() -> None:
    done = subprocess.run(bench("--fast"), capture_output=True, text=True, check=False)
    assert done.returncode == (2 if os.geteuid() == 0 else 5)


@pytest.mark.kernel
def test_quick_prints_a_row_a_path_and_writes_what_programs_read(tmp_path: Path) -> None:
    told, drawn = tmp_path / "figures.json", tmp_path / "plot.svg"
    options = ["--quick", "--seconds=0.02", "--rounds=2", f"--paths={','.join(PATHS)}"]
    process = subprocess.Popen(
        bench(*options, f"--json={told}", f"--plot={drawn}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    table, progress = process.communicate(timeout=4 * PATIENCE_SECONDS)
    assert process.returncode == 0, progress
    figures = json.loads(told.read_text())
    measured, left_out = list(figures["paths"]), figures["left_out"]
    assert sorted([*measured, *left_out]) == sorted(PATHS)
    assert {"direct", "nftables"} <= {*measured}
    first_words = [line.split()[0] for line in table.splitlines() if line]
    assert all(first_words.count(name) == 3 for name in measured)
    assert all(f"left out: {name}: {why}" in table for name, why in left_out.items())
    assert all(len(figures["paths"][name]["rounds"]) == 2 for name in measured)
    assert "round 2 of 2" in progress
    assert len(ET.parse(drawn).getroot().findall("{http://www.w3.org/2000/svg}polyline")) == len(measured)
    assert left_behind(process.pid) == []


@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_it_takes_everything_down(number: signal.Signals) -> None:
    process = running("--seconds=0.1", "--rounds=100", "--paths=nftables")
    assert left_behind(process.pid)
    process.send_signal(number)
    _, rest = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, rest
    assert left_behind(process.pid) == []


@pytest.mark.kernel
def test_killed_it_leaves_what_the_next_run_ends_and_deletes() -> None:
    process = running("--seconds=0.1", "--rounds=100", "--paths=userspace")
    left = left_behind(process.pid)
    process.kill()
    process.communicate()
    programs = {pid for name in left if namespace.path(name).exists() for pid in _programs_in(name)}
    with Ground(["direct"], CORES):
        assert left_behind(process.pid) == []
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in programs))


@pytest.mark.kernel
def test_a_path_that_dies_is_left_out_and_the_others_go_on() -> None:
    with Ground(["direct", "userspace"], CORES) as ground:
        assert ground.left_out == {}
        for pid in _programs_in(ground._sites["userspace"].minion):
            os.kill(int(pid), signal.SIGKILL)
        ground._processes["userspace"][0].wait()
        results = load.rounds(ground, 1, 0.02, (10,))
    assert list(results) == ["direct"]
    assert "failed in round 1" in ground.left_out["userspace"]
    assert left_behind(os.getpid()) == []


def _programs_in(name: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.kernel
def test_the_worker_suite_kills_and_tells_what_that_did() -> None:
    done = subprocess.run(bench("--suite=worker", "--kills=1"), capture_output=True, text=True, check=True)
    assert "worker killed 1 times" in done.stdout
    assert "kill to first answer" in done.stdout
