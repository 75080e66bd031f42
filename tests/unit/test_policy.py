"""What a service's fields make of its traffic on this minion: policies, claimed addresses, topology, node ports."""

from ipaddress import ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from svcnet.endpoints import Networks
from svcnet.iptables.desired import Minion, Pick, desired
from svcnet.iptables.ruleset import Class
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.event import Delete, Put
from svcnet.model.frontend import Frontend
from svcnet.model.meta import Key, Meta, pairs
from svcnet.model.node import Node
from svcnet.model.pod import Pod, PodSpec
from svcnet.model.record import Record
from svcnet.model.service import Ingress, Service, ServicePort
from svcnet.model.snapshot import PortKey, ServedPort
from svcnet.node_address import node_addresses
from svcnet.tracker import Tracker

HERE, AWAY = SliceEndpoint(("10.1.1.2",), node="m1"), SliceEndpoint(("10.1.2.2",), node="m2")
MINION = Minion("m1", ("192.0.2.1", "fd00:99::1"))
PORTS = (ServicePort(80, node_port=30080),)


def tracker(*records: Record) -> Tracker:
    made = Tracker(Networks(()), "m1", Networks([ip_network("198.51.100.0/24")]))
    made.fold([Put(record, 1) for record in records])
    return made


def service(name: str = "web", ip: str = "10.0.0.5", **fields: Any) -> Service:
    return Service(Meta(name, "default"), PORTS, cluster_ips=(ip,), **fields)


def slices(*endpoints: SliceEndpoint, name: str = "web") -> EndpointSlice:
    meta = Meta(f"{name}-1", "default", pairs({"kubernetes.io/service-name": name}))
    return EndpointSlice(meta, endpoints=endpoints, ports=(EndpointPort(8080),))


def served(t: Tracker, name: str = "web") -> ServedPort:
    return t.snapshot.ports[PortKey("default", name, "TCP", 80, 4)]


def kinds(t: Tracker, name: str = "web") -> dict[str, Class]:
    return {f"{f.address}:{f.port}": row.kind for f, row in desired(served(t, name), MINION).items()}


def test_every_address_of_a_service_is_a_row() -> None:
    t = tracker(
        service(type="LoadBalancer", external_ips=("198.51.100.1",), ingress=(Ingress("198.51.100.2"),)),
        slices(HERE, AWAY),
    )
    outside = ("192.0.2.1:30080", "198.51.100.2:80", "198.51.100.1:80")
    assert kinds(t) == dict.fromkeys(outside, Class.EXTERNAL) | {"10.0.0.5:80": Class.CLUSTER}


def test_addresses_that_the_operator_does_not_allow_are_left_out_with_the_reason() -> None:
    t = tracker(
        service(type="LoadBalancer", external_ips=("203.0.113.1",), ingress=(Ingress("203.0.113.2"),)), slices(HERE)
    )
    assert set(kinds(t)) == {"192.0.2.1:30080", "10.0.0.5:80"}
    assert sorted((item.what, item.reason) for item in t.left_out()) == [
        ("external IP 203.0.113.1 of Service default/web", "not in --external-ips"),
        ("load-balancer address 203.0.113.2 of Service default/web", "not in --external-ips"),
    ]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "ff02::1"],
)
def test_no_service_gets_the_machines_special_addresses_even_if_all_are_allowed(address: str) -> None:
    t = Tracker(Networks(()), "m1", Networks([ip_network("0.0.0.0/0"), ip_network("::/0")]))
    fields: dict[str, Any] = {"type": "LoadBalancer", "external_ips": (address,), "ingress": (Ingress(address),)}
    ip = "fd00:10::5" if ":" in address else "10.0.0.5"
    t.fold([Put(replace(service(ip=ip, **fields), ip_families=("IPv6" if ":" in address else "IPv4",)), 1)])
    (port,) = t.snapshot.ports.values()
    assert port.policy.external_ips == port.policy.load_balancer_ips == ()
    told = [item for item in t.left_out() if address in item.what]
    assert len(told) == 2
    assert all("whatever --external-ips allows" in item.reason for item in told)


