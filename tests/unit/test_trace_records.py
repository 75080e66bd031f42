"""What `svcnet trace` says of records: whose address it is, which endpoints are out and why, what may be asked."""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest

from svcnet.endpoints import Networks
from svcnet.iptables.desired import Minion
from svcnet.iptables.tracer import Packet
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.event import Put
from svcnet.model.meta import Key, Meta
from svcnet.model.node import Node
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.trace.addressee import Kind, addressee
from svcnet.trace.question import Machine, QuestionError, question
from svcnet.trace.standing import Setting, standing
from svcnet.tracker import Tracker

CIDR = ip_network("10.0.0.0/16")
OUTSIDE, MINION = "203.0.113.9", "192.168.50.1"


def service(name: str = "web", **fields: Any) -> Service:
    values: dict[str, Any] = {
        "cluster_ips": ("10.0.0.5", "fd00:10::5"),
        "ports": (ServicePort(80, "http", target_port=8080),),
    }
    return Service(Meta(name, "default"), **(values | fields))


def slice_of(*endpoints: SliceEndpoint, port_name: str = "http", name: str = "web-1") -> EndpointSlice:
    family = "IPv6" if ":" in endpoints[0].addresses[0] else "IPv4"
    labels = (("kubernetes.io/service-name", "web"),)
    return EndpointSlice(Meta(name, "default", labels), family, endpoints, (EndpointPort(8080, port_name),))


def end(address: str, *, ready: bool = True, **more: Any) -> SliceEndpoint:
    return SliceEndpoint((address,), ready=ready, **more)


@dataclass
class Records:
    """Some records as minion m1 in zone z1 sees them."""

    records: dict[Key, Record]
    tracker: Tracker

    def whys(self, local: bool = False) -> dict[str, str]:
        (port,) = [p for p in self.tracker.snapshot.ports.values() if p.key.family == 4]
        found = standing(port, self.records, Setting("m1", DENY), local=local)
        return {c.address: c.why if not c.used else f"used {c.why}".strip() for c in found}


DENY = Networks([ip_network("127.0.0.0/8")])


def records(*given_records: Record) -> Records:
    zone = (("topology.kubernetes.io/zone", "z1"),)
    everything = (Node(Meta("m1", labels=zone)), *given_records)
    tracker = Tracker(DENY, "m1", Networks([ip_network("198.51.100.0/24")]))
    tracker.fold(Put(record, 1) for record in everything)
    return Records({record.key: record for record in everything}, tracker)


def test_every_endpoint_that_is_out_has_a_reason() -> None:
    found = records(
        service(),
        slice_of(
            end("10.1.0.1"),
            end("10.1.0.2", ready=False),
            end("10.1.0.3", ready=False, serving=True, terminating=True),
            end("127.0.0.9"),
            end("10.1.0.4"),
        ),
        slice_of(end("fd00::7"), name="web-6"),
        slice_of(end("10.1.0.5"), port_name="admin", name="web-2"),
    )
    weights = (("svcnet.dev/weights", "10.1.0.4=0"),)
    key = Key("EndpointSlice", "default", "web-1")
    old = found.records[key]
    assert isinstance(old, EndpointSlice)
    new = EndpointSlice(Meta("web-1", "default", old.meta.labels, weights), "IPv4", old.endpoints, old.ports)
    found.records[key] = new
    found.tracker.fold([Put(new, 2)])
    assert found.whys() == {
        "10.1.0.1": "used",
        "10.1.0.2": "not ready",
        "10.1.0.3": "terminating, serves still: used once none is ready",
        "10.1.0.4": "weight 0: no new connections (drain)",
        "127.0.0.9": "address in 127.0.0.0/8, which is never served (--endpoint-deny)",
        "fd00::7": "an IPv6 address",
        "10.1.0.5": "EndpointSlice default/web-2 has no port 'http' (TCP)",
    }


def test_topology_and_policy_are_reasons() -> None:
    hinted = records(service(), slice_of(end("10.1.0.1", for_zones=("z2",)), end("10.1.0.2", for_zones=("z1",))))
    assert hinted.whys() == {"10.1.0.1": "hints: meant for zone z2, not for m1 in zone z1", "10.1.0.2": "used"}
    near = slice_of(end("10.1.0.1", zone="z2", node="m2"), end("10.1.0.2", zone="z1", node="m1"))
    close = records(service(traffic_distribution="PreferClose"), near)
    assert close.whys()["10.1.0.1"] == "PreferClose: on m2 in zone z2, and there are some nearer to m1 in zone z1"
    local = records(service(internal_traffic_policy="Local"), near)
    assert local.whys(local=True) == {
        "10.1.0.1": "policy Local: it is on m2, not on m1",
        "10.1.0.2": "used",
    }


