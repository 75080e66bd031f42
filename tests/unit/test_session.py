"""The rules of tests/conftest.py, tried on suites that break them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
OPTIONS = "[pytest]\nmarkers =\n  kernel: as in pyproject.toml\n  root: as in pyproject.toml\n"


def session(directory: Path, test: str, *, ci: bool = False, path: str | None = None) -> tuple[int, str]:
    """Run a suite of one file under the conftest; return (exit code, output)."""
    (directory / "pytest.ini").write_text(OPTIONS)
    (directory / "conftest.py").write_text(
        CONFTEST.read_text().replace("PATIENCE_SECONDS = 30.0", "PATIENCE_SECONDS = 0.5")
    )
    (directory / "test_it.py").write_text(f"import os, subprocess, pytest\n{test}")
    environ = {k: v for k, v in os.environ.items() if k not in {"CI", "PYTEST_CURRENT_TEST"}}
    environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {})
    environ |= {"PATH": path} if path is not None else {}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(directory)]
    done = subprocess.run(command, check=False, cwd=directory, env=environ, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_a_clean_suite_passes(tmp_path: Path) -> None:
    code, told = session(tmp_path, "def test_it():\n    subprocess.run(['true'], check=True)\n", ci=True)
    assert (code, "left behind" in told) == (0, False)


@pytest.mark.parametrize("command", ["sleep 50 &", "setsid sleep 50 >/dev/null 2>&1 &"])
def test_a_process_that_outlives_the_suite_fails_it_and_is_ended(tmp_path: Path, command: str) -> None:
    code, told = session(tmp_path, f"def test_it():\n    subprocess.run(['sh', '-c', {command!r}], check=True)\n")
    assert code == 1
    line = next(line for line in told.splitlines() if line.startswith("FAILED: left behind: process"))
    assert line.endswith("sleep 50")
    pid = int(line.split()[4].rstrip(":"))
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_skip_fails_the_suite_in_ci_only(tmp_path: Path) -> None:
    test = "def test_it():\n    pytest.skip('today')\n"
    assert session(tmp_path, test)[0] == 0
    code, told = session(tmp_path, test, ci=True)
    assert code == 1
    assert "FAILED: skipped in CI: test_it.py::test_it" in told


def test_a_module_that_skips_itself_fails_the_suite_in_ci(tmp_path: Path) -> None:
    code, told = session(tmp_path, "pytest.importorskip('no_such_module')\ndef test_it():\n    pass\n", ci=True)
    assert code != 0
    assert "FAILED: skipped in CI: test_it.py" in told


KERNEL = "@pytest.mark.kernel\ndef test_kernel():\n    pass\n\ndef test_plain():\n    pass\n"


def test_without_the_tools_kernel_tests_are_counted_not_run_and_ci_fails(tmp_path: Path) -> None:
    code, told = session(tmp_path, KERNEL, path="")
    assert code == 0
    assert "not collected: 1 (kernel tests: no " in told
    assert "1 passed, 1 deselected" in told
    assert session(tmp_path, KERNEL, path="", ci=True)[0] == 1


def test_what_this_machine_lacks_is_counted_and_no_failure_in_ci(tmp_path: Path) -> None:
    test = "@pytest.mark.needs('ipset')\ndef test_it():\n    pass\n\ndef test_plain():\n    pass\n"
    code, told = session(tmp_path, test, ci=True, path="")
    assert code == 0
    assert "not collected: 1 (this machine lacks ipset)" in told


def test_a_need_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    code, _ = session(tmp_path, "@pytest.mark.needs('luck')\ndef test_it():\n    pass\n")
    assert code == pytest.ExitCode.USAGE_ERROR


@pytest.mark.kernel
def test_a_network_namespace_that_stays_fails_the_suite_and_is_gone_with_it(tmp_path: Path) -> None:
    name = f"left-{os.getpid()}"
    test = f"def test_it():\n    subprocess.run(['ip', 'netns', 'add', {name!r}], check=True)\n"
    code, told = session(tmp_path, test)
    assert code == 1
    assert f"FAILED: left behind: network namespace {name}" in told
    assert not Path("/run/netns", name).exists()


@pytest.mark.kernel
def test_namespaces_of_others_are_neither_seen_nor_judged(tmp_path: Path) -> None:
    name = f"other-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        code, _ = session(tmp_path, f"def test_it():\n    assert not os.path.exists('/run/netns/{name}')\n")
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    assert code == 0