@pytest.mark.parametrize(
    ("endpoints", "inside", "outside"),
    [
        ((HERE, AWAY), Class.INTERNAL_LOCAL, Class.EXTERNAL_LOCAL),
        ((AWAY,), Class.DROP, Class.EXTERNAL_LOCAL),
        ((), Class.REFUSE, Class.REFUSE),
    ],
)
def test_local_policies_drop_what_another_minion_serves_and_refuse_what_nobody_does(
    endpoints: tuple[SliceEndpoint, ...], inside: Class, outside: Class
) -> None:
    policy: dict[str, Any] = {
        "type": "NodePort",
        "internal_traffic_policy": "Local",
        "external_traffic_policy": "Local",
    }
    t = tracker(service(**policy), slices(*endpoints))
    assert kinds(t) == {"10.0.0.5:80": inside, "192.0.2.1:30080": outside}


def test_all_rows_of_a_service_port_share_their_targets() -> None:
    t = tracker(service(type="NodePort", external_traffic_policy="Local"), slices(HERE, AWAY))
    rows = list(desired(served(t), MINION).values())
    assert len({(row.targets, row.local) for row in rows}) == 1
    assert [x.address for x in rows[0].targets] == ["10.1.1.2", "10.1.2.2"]
    assert [x.address for x in rows[0].local] == ["10.1.1.2"]


def test_affinity_comes_before_source_hash() -> None:
    hashed = annotated(service(), "svcnet.dev/balance", "source-hash")
    assert {row.pick for row in desired(served(tracker(hashed, slices(HERE))), MINION).values()} == {Pick("hash")}
    both = annotated(
        service(session_affinity="ClientIP", session_affinity_seconds=60), "svcnet.dev/balance", "source-hash"
    )
    rows = desired(served(tracker(both, slices(HERE))), MINION)
    assert {row.pick for row in rows.values()} == {Pick("affinity", 60)}


def annotated(record: Service, key: str, value: str) -> Service:

    return replace(record, meta=Meta(record.meta.name, "default", annotations=((key, value),)))


def test_source_ranges_hold_for_load_balancer_addresses_alone() -> None:
    t = tracker(
        service(
            type="LoadBalancer",
            ingress=(Ingress("198.51.100.2"), Ingress("198.51.100.3", ip_mode="Proxy")),
            load_balancer_source_ranges=(" 203.0.113.0/24 ", "2001:db8::/32"),
        ),
        slices(HERE),
    )
    ranges = {f.address: row.ranges for f, row in desired(served(t), MINION).items()}
    assert ranges == {"192.0.2.1": (), "10.0.0.5": (), "198.51.100.2": ("203.0.113.0/24",)}


def test_a_minion_within_the_source_ranges_may_come_by_the_balancers_own_address() -> None:
    t = tracker(
        service(
            type="LoadBalancer",
            ingress=(Ingress("198.51.100.2"),),
            load_balancer_source_ranges=("192.0.2.0/24",),
        ),
        slices(HERE),
    )
    row = desired(served(t), MINION)[Frontend(4, "198.51.100.2", "tcp", 80)]
    assert row.ranges == ("192.0.2.0/24", "198.51.100.2/32")


@pytest.mark.parametrize(
    ("label", "value"),
    [("service-proxy-name", "other"), ("service-proxy-name", ""), ("headless", ""), ("headless", "x")],
)
def test_a_service_of_another_proxy_has_no_rows_and_keeps_its_endpoints_for_names(label: str, value: str) -> None:
    labels = pairs({f"service.kubernetes.io/{label}": value})
    t = tracker(Service(Meta("web", "default", labels), PORTS, cluster_ips=("10.0.0.5",)), slices(HERE))
    assert kinds(t) == {}
    assert [e.address for e in served(t).endpoints] == ["10.1.1.2"]


