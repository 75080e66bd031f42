"""ReplicationControllers in a real lab, as a user of `svcnet create` sees them."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from svcnet.cli.lab import open_records
from svcnet.lab import process
from svcnet.lab.lab import DAEMON, KEEPER, Lab
from svcnet.lab.spec import LabSpec
from svcnet.lab.status import status
from svcnet.model.controller import ReplicationController
from svcnet.model.meta import Key, Meta
from svcnet.model.node import Node
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec
from svcnet.model.service import Service, ServicePort
from svcnet.store.protocol import Store
from tests.cli.conftest import PROGRAM
from tests.harness.until import until

pytestmark = pytest.mark.kernel

NAME = "tlc"
KEY = Key("ReplicationController", "default", "tomcatController")
LABELS = (("name", "tomcatCluster"),)
PLAIN = Container("tomcat", "tutum/tomcat", ports=(ContainerPort(8080),))
ON_80 = Container("tomcat", "tutum/tomcat", ports=(ContainerPort(8080, host_port=80),))


class World:
    """One lab and its records."""

    def __init__(self, lab: Lab, store: Store) -> None:
        self.lab, self.store = lab, store

    def want(self, replicas: int, container: Container = PLAIN, **spec: Any) -> None:
        template = PodSpec(containers=(container,), **spec)
        meta = Meta(KEY.name, KEY.namespace)
        self.store.put(ReplicationController(meta, replicas, LABELS, LABELS, template=template))

    def pods(self) -> list[Pod]:
        return [r for r in self.store.list().records if isinstance(r, Pod) and r.meta.name.startswith("tomcat")]

    def ready(self, number: int) -> list[Pod]:
        """Wait until so many are there, and all of them serve."""

        def look() -> list[Pod] | None:
            found = self.pods()
            return found if len(found) == number and all(pod.is_ready for pod in found) else None

        return until(look, self.log) or []

    def log(self) -> str:
        return self.lab.files.log(KEEPER).read_text()

    def get(self, member: str, url: str) -> str:
        done = self.lab.exec(member, ["curl", "-sS", "--max-time", "30", url])
        return (done.stdout or done.stderr).strip()

    def processes(self) -> list[str]:
        """Command lines of what runs in the lab's pods."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
                if b"POD_NAME=tomcat" in environ and str(self.lab.files.root).encode() in environ:
                    found.append((entry / "cmdline").read_bytes().decode())
        return found

    def namespaces(self) -> list[str]:
        return sorted(p.name.rpartition("-")[2] for p in Path("/run/netns").glob(f"svcnet-{NAME}-m*p*"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(NAME, os.environ | {"SVCNET_LAB_DIR": str(tmp_path / "labs")})
    yield lab
    lab.down(open_records)
    assert not list(Path("/run/netns").glob(f"svcnet-{NAME}-*"))
    assert not (tmp_path / "labs").exists()


def up(lab: Lab, **given: Any) -> World:
    wanted: dict[str, Any] = {"minions": 3, "pods": 0, "opener": "svcnet.cli.lab:open_records"} | given
    spec = LabSpec(name=NAME, **wanted)
    lab.up(spec, open_records)
    return World(lab, open_records(spec, lab.records))  # type: ignore[arg-type]  # every store of svcnet is a Store


@pytest.mark.parametrize("topology", ["routed", "bridge"])
def test_an_empty_lab_gets_pods_that_answer_with_their_names(lab: Lab, topology: str) -> None:
    world = up(lab, topology=topology)
    world.want(3)
    pods = world.ready(3)
    assert sorted(pod.spec.node for pod in pods) == ["m1", "m2", "m3"]
    assert {pod.meta.labels for pod in pods} == {LABELS}
    for pod in pods:
        assert pod.meta.name.startswith("tomcatcontroller-")
        assert world.get("switch", f"http://{pod.ips[0]}:8080/") == pod.meta.name
        assert world.get("m2", f"http://[{pod.ips[1]}]:8080/") == pod.meta.name
        assert world.get(pod.meta.name, "http://127.0.0.1:8080/") == pod.meta.name
    now = status(lab)
    assert now.complete
    assert {m.name: m.state for m in now.members if m.kind == "pod"} == {p.meta.name: "running" for p in pods}


def test_a_pod_that_is_killed_is_replaced(lab: Lab) -> None:
    world = up(lab)
    world.want(2)
    killed = world.ready(2)[0]
    lab.kill(killed.meta.name)
    until(lambda: killed.key not in {pod.key for pod in world.pods()}, world.log)
    assert killed.ips[0] not in {pod.ips[0] for pod in world.ready(2)}
    until(lambda: len(world.namespaces()) == 2, world.log)


def test_a_pod_whose_record_is_deleted_ends_and_is_replaced(lab: Lab) -> None:
    world = up(lab)
    world.want(2)
    gone = world.ready(2)[0]
    world.store.delete(gone.key)
    until(lambda: gone.meta.name not in {pod.meta.name for pod in world.ready(2)}, world.log)
    until(lambda: len(world.processes()) == 2, world.log)


def test_replicas_go_up_and_down_and_away_with_the_controller(lab: Lab) -> None:
    world = up(lab)
    world.want(1)
    first = world.ready(1)[0]
    world.want(5)
    assert first.key in {pod.key for pod in world.ready(5)}
    world.want(2)
    world.ready(2)
    world.want(0)
    until(lambda: not world.pods(), world.log)
    world.want(1)
    world.ready(1)
    world.store.delete(KEY)
    until(lambda: not world.pods() and not world.namespaces() and not world.processes(), world.log)
    until(lambda: [p.name for p in lab.files.processes.iterdir()] == [KEEPER], world.log)


def test_the_pods_of_up_stay_as_they_are(lab: Lab) -> None:
    world = up(lab, minions=2, pods=1)
    world.want(2)
    world.ready(2)
    world.want(0)
    until(lambda: not world.pods(), world.log)
    assert [lab.alive(name) for name in ("m1p1", "m2p1")] == [True, True]
    listed = [r.key.name for r in world.store.list().records if isinstance(r, Pod)]
    assert listed == ["m1p1", "m2p1"]


@pytest.mark.parametrize("topology", ["routed", "bridge"])
def test_a_host_port_leads_to_the_pod_of_its_minion(lab: Lab, topology: str) -> None:
    world = up(lab, topology=topology)
    world.want(2, ON_80)
    pods = world.ready(2)
    assert len({pod.spec.node for pod in pods}) == 2
    for pod in pods:
        assert world.get("switch", f"http://{pod.host_ip}/") == pod.meta.name
        assert world.get(pod.spec.node, f"http://{pod.host_ip}/") == pod.meta.name, "the minion itself"
        assert world.get("switch", f"http://[fd00:20::{pod.spec.node[1:]}]/") == pod.meta.name
        assert "172.20." in world.get("switch", f"http://{pod.host_ip}/client"), "the client's own address"
    if topology == "routed":  # a bridge needs br_netfilter for this
        assert world.get(pods[0].meta.name, f"http://{pods[0].host_ip}/") == pods[0].meta.name, "the pod itself"
    world.want(0)
    until(lambda: not world.namespaces(), world.log)
    assert "connect" in world.get("switch", f"http://{pods[0].host_ip}/")
    until(lambda: lab.exec(pods[0].spec.node, ["nft", "list", "tables"]).stdout == "", world.log)


def test_more_than_fit_wait_with_a_reason_and_come_when_there_is_room(lab: Lab) -> None:
    world = up(lab, minions=2)
    world.want(3, ON_80)

    def waiting() -> list[Pod]:
        pods = world.pods()
        idle = [pod for pod in pods if pod.phase == "Pending" and pod.reason]
        return idle if len(pods) - len(idle) == 2 and all(p.is_ready for p in pods if p not in idle) else []

    (pod,) = until(waiting, world.log)
    assert (pod.reason, pod.message) == ("Unschedulable", "host port 80/TCP is taken on m1, m2")
    assert (pod.ips, pod.spec.node) == ((), "")
    lab.kill(next(p.meta.name for p in world.pods() if p.is_ready))
    until(lambda: next((p for p in world.pods() if p.key == pod.key), pod).is_ready, world.log)


def test_an_unknown_image_waits_and_names_the_option(lab: Lab) -> None:
    world = up(lab, minions=1)
    world.want(1, Container("web", "nginx"))
    (pod,) = until(lambda: [p for p in world.pods() if p.reason], world.log)
    assert (pod.reason, pod.message) == (
        "UnknownImage",
        "no stand-in for image nginx: svcnet lab up --image nginx=COMMAND",
    )
    world.want(0, Container("web", "nginx"))
    until(lambda: not world.pods(), world.log)


def test_a_command_of_the_user_stands_in_with_all_it_starts(lab: Lab) -> None:
    serve = "sleep 1000 & cd /etc; exec python3 -m http.server --bind :: $PORT"
    world = up(lab, minions=1, images=(("web", f"sh -c '{serve}'"),))
    world.want(1, Container("web", "web:1", ports=(ContainerPort(8081),), env=(("PORT", "8081"),)))
    (pod,) = world.ready(1)
    assert "<" in world.get("m1", f"http://{pod.ips[0]}:8081/")
    assert len(world.processes()) == 2
    world.want(0)
    until(lambda: not world.processes() and not world.namespaces(), world.log)


def test_a_command_that_ends_at_once_is_tried_less_and_less_often(lab: Lab) -> None:
    world = up(lab, minions=1, images=(("bad", "sh -c 'echo broken; exit 3'"),))
    world.want(1, Container("web", "bad", ports=(ContainerPort(8080),)))
    until(lambda: world.log().count("pod started") >= 3, world.log)
    names = [line.split("name=")[1].split()[0] for line in world.log().splitlines() if line.startswith("pod started")]
    assert lab.files.log(names[0]).read_text() == "broken\n"
    world.store.delete(KEY)
    until(lambda: not world.namespaces(), world.log)


def test_what_stands_in_for_an_image_finds_the_services_by_variable_and_by_name(lab: Lab) -> None:
    said = 'echo "by variable $TOMCAT_SERVICE_HOST"; until getent hosts tomcat.svc; do sleep 0.05; done; exec sleep 99'
    app = f"{PROGRAM} exec tomcat -- sh -c '{said}'"
    world = up(lab, minions=1, daemon=DAEMON, images=(("app", app),))
    world.store.put(Service(Meta("tomcat", "default"), (ServicePort(8080),), LABELS))
    world.want(1, Container("client", "app"))
    log = lab.files.log(world.ready(1)[0].meta.name)
    address = next(r for r in world.store.list().records if isinstance(r, Service)).cluster_ips[0]
    words = until(lambda: log.read_text().split()[:4] if "tomcat.svc" in log.read_text() else None, log.read_text)
    assert words == ["by", "variable", address, address]


def test_a_minion_that_takes_no_pods_gets_none(lab: Lab) -> None:
    world = up(lab, minions=2)
    world.store.put(Node(Meta("m1"), unschedulable=True))
    world.want(2)
    assert {pod.spec.node for pod in world.ready(2)} == {"m2"}


def test_pods_end_with_a_keeper_that_is_killed_and_down_leaves_nothing(lab: Lab) -> None:
    world = up(lab)
    world.want(2, ON_80)
    world.ready(2)
    keeper = process.read(lab.files.process(KEEPER))
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    until(lambda: not world.processes())
    assert lab.down(open_records)
    assert not list(Path("/run/netns").glob(f"svcnet-{NAME}-*"))


def test_down_leaves_nothing_while_pods_are_being_made(lab: Lab) -> None:
    for seen in range(0, 12, 3):
        world = up(lab, minions=2)
        world.want(30)
        until(lambda seen=seen, world=world: len(world.namespaces()) >= seen)  # type: ignore[misc]  # bound now
        lab.down(open_records)
        assert not list(Path("/run/netns").glob(f"svcnet-{NAME}-*"))
        # A pod that was just starting looks whose child it is, and ends.
        until(lambda world=world: not world.processes())  # type: ignore[misc]  # bound now


def test_records_elsewhere_lose_the_pods_with_the_lab_and_keep_the_controller(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    world = up(lab, records=f"dir:{tmp_path}/records")
    world.want(2)
    world.ready(2)
    lab.down(open_records)
    assert [str(r.key) for r in world.store.list().records] == ["ReplicationController default/tomcatController"]
    again = up(lab, records=f"dir:{tmp_path}/records")
    assert len(again.ready(2)) == 2, "who comes up finds the controller there"


def test_records_of_pods_that_nobody_runs_are_removed(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    stale = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tomcat-stale", "annotations": {"lab.svcnet.dev/made-by": f"{NAME}/tomcatController"}},
        "status": {"phase": "Running", "podIP": "10.1.1.9"},
    }
    (tmp_path / "records" / "stale.json").write_text(json.dumps(stale))
    world = up(lab, minions=1, records=f"dir:{tmp_path}/records")
    until(lambda: not world.pods(), world.log)
