"""A lab on etcd: its minions get their records over the lab's network, and nothing of it needs etcd to stay there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from svcnet.cli.lab import OPENER, open_records
from svcnet.lab import process
from svcnet.lab.etcd import ETCD, RELAY, free_port
from svcnet.lab.lab import DAEMON, Lab
from svcnet.lab.spec import LabSpec
from svcnet.model.errors import ConfigError, StoreError
from svcnet.model.meta import Meta
from svcnet.model.service import Service, ServicePort
from svcnet.store.protocol import Store
from tests.harness.until import until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("etcd")]

NAME = "etl"
TOMCAT = Service(Meta("tomcat", "default"), ports=(ServicePort(8080),), selector=(("name", "tomcatCluster"),))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(NAME, os.environ | {"SVCNET_LAB_DIR": str(tmp_path / "labs")})
    yield lab
    lab.down(open_records)
    assert not list(Path("/run/netns").glob(f"svcnet-{NAME}-*"))
    assert not (tmp_path / "labs").exists()


def opened(lab: Lab) -> Store:
    """The lab's records, from outside of it."""
    found: Store = open_records(lab.topology.spec, lab.records)  # type: ignore[assignment] # every store of svcnet is one
    return found


def asks(lab: Lab, member: str, url: str) -> str:
    """What a member is answered, "" for nothing."""
    return lab.exec(member, ["curl", "-s", "--max-time", "30", url]).stdout.strip()


def test_minions_follow_etcd_and_go_on_without_it(lab: Lab) -> None:
    spec = LabSpec(name=NAME, minions=2, pods=1, etcd_port=free_port(), opener=OPENER, daemon=DAEMON)
    lab.up(spec, open_records)
    store = opened(lab)
    (tomcat,) = store.put(TOMCAT, create=True)
    assert isinstance(tomcat, Service)
    url = f"http://{tomcat.cluster_ips[0]}:8080/"
    names = {"m1p1", "m2p1"}
    for member in ("m1", "m2", "m1p1"):
        answers = {""}

        def all_answered(member: str = member, answers: set[str] = answers) -> bool:
            answers.add(asks(lab, member, url))
            return names <= answers

        until(all_answered)
    inside = lab.exec("m1p1", [sys.executable, "-m", "svcnet.cli.main", "get", "services", "-o", "name"])
    assert (inside.stdout, inside.stderr) == ("service/tomcat\n", "")

    lab_etcd = process.read(lab.files.process(ETCD))
    assert lab_etcd is not None
    process.end([lab_etcd], 0)
    with pytest.raises(StoreError):
        store.list()
    assert {asks(lab, "m1p1", url) for _ in range(20)} == names
    away = lab.exec("m1", [sys.executable, "-m", "svcnet.cli.main", "get", "services"])
    assert away.returncode == 3, away.stderr


def test_no_etcd_on_the_machine_is_told_before_anything_stays(lab: Lab) -> None:
    bare = Lab(NAME, lab.environ | {"PATH": str(lab.files.root / "nothing")})
    with pytest.raises(ConfigError, match="Debian: etcd-server"):
        bare.up(LabSpec(name=NAME, minions=1, pods=0, etcd_port=free_port()))


def test_another_store_beside_the_labs_own_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="expected one"):
        lab.up(LabSpec(name=NAME, etcd_port=1, records="dir:/x"))


def test_the_command_makes_a_lab_whose_relay_leads_to_it(lab: Lab) -> None:
    svcnet = [sys.executable, "-m", "svcnet.cli.main"]
    options = ["--name", NAME, "--minions", "1", "--pods", "0", "--no-proxy", "--store", "etcd"]
    done = subprocess.run(
        [*svcnet, "lab", "up", *options], env=lab.environ, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"export SVCNET_RECORDS={lab.records} SVCNET_SERVICE_CIDR=10.0.0.0/16\n"
    assert lab.records.startswith("etcd://127.0.0.1:")
    shown = subprocess.run(
        [*svcnet, "get", "minions", "-o", "name", "--records", lab.records],
        env=lab.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert shown.stdout == "minion/m1\n", shown.stderr
    assert lab.alive(ETCD)
    assert lab.alive(RELAY)