def test_a_label_that_comes_takes_the_rows_away_and_one_that_goes_brings_them_back() -> None:
    t = tracker(service(), slices(HERE))
    labels = pairs({"service.kubernetes.io/service-proxy-name": "other"})
    t.fold([Put(Service(Meta("web", "default", labels), PORTS, cluster_ips=("10.0.0.5",)), 2)])
    assert kinds(t) == {}
    t.fold([Put(service(), 3)])
    assert set(kinds(t)) == {"10.0.0.5:80", "192.0.2.1:30080"}


def test_ranges_of_the_other_family_alone_are_no_limit() -> None:
    balanced = service(
        type="LoadBalancer", ingress=(Ingress("198.51.100.2"),), load_balancer_source_ranges=("::1/128",)
    )
    rows = desired(served(tracker(balanced, slices(HERE))), MINION)
    assert {row.ranges for row in rows.values()} == {()}


def test_an_address_or_node_port_that_two_services_claim_stays_with_the_first_until_it_goes() -> None:
    claim: dict[str, Any] = {"type": "NodePort", "external_ips": ("198.51.100.1",)}
    t = tracker(service(**claim), slices(HERE))
    t.fold([Put(service("late", "10.0.0.6", **claim), 2), Put(slices(AWAY, name="late"), 2)])
    assert set(kinds(t, "late")) == {"10.0.0.6:80"}
    assert sorted(item.reason for item in t.left_out()) == [
        "198.51.100.1 is held by default/web tcp/80",
        "node port 30080 is held by default/web tcp/80",
    ]
    t.fold([Delete(Key("Service", "default", "web"), 2)])
    assert set(kinds(t, "late")) == {"10.0.0.6:80", "198.51.100.1:80", "192.0.2.1:30080"}


def test_a_zone_that_this_minion_gets_moves_hinted_services_and_those_that_prefer_it() -> None:
    hinted = SliceEndpoint(("10.1.2.2",), node="m2", for_zones=("z1",)), SliceEndpoint(("10.1.1.2",), for_zones=("z2",))
    t = tracker(
        service(),
        slices(*hinted),
        service("near", "10.0.0.6", selector=pairs({"app": "near"}), traffic_distribution="PreferSameZone"),
        *(
            Pod(Meta(f"p{i}", "default", pairs({"app": "near"})), PodSpec(node=f"m{i}"), "Running", (f"10.1.{i}.9",))
            for i in (1, 2)
        ),
    )
    assert [len(served(t, name).endpoints) for name in ("web", "near")] == [2, 2]
    t.fold([Put(Node(Meta("m1", labels=pairs({"topology.kubernetes.io/zone": "z1"}))), 2)])
    assert [[e.address for e in served(t, name).endpoints] for name in ("web", "near")] == [["10.1.2.2"], ["10.1.1.9"]]
    t.fold([Delete(Key("Node", "", "m1"), 3)])
    assert [len(served(t, name).endpoints) for name in ("web", "near")] == [2, 2]


NODE = Node(Meta("m1"), addresses=(("Hostname", "m1"), ("InternalIP", "192.0.2.9"), ("InternalIP", "192.0.2.10")))


@pytest.mark.parametrize(
    ("wanted", "node", "expected"),
    [
        (None, None, ("192.0.2.1", "fd00:99::1")),
        (None, NODE, ("192.0.2.9", "fd00:99::1")),
        (["192.0.2.0/24", "127.0.0.0/8"], NODE, ("192.0.2.1", "192.0.2.2")),
        (["::/0"], None, ("fd00:99::1",)),
        ([], None, ()),
    ],
)
def test_node_ports_answer_on_the_primary_addresses_or_on_those_in_the_networks(
    wanted: list[str] | None, node: Node | None, expected: tuple[str, ...]
) -> None:
    networks = None if wanted is None else [ip_network(text) for text in wanted]
    machine = ("127.0.0.1", "192.0.2.2", "192.0.2.1", "::1", "fd00:99::1")
    assert node_addresses(networks, machine, node, ("192.0.2.1", "fd00:99::1")) == expected
