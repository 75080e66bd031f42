"""`svcnet lab` as a user types it, without a proxy in the minions."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.until import until

pytestmark = pytest.mark.kernel

NAME = "labcli"


class Shell:
    """Runs `svcnet lab …` with labs kept in one directory."""

    def __init__(self, root: Path) -> None:
        self.labs = root / "labs"
        self.records = f"dir:{self.labs}/{NAME}/records"
        self.environ = os.environ | {"SVCNET_LAB_DIR": str(self.labs), "SVCNET_ZONE": "not-the-lab-s"}

    def __call__(self, *words: str, become: str = "") -> subprocess.CompletedProcess[str]:
        # Imported first: another user may not be able to read them.
        code = (
            f"import os, sys, encodings.ascii, svcnet.cli.lab, svcnet.lab.status\nfrom svcnet.cli import main\n{become}"
        )
        code += "\nmain.main()"
        argv = [sys.executable, "-c", code, *words]
        return subprocess.run(argv, env=self.environ, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    run = Shell(tmp_path)
    yield run
    run("lab", "down", "--name", NAME)
    assert not [file for file in Path("/run/netns").iterdir() if file.name.startswith(f"svcnet-{NAME}-")]


def up(shell: Shell, *more: str) -> subprocess.CompletedProcess[str]:
    done = shell("lab", "up", "--name", NAME, "--minions", "2", *(more or ("--pods", "1", "--no-proxy")))
    assert done.returncode == 0, done.stderr
    return done


def test_from_up_to_down(shell: Shell) -> None:
    said = up(shell)
    assert said.stdout == f"export SVCNET_RECORDS={shell.records} SVCNET_SERVICE_CIDR=10.0.0.0/16\n"
    assert "lab labcli is up" in said.stderr
    asked = shell("lab", "exec", "--name", NAME, "m1p1", "--", "curl", "-sS", "http://10.1.2.2:8080/")
    assert asked.stdout == "m2p1\n"
    assert shell("lab", "exec", "--name", NAME, "m1p1", "sh", "-c", "exit 9").returncode == 9
    again = shell("lab", "up", "--name", NAME, "--no-proxy")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert shell("lab", "down", "--name", NAME).returncode == 0
    gone = shell("lab", "down", "--name", NAME)
    assert (gone.returncode, "there is no lab labcli" in gone.stderr) == (1, True)
    assert not shell.labs.exists()


def test_the_records_are_those_that_svcnet_gets(shell: Shell) -> None:
    up(shell, "--pods", "1", "--no-proxy", "--label", "tier=web", "--label", "app=x")
    shown = shell("get", "pods", "-l", "tier=web,app=x", "-o", "name", "--records", shell.records)
    assert shown.stdout.split() == ["pod/m1p1", "pod/m2p1"], shown.stderr
    inside = shell("lab", "exec", "--name", NAME, "m1", "--", sys.executable, "-m", "svcnet.cli.main", "get", "minions")
    assert "m2" in inside.stdout, inside.stderr


def test_a_killed_pod_is_shown_and_its_record_goes(shell: Shell) -> None:
    up(shell)
    assert shell("lab", "status", "--name", NAME).returncode == 0
    assert shell("lab", "kill", "--name", NAME, "m2p1").returncode == 0
    table = until(lambda: done if (done := shell("lab", "status", "--name", NAME)).returncode else None)
    assert table
    assert table.returncode == 1
    assert [line.split() for line in table.stdout.splitlines()] == [
        ["NAME", "ADDRESS", "STATE"],
        ["m1", "172.20.0.1", "fd00:20::1", "no", "proxy"],
        ["m1p1", "10.1.1.2", "fd00:1:0:1::2", "running"],
        ["m2", "172.20.0.2", "fd00:20::2", "no", "proxy"],
        ["m2p1", "10.1.2.2", "fd00:1:0:2::2", "ended"],
    ]
    members = json.loads(shell("lab", "status", "--name", NAME, "-o", "json").stdout)["members"]
    assert [m["state"] for m in members if m["kind"] == "pod"] == ["running", "ended"]
    until(lambda: shell("get", "pods", "-o", "name", "--records", shell.records).stdout.split() == ["pod/m1p1"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["up", "--name", "Big"], 2, "--name"),
        (["up", "--minions", "0"], 2, "--minions"),
        (["up", "--topology", "ring"], 2, "ring"),
        (["up", "--label", "novalue"], 2, "KEY=VALUE"),
        (["up", "--service-cidr", "10.1.0.0/20"], 2, "overlaps"),
        (["exec", "--name", "absent", "m1", "true"], 1, "there is no lab absent"),
        (["status", "--name", "absent"], 1, "there is no lab absent"),
        (["kill", "--name", "absent", "m1"], 1, "there is no lab absent"),
        (["down", "--name", "../x"], 2, "--name"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_made(shell: Shell, words: list[str], code: int, said: str) -> None:
    done = shell("lab", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not shell.labs.exists()


@pytest.mark.parametrize("words", [["up"], ["down"], ["status"], ["exec", "m1", "true"], ["kill", "m1"]])
def test_without_root_it_says_what_is_missing(shell: Shell, words: list[str]) -> None:
    done = shell("lab", *words, become="os.setgroups([]); os.setgid(65534); os.setuid(65534)")
    assert done.returncode == 5, done.stderr
    assert "CAP_NET_ADMIN and CAP_SYS_ADMIN missing" in done.stderr


@pytest.mark.parametrize("topology", ["routed", "bridge"])
def test_a_service_reaches_every_pod_from_each_of_them_and_the_client_is_seen(shell: Shell, topology: str) -> None:
    """The rows of the matrix that hang when a bridge or a hairpin is wired wrongly: all end in one connection each."""
    up(shell, "--pods", "2", "--topology", topology)
    service = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "tomcat"},
        "spec": {"clusterIP": "10.0.0.9", "selector": {"name": "tomcatCluster"}, "ports": [{"port": 8080}]},
    }
    path = shell.labs.parent / "service.json"
    path.write_text(json.dumps(service))
    created = shell("create", "-f", str(path), "--records", shell.records)
    assert created.returncode == 0, created.stderr
    for minion in ("m1", "m2"):
        ask = ("lab", "exec", "--name", NAME, minion, "--", "curl", "-sS", "--max-time", "30")
        until(lambda ask=ask: shell(*ask, "http://10.0.0.9:8080/").returncode == 0)  # type: ignore[misc]  # bound now
    for member, own in (("m1p1", "10.1.1.2"), ("m2p2", "10.1.2.3"), ("m1", None)):
        urls = ["http://10.0.0.9:8080/", "http://10.0.0.9:8080/client"] * 60
        asked = shell(
            "lab", "exec", "--name", NAME, member, "--", "curl", "-sS", "-m30", "-H", "Connection: close", *urls
        )
        assert asked.returncode == 0, asked.stderr
        said = asked.stdout.split()
        assert set(said[::2]) == {"m1p1", "m1p2", "m2p1", "m2p2"}
        assert own is None or own in said[1::2]
