"""Two daemons on one state directory or in one network namespace: the second is refused and names the first."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svcnet.instance import LOCK, DataPathClaim, StateClaim
from svcnet.model.errors import NotPermittedError, SvcnetError

NAME = f"\0svcnet-test-{os.getpid()}"
"""Not the daemon's own: one may run on the machine of the test."""
IMPORTS = "import os, sys\nfrom pathlib import Path\nfrom svcnet.instance import *\n"


@contextmanager
def other_process(statement: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has made a claim and holds it."""
    code = f"{IMPORTS}held = {statement}\nprint(flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        yield process
        process.kill()


def test_a_second_daemon_on_a_state_directory_is_refused_by_pid(tmp_path: Path) -> None:
    with other_process(f"StateClaim(Path({str(tmp_path)!r}))") as holder:
        with pytest.raises(SvcnetError, match=rf"--state-dir {tmp_path}: pid {holder.pid}$") as caught:
            StateClaim(tmp_path)
        assert caught.value.exit_code == 1


def test_a_killed_daemon_has_released_its_state_directory(tmp_path: Path) -> None:
    with other_process(f"StateClaim(Path({str(tmp_path)!r}))") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        StateClaim(tmp_path).release()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_state_directory_is_made_when_it_is_missing(tmp_path: Path) -> None:
    StateClaim(tmp_path / "a" / "b").release()
    assert (tmp_path / "a" / "b" / LOCK).exists()


def test_a_state_directory_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SvcnetError, match="file/state"):
        StateClaim(tmp_path / "file" / "state")


@pytest.mark.root
def test_a_state_directory_of_someone_else_is_not_permitted(tmp_path: Path) -> None:
    code = f"{IMPORTS}os.setuid(65534)\nStateClaim(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{NotPermittedError.__module__}.NotPermittedError: {tmp_path}")


def test_a_second_data_path_is_refused_by_pid_however_often_it_is_tried() -> None:
    with other_process(f"DataPathClaim({NAME!r})") as holder:
        for _ in range(200):
            with pytest.raises(SvcnetError, match=rf"network namespace already: pid {holder.pid}$"):
                DataPathClaim(NAME)


def test_a_killed_daemon_has_released_its_data_path() -> None:
    with other_process(f"DataPathClaim({NAME!r})") as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        DataPathClaim(NAME).release()


@pytest.mark.kernel
def test_each_network_namespace_has_a_data_path_of_its_own() -> None:
    claim = DataPathClaim(NAME)
    code = f"{IMPORTS}DataPathClaim(chr(0) + sys.argv[1]).release()"
    command = [sys.executable, "-c", code, NAME[1:]]
    try:
        assert subprocess.run(["unshare", "--net", *command], check=False).returncode == 0
        assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0
    finally:
        claim.release()
