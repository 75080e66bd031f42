"""What is written reads back as the same record, in JSON and YAML, for every kind."""

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svcnet.codec.reader import read
from svcnet.codec.writer import to_json, to_v1, to_yaml
from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import EndpointPort, Endpoints, EndpointSlice, SliceEndpoint, Subset
from svcnet.model.meta import Meta, pairs
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec
from svcnet.model.record import KINDS, Record
from svcnet.model.service import Ingress, Service, ServicePort

LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
SUBDOMAINS = st.from_regex(r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,5}[a-zA-Z0-9])?(\.[a-zA-Z0-9]{1,4}){0,2}", fullmatch=True)
PORT_NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,4})?", fullmatch=True)
# Words that a careless YAML writer would leave bare are drawn often.
WORDS = st.sampled_from(
    [
        "",
        "yes",
        "no",
        "on",
        "null",
        "~",
        "1e5",
        "0x1f",
        "017",
        "1_0",
        "1:30",
        ".5",
        "2014-07-25",
        "<<",
        "=",
        "- a",
        "a: b",
    ]
)
CHARACTERS = st.characters(codec="utf-8")
TEXTS = WORDS | st.text(CHARACTERS, max_size=12)
PORTS = st.integers(1, 65535)
NO_OR_PORT = st.just(0) | PORTS
PROTOCOLS = st.sampled_from(["TCP", "UDP", "SCTP"])
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str).filter(lambda text: not text.startswith("::ffff:"))
ADDRESSES = V4 | V6
CIDRS = st.tuples(ADDRESSES, st.integers(0, 32)).map(
    lambda t: str(ipaddress.ip_network(f"{t[0]}/{t[1]}", strict=False))
)
MAPS = st.dictionaries(TEXTS, TEXTS, max_size=3).map(pairs)
FLAGS = st.none() | st.booleans()


def tuples(of: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=most).map(tuple)


def metas(names: st.SearchStrategy[str], namespaces: st.SearchStrategy[str] = LABELS) -> st.SearchStrategy[Meta]:
    return st.builds(Meta, names, namespaces, MAPS, MAPS, TEXTS, TEXTS)


CLUSTER_WIDE = st.just("")
CONTAINER_PORTS = st.builds(
    ContainerPort, PORTS, st.just("") | PORT_NAMES, PROTOCOLS, NO_OR_PORT, st.just("") | ADDRESSES
)
VARIABLES = st.dictionaries(
    st.text(CHARACTERS, min_size=1, max_size=5).filter(lambda s: not set(s) & {"=", "\0"}), TEXTS, max_size=2
)
CONTAINERS = st.builds(
    Container, LABELS, TEXTS, tuples(TEXTS), tuples(TEXTS), tuples(CONTAINER_PORTS), VARIABLES.map(pairs)
)
POD_SPECS = st.builds(PodSpec, tuples(CONTAINERS, 2), TEXTS, st.just("") | LABELS, st.just("") | LABELS, st.booleans())
PHASES = st.sampled_from(["", "Pending", "Running", "Succeeded", "Failed", "Unknown"])
PODS = st.builds(Pod, metas(SUBDOMAINS), POD_SPECS, PHASES, tuples(ADDRESSES, 2), st.just("") | ADDRESSES, FLAGS, TEXTS)
SERVICE_PORTS = st.lists(
    st.builds(ServicePort, PORTS, LABELS, PROTOCOLS, NO_OR_PORT | PORT_NAMES, NO_OR_PORT, TEXTS),
    min_size=1,
    max_size=3,
    unique_by=(lambda port: port.name, lambda port: (port.protocol, port.port)),
).map(tuple)
CLUSTER_IPS = st.sampled_from([(), ("None",)]) | st.tuples(ADDRESSES) | st.tuples(V4, V6) | st.tuples(V6, V4)
POLICIES = st.sampled_from(["Cluster", "Local"])


