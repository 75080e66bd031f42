"""Names in a lab: what the walk-through's pods and minions see of tomcat.svc."""

import json
from pathlib import Path

import pytest

from svcnet.cli.lab import OPENER, open_records
from svcnet.lab.lab import DAEMON, Lab
from svcnet.lab.spec import LabSpec
from tests.harness.until import until

pytestmark = pytest.mark.kernel

SERVICE = {
    "kind": "Service",
    "apiVersion": "v1",
    "metadata": {"name": "tomcat", "namespace": "default"},
    "spec": {"clusterIP": "10.0.0.5", "selector": {"name": "tomcatCluster"}, "ports": [{"name": "http", "port": 8080}]},
}


@pytest.mark.parametrize("topology", ["routed", "bridge"])
def test_pods_and_minions_find_services_by_name(tmp_path: Path, topology: str) -> None:
    machine = Path("/etc/resolv.conf").read_text()
    given = {"SVCNET_LAB_DIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    spec = LabSpec(name="named", minions=2, pods=1, topology=topology, daemon=DAEMON, opener=OPENER)  # type: ignore[arg-type]  # one of the two
    with Lab("named", given).up(spec, open_records) as lab:
        (lab.files.records / "tomcat.json").write_text(json.dumps(SERVICE))

        def said(member: str, *command: str) -> str:
            return lab.exec(member, command).stdout.strip()

        for member in ("m1p1", "m2p1", "m1"):
            until(lambda m=member: said(m, "dig", "+short", "+tries=1", "tomcat.svc") == "10.0.0.5")  # type: ignore[misc]  # the loop's value, held
        assert said("m1p1", "dig", "@10.1.1.1", "+short", "+tcp", "SRV", "_http._tcp.tomcat.default.svc.cluster.local")
        for name in ("tomcat.svc", "tomcat", "tomcat.default"):
            answered = said("m1p1", "curl", "-sS", "--max-time", "30", f"http://{name}:8080/")
            assert answered in {"m1p1", "m2p1"}
        assert said("m2p1", "dig", "+short", "-x", "10.0.0.5") == "tomcat.default.svc.cluster.local."
        asked = lab.exec("m2p1", ["dig", "nothing.svc"])
        assert "status: NXDOMAIN" in asked.stdout
        assert lab.exec("m1p1", ["sh", "-c", "exit 7"]).returncode == 7
    assert Path("/etc/resolv.conf").read_text() == machine
