"""The sync suite as a user runs it, in each mode, at its smallest."""

import subprocess
import sys
from pathlib import Path

import pytest

from svcnet.bench.sync import MODES

RUN = Path(__file__).parents[2] / "bench" / "run.py"


@pytest.mark.kernel
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_its_figures(mode: str) -> None:
    options = ["--services=3", "--endpoints=2", "--rounds=1", "--changes=2", "--chains=3"]
    command = [sys.executable, str(RUN), "--suite=sync", f"--mode={mode}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"svcnet-proxy, {mode}, 3 services x 2 endpoints" in done.stdout
    for figure in ("exec to first packet", "rename to packet", "daemon memory", "/healthz under a load"):
        assert figure in done.stdout
    assert "chain per service, 3 x 2 through nft -f: load" in done.stdout


def test_an_unknown_mode_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "svcnet.bench.sync", "--mode=userspace"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr


@pytest.mark.parametrize("sizes", ["0", "100,0", "many"])
def test_sizes_that_no_baseline_can_have_are_a_usage_error(sizes: str) -> None:
    command = [sys.executable, "-m", "svcnet.bench.sync", f"--chains={sizes}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "argument --chains" in done.stderr
    assert sizes in done.stderr
