"""The lab's controllers on paper: who is missing, who is too many, where a pod goes, what its record says."""

import sys
from collections.abc import Callable

import msgspec
import pytest

from svcnet.lab import host_port, image
from svcnet.lab.controller import wait_seconds
from svcnet.lab.replica import SLOTS, Placed, Replica, fresh_name, is_made_by, record_of, with_placed
from svcnet.lab.schedule import Ground, Place, missing, place, surplus
from svcnet.lab.spec import LabSpec
from svcnet.lab.topology import plan
from svcnet.model.controller import ReplicationController
from svcnet.model.errors import ConfigError
from svcnet.model.meta import Key, Meta
from svcnet.model.pod import Container, ContainerPort, PodSpec

TOMCAT = Container("tomcat", "tutum/tomcat", ports=(ContainerPort(8080, host_port=80),))
THREE = {"m1": Ground(), "m2": Ground(), "m3": Ground()}


def controller(
    replicas: int = 2, name: str = "tomcatController", node: str = "", containers: tuple[Container, ...] = (TOMCAT,)
) -> ReplicationController:
    labels = (("name", "tomcatCluster"),)
    spec = PodSpec(containers=containers, node=node)
    return ReplicationController(Meta(name, "default"), replicas, labels, labels, template=spec)


def replica(name: str, minion: str = "", slot: int = 1, owner: ReplicationController | None = None) -> Replica:
    own = owner or controller()
    phase = "Running" if minion else "Pending"
    return Replica(name, own, "2014-11-22T00:00:00Z", minion, slot if minion else 0, phase, bool(minion))


def test_a_controller_lacks_as_many_as_it_has_not() -> None:
    one, other = controller(3), controller(1, "other")
    both = {c.key: c for c in (one, other)}
    assert missing(both, [replica("a", owner=one)]) == [other.key, one.key, one.key]
    assert missing(both, [replica(n, owner=one) for n in "abcd"]) == [other.key]
    assert missing({}, [replica("a")]) == []


def test_too_many_are_those_that_serve_least_then_the_newest() -> None:
    own = [replica("old", "m1"), replica("waits"), replica("new", "m2"), replica("newest", "m3")]
    key = controller().key
    assert [r.name for r in surplus({key: controller(2)}, own)] == ["waits", "newest"]
    starting = [msgspec.structs.replace(r, ready=r.name != "old") for r in own]
    assert [r.name for r in surplus({key: controller(2)}, starting)] == ["waits", "old"]
    assert surplus({key: controller(4)}, own) == []


def test_all_pods_of_a_deleted_controller_are_too_many() -> None:
    assert {r.name for r in surplus({}, [replica("a", "m1"), replica("b")])} == {"a", "b"}


def chosen(new: Replica, there: list[Replica], minions: dict[str, Ground] = THREE) -> Place:
    return place(new, there, minions, ())


def test_a_pod_goes_to_the_minion_with_the_fewest() -> None:
    free = controller(containers=(Container("c", "tutum/tomcat"),))
    assert chosen(replica("new", owner=free), []).minion == "m1"
    assert chosen(replica("new", owner=free), [replica("a", "m1"), replica("b", "m3")]).minion == "m2"
    assert chosen(replica("new", owner=free), [], {"m1": Ground(2), "m2": Ground(3)}) == Place("m1", 3)


def test_two_pods_of_one_host_port_are_on_two_minions_and_the_fourth_of_three_waits() -> None:
    there: list[Replica] = []
    for number in range(3):
        where = chosen(replica(str(number)), there)
        there.append(replica(str(number), where.minion, where.slot))
    assert [r.minion for r in there] == ["m1", "m2", "m3"]
    waits = chosen(replica("3"), there)
    assert (waits.minion, waits.reason) == ("", "Unschedulable")
    assert waits.message == "host port 80/TCP is taken on m1, m2, m3"


def test_another_protocol_or_port_is_no_clash() -> None:
    for port in (ContainerPort(53, protocol="UDP", host_port=80), ContainerPort(8080, host_port=81)):
        other = controller(containers=(Container("c", "tutum/tomcat", ports=(port,)),))
        assert chosen(replica("new", owner=other), [replica("a", "m1")], {"m1": Ground()}).minion == "m1"


@pytest.mark.parametrize(
    ("owner", "minions", "said"),
    [
        (controller(node="m9"), THREE, "there is no minion m9"),
        (controller(), {"m1": Ground(closed=True)}, "no room on m1: full, or taking no new pods"),
        (controller(), {"m1": Ground(SLOTS)}, "no room on m1: full, or taking no new pods"),
        (
            controller(containers=(Container("c", "nginx:1"),)),
            THREE,
            "no stand-in for image nginx:1: svcnet lab up --image nginx:1=COMMAND",
        ),
        (controller(containers=()), THREE, "the template has no containers"),
    ],
)
def test_what_is_in_the_way_is_said(owner: ReplicationController, minions: dict[str, Ground], said: str) -> None:
    where = chosen(replica("new", owner=owner), [], minions)
    assert (where.minion, where.message) == ("", said)
    assert where.reason