def test_pods_that_the_selector_matches_and_that_are_no_endpoint_are_there_too() -> None:
    labels = (("app", "web"),)
    ports = (Container("c", ports=(ContainerPort(8080, "http"),)),)
    found = records(
        service(selector=labels, ports=(ServicePort(80, target_port="http"),)),
        Pod(Meta("good", "default", labels), PodSpec(ports, "m1"), "Running", ("10.1.0.1",), ready=True),
        Pod(Meta("new", "default", labels), PodSpec(ports), "Pending"),
        Pod(Meta("other", "default", labels), PodSpec(), "Running", ("10.1.0.2",), ready=True),
        Pod(Meta("six", "default", labels), PodSpec(ports), "Running", ("fd00::1",), ready=True),
    )
    assert found.whys() == {
        "10.1.0.1": "used",
        "": "no address yet, Pending",
        "10.1.0.2": "no container port named http (TCP)",
        "fd00::1": "no IPv4 address",
    }


@pytest.mark.parametrize(
    ("destination", "port", "kind", "remark"),
    [
        ("10.0.0.5", 80, Kind.VIRTUAL_IP, ""),
        ("10.0.0.5", 81, Kind.UNDEFINED_PORT, "default/web defines 80/tcp"),
        ("198.51.100.7", 80, Kind.EXTERNAL_IP, ""),
        ("198.51.100.7", 81, Kind.OUTSIDE_PORT, "default/web defines 80/tcp"),
        ("10.0.9.9", 80, Kind.UNALLOCATED, ""),
        ("192.168.50.1", 30080, Kind.NODE_PORT, ""),
        ("192.168.50.2", 30080, Kind.NOT_OURS, "answers on 192.168.50.1 (--nodeport-addresses)"),
        ("192.168.50.1", 22, Kind.NOT_OURS, ""),
    ],
)
def test_whose_address_it_is(destination: str, port: int, kind: Kind, remark: str) -> None:
    ports = (ServicePort(80, "http", node_port=30080),)
    found = records(service(type="NodePort", external_ips=("198.51.100.7",), ports=ports))
    packet = Packet(OUTSIDE, destination, "tcp", port)
    whose = addressee(packet, found.tracker.snapshot, Minion("m1", (MINION,)), [CIDR])
    assert whose.kind is kind
    assert remark in whose.remark


MACHINE = Machine(frozenset({MINION}), lambda address: "fd00:50::1" if ":" in address else MINION, (MINION,))
WORLD = records(
    service(), service("names", cluster_ips=("None",)), Pod(Meta("web-1", "default"), ips=("10.1.0.1", "fd00::1"))
).records


@pytest.mark.parametrize(
    ("source", "destination", "packet"),
    [
        ("10.1.0.9", "web:80", Packet("10.1.0.9", "10.0.0.5", "tcp", 80)),
        ("10.1.0.9", "default/web:http", Packet("10.1.0.9", "10.0.0.5", "tcp", 80)),
        ("fd00::9", "web:80/udp", Packet("fd00::9", "fd00:10::5", "udp", 80)),
        ("web-1", "10.0.0.9:1/sctp", Packet("10.1.0.1", "10.0.0.9", "sctp", 1)),
        ("default/web-1", "[fd00:10::0:5]:80", Packet("fd00::1", "fd00:10::5", "tcp", 80)),
        ("minion", "web:80", Packet(MINION, "10.0.0.5", "tcp", 80, outgoing=True)),
        (MINION, "web:80", Packet(MINION, "10.0.0.5", "tcp", 80, outgoing=True)),
        ("10.1.0.9", "-:30080", Packet("10.1.0.9", MINION, "tcp", 30080)),
    ],
)
def test_a_question_is_one_packet(source: str, destination: str, packet: Packet) -> None:
    assert question(source, destination, "default", WORLD, MACHINE).packet == packet


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        ("10.1.0.9", "web", "expected ADDRESS:PORT"),
        ("10.1.0.9", "fd00::1:80", r"\[ADDRESS6\]:PORT"),
        ("10.1.0.9", "web:80/icmp", "expected one of tcp, udp, sctp"),
        ("10.1.0.9", "web:admin", r"expected one of 80/tcp \(http\)"),
        ("10.1.0.9", "web:70000", r"expected 1\.\.65535"),
        ("10.1.0.9", "shop/web:80", "no service shop/web"),
        ("10.1.0.9", "names:80", "is headless, expected an endpoint's address"),
        ("web-2", "web:80", "no pod default/web-2, expected an address, a pod's name, or `minion`"),
        ("10.1.0.9", "[fd00::5]:80", "10.1.0.9 has no IPv6 address"),
    ],
)
def test_what_can_not_be_asked_is_told_with_what_can(source: str, destination: str, expected: str) -> None:
    with pytest.raises(QuestionError, match=expected) as caught:
        question(source, destination, "default", WORLD, MACHINE)
    assert caught.value.exit_code == 2
