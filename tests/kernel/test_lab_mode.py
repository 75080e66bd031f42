"""`svcnet lab mode`: the data path of running minions is changed while they serve."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.minion import clean_environment
from tests.harness.until import until

pytestmark = pytest.mark.kernel

RECORDS = Path(__file__).parents[1] / "records"


def svcnet(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "svcnet.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=300)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A lab of two minions with a pod each and the service of 2014; the environment in which `svcnet` knows it."""
    environ = clean_environment() | {"SVCNET_LAB_DIR": str(tmp_path / "labs")}
    done = svcnet("lab", "up", "--minions", "2", "--pods", "1", environ=environ)
    assert done.returncode == 0, done.stderr
    environ |= dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)
    try:
        assert svcnet("create", "-f", str(RECORDS / "tomcat-service.json"), environ=environ).returncode == 0
        yield environ
    finally:
        assert svcnet("lab", "down", environ=environ).returncode == 0


def asked(lab: dict[str, str], member: str) -> str:
    """Who answers there by the service's name, of which its server may have heard a moment later than the kernel."""
    curl = ("curl", "-sS", "--max-time", "30", "http://tomcat.svc:8080/")
    return svcnet("lab", "exec", member, "--", *curl, environ=lab).stdout.strip()


def test_every_minion_changes_its_data_path_and_keeps_serving(lab: dict[str, str]) -> None:
    for mode in ("iptables", "userspace", "nftables"):
        done = svcnet("lab", "mode", mode, environ=lab)
        assert done.returncode == 0, done.stderr
        for member in ("m1", "m2p1"):
            until(lambda member=member: asked(lab, member) in {"m1p1", "m2p1"})  # type: ignore[misc]  # bound now
        report = svcnet(
            "lab", "exec", "m2", "--", sys.executable, "-m", "svcnet.cli.main", "status", "-o", "json", environ=lab
        )
        assert json.loads(report.stdout)["mode"] == mode


def test_a_mode_that_does_not_exist_is_told_and_the_old_one_stays(lab: dict[str, str]) -> None:
    done = svcnet("lab", "mode", "carrier-pigeon", environ=lab)
    assert done.returncode == 2
    assert "'carrier-pigeon' is not known, expected one of auto, nftables" in done.stderr
    until(lambda: asked(lab, "m1") in {"m1p1", "m2p1"})