@st.composite
def services(draw: st.DrawFn) -> Service:
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]))
    addresses = () if kind == "ExternalName" else draw(CLUSTER_IPS)
    families = tuple("IPv6" if ":" in ip else "IPv4" for ip in addresses if ip != "None")
    return Service(
        meta=draw(metas(LABELS)),
        ports=draw(SERVICE_PORTS),
        selector=draw(MAPS),
        type=kind,
        cluster_ips=addresses,
        ip_families=draw(st.sampled_from([families, ()])),
        ip_family_policy=draw(st.sampled_from(["", "SingleStack", "PreferDualStack", "RequireDualStack"])),
        external_ips=draw(tuples(ADDRESSES)),
        external_name=draw(LABELS),
        external_traffic_policy=draw(POLICIES),
        internal_traffic_policy=draw(POLICIES),
        health_check_node_port=draw(NO_OR_PORT),
        session_affinity=draw(st.sampled_from(["None", "ClientIP"])),
        session_affinity_seconds=draw(st.integers(0, 86400)),
        publish_not_ready_addresses=draw(st.booleans()),
        load_balancer_ip=draw(st.just("") | ADDRESSES),
        load_balancer_class=draw(TEXTS),
        load_balancer_source_ranges=draw(tuples(CIDRS)),
        allocate_load_balancer_node_ports=draw(st.booleans()),
        traffic_distribution=draw(st.sampled_from(["", "PreferClose", "PreferSameZone", "PreferSameNode"])),
        ingress=draw(tuples(st.builds(Ingress, st.just("") | ADDRESSES, TEXTS, st.sampled_from(["VIP", "Proxy"])), 2)),
    )


@st.composite
def controllers(draw: st.DrawFn) -> ReplicationController:
    labels = draw(MAPS)
    return ReplicationController(
        meta=draw(metas(SUBDOMAINS)),
        replicas=draw(st.integers(0, 10**6)),
        # An empty selector means the template's labels: the reader fills them in.
        selector=draw(MAPS) or labels,
        template_labels=labels,
        template_annotations=draw(MAPS),
        template_name=draw(TEXTS),
        template=draw(POD_SPECS),
    )


ENDPOINT_PORTS = st.builds(EndpointPort, st.none() | PORTS, st.just("") | LABELS, PROTOCOLS, TEXTS)
TARGETS = st.just("") | st.tuples(TEXTS.filter(lambda t: "/" not in t), LABELS, TEXTS).map("/".join)


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    kind, address = draw(st.sampled_from([("IPv4", V4), ("IPv6", V6), ("FQDN", SUBDOMAINS)]))
    names = tuples(TEXTS.filter(bool), 2)
    endpoint = st.builds(
        SliceEndpoint, tuples(address), FLAGS, FLAGS, FLAGS, st.just("") | LABELS, TEXTS, TEXTS, TARGETS, names, names
    )
    return EndpointSlice(draw(metas(SUBDOMAINS)), kind, draw(tuples(endpoint)), draw(tuples(ENDPOINT_PORTS)))


def subset_endpoints(ready: bool | None) -> st.SearchStrategy[tuple[SliceEndpoint, ...]]:
    return tuples(
        st.builds(
            SliceEndpoint,
            st.tuples(ADDRESSES),
            ready=st.just(ready),
            hostname=st.just("") | LABELS,
            node=TEXTS,
            target=TARGETS,
        )
    )


SUBSETS = st.builds(
    lambda ready, rest, ports: Subset(ready + rest, ports),
    subset_endpoints(None),
    subset_endpoints(False),
    tuples(ENDPOINT_PORTS),
)
NODE_ADDRESSES = st.tuples(st.sampled_from(["InternalIP", "ExternalIP"]), ADDRESSES) | st.tuples(
    st.just("Hostname"), SUBDOMAINS
)
BY_KIND: dict[type[Record], st.SearchStrategy[Any]] = {
    Service: services(),
    Pod: PODS,
    ReplicationController: controllers(),
    Endpoints: st.builds(Endpoints, metas(SUBDOMAINS), tuples(SUBSETS, 2)),
    EndpointSlice: slices(),
    Node: st.builds(
        Node, metas(SUBDOMAINS, CLUSTER_WIDE), tuples(CIDRS, 2), tuples(NODE_ADDRESSES), FLAGS, st.booleans()
    ),
    Namespace: st.builds(Namespace, metas(LABELS, CLUSTER_WIDE)),
}


def test_every_kind_has_a_strategy() -> None:
    assert set(BY_KIND) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_json_reads_back_as_the_same_record(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(BY_KIND[kind])
    found = read(to_json(record), "r.json")
    assert found.errors == ()
    assert [entry.record for entry in found.records] == [record]
    assert to_v1(record) == json.loads(to_json(record))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_yaml_reads_back_as_the_same_record(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(BY_KIND[kind])
    found = read(to_yaml(record).encode(), "r.yaml")
    assert found.errors == ()
    assert [entry.record for entry in found.records] == [record]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(list(BY_KIND.values())), max_size=4))
def test_many_documents_read_back_in_order(records: list[Record]) -> None:
    found = read("---\n".join(to_yaml(record) for record in records).encode() or b"# none\n", "r.yaml")
    assert [entry.record for entry in found.records] == records