def test_a_template_may_name_its_minion() -> None:
    assert chosen(replica("new", owner=controller(node="m3")), []).minion == "m3"


def test_an_address_is_not_given_again_at_once() -> None:
    assert chosen(replica("new"), [], {"m1": Ground(2, 5)}).slot == 6
    assert chosen(replica("new"), [], {"m1": Ground(2, SLOTS)}).slot == 3
    free = controller(containers=(Container("c", "tutum/tomcat"),))
    there = [replica(str(slot), "m1", slot, free) for slot in range(1, SLOTS)]
    assert chosen(replica("new", owner=free), there, {"m1": Ground(0, 7)}).slot == SLOTS


def picker(letters: str) -> Callable[[str], str]:
    given = iter(letters)
    return lambda _: next(given)


@pytest.mark.parametrize(
    ("name", "stem"), [("tomcatController", "tomcatcontroller"), ("my_App.v1", "my-app-v1"), ("x" * 80, "x" * 57)]
)
def test_names_are_the_controller_s_in_lower_case_and_five_letters(name: str, stem: str) -> None:
    assert fresh_name(name, {f"{stem}-bbbbb"}.__contains__, picker("bbbbbcdfgh")) == f"{stem}-cdfgh"


def test_the_record_of_a_pod_is_a_kubelet_s() -> None:
    topology = plan(LabSpec(name="x", pods=1))
    waiting = record_of(msgspec.structs.replace(replica("p"), reason="Unschedulable", message="full"), topology)
    assert (waiting.phase, waiting.ips, waiting.is_ready, waiting.reason) == ("Pending", (), False, "Unschedulable")
    running = record_of(replica("p", "m2", 2), topology)
    assert running.key == Key("Pod", "default", "p")
    assert running.is_ready
    assert running.ips == ("10.1.2.3", "fd00:1:0:2::3")
    assert (running.spec.node, running.host_ip) == ("m2", "172.20.0.2")
    assert running.meta.labels == (("name", "tomcatCluster"),)
    assert is_made_by(running, "x")
    assert not is_made_by(running, "y")


def test_pods_of_controllers_are_members_of_the_lab() -> None:
    topology = with_placed(plan(LabSpec(name="x", minions=1, pods=1)), (Placed("p", "default", "m1", 2),))
    assert topology.namespaces == {
        "switch": "svcnet-x-switch",
        "m1": "svcnet-x-m1",
        "m1p1": "svcnet-x-m1p1",
        "p": "svcnet-x-m1p2",
    }
    assert with_placed(topology, (Placed("waits", "default", "", 0),)) == topology


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tutum/tomcat", (sys.executable, "-m", "svcnet.lab.stand_in", "8080")),
        ("tutum/tomcat:8.0", (sys.executable, "-m", "svcnet.lab.stand_in", "8080")),
        ("tutum/tomcat@sha256:0", (sys.executable, "-m", "svcnet.lab.stand_in", "8080")),
        ("nginx", ("python3", "-m", "http.server", "a b")),
        ("nginx:2", ("two",)),
        ("host:5000/nginx", None),
        ("", None),
    ],
)
def test_what_runs_for_an_image(name: str, command: tuple[str, ...] | None) -> None:
    added = (("nginx", "python3 -m http.server 'a b'"), ("nginx:2", "two"))
    assert image.command_of(name, added) == command


@pytest.mark.parametrize(("name", "command"), [("", "x"), ("x", ""), ("x", "'open")])
def test_an_image_without_a_command_is_refused(name: str, command: str) -> None:
    with pytest.raises(ConfigError, match="--image"):
        image.checked(name, command)


def test_host_ports_lead_from_the_minion_s_addresses_to_running_pods() -> None:
    topology = plan(LabSpec(pods=0))
    found = host_port.forwards(topology, "m1", [replica("a", "m1"), replica("b", "m2"), replica("c")])
    assert found == [
        ("tcp", "172.20.0.1", 80, "10.1.1.2", 8080),
        ("tcp", "fd00:20::1", 80, "fd00:1:0:1::2", 8080),
    ]
    text = host_port.table(found)
    assert text.count("ip daddr 172.20.0.1 tcp dport 80 dnat to 10.1.1.2:8080") == 2
    assert text.count("ip6 daddr fd00:20::1 tcp dport 80 dnat to [fd00:1:0:1::2]:8080") == 2


def test_without_host_ports_the_table_goes() -> None:
    assert host_port.table([]).splitlines() == [
        "table ip svcnet-lab",
        "delete table ip svcnet-lab",
        "table ip6 svcnet-lab",
        "delete table ip6 svcnet-lab",
    ]


def test_pods_that_fail_again_and_again_are_started_less_and_less_often() -> None:
    assert [wait_seconds(n) for n in (0, 1, 2, 3, 4, 7, 90)] == [0, 0, 1, 2, 4, 30, 30]
