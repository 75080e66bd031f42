"""Records of every form are read as their author meant them."""

from pathlib import Path

import pytest

from svcnet.codec.reader import read
from svcnet.codec.writer import to_json, to_v1, to_yaml
from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import EndpointPort, Endpoints, EndpointSlice, SliceEndpoint, Subset
from svcnet.model.meta import Meta
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec
from svcnet.model.record import Record
from svcnet.model.service import Ingress, Service, ServicePort

RECORDS = Path(__file__).parent.parent / "records"


def only(text: str | bytes) -> Record:
    found = read(text.encode() if isinstance(text, str) else text, "r")
    assert found.errors == ()
    assert found.warnings == ()
    assert len(found.records) == 1
    return found.records[0].record


def test_service_of_2014() -> None:
    assert only((RECORDS / "tomcat-service.json").read_bytes()) == Service(
        meta=Meta("tomcat", "default", labels=(("name", "tomcatCluster"),)),
        ports=(ServicePort(8080, target_port=8080),),
        selector=(("name", "tomcatCluster"),),
    )


def test_controller_of_2014_reads_in_spite_of_its_comma() -> None:
    found = read((RECORDS / "tomcat-pod.json").read_bytes(), "tomcat-pod.json")
    assert found.warnings == ("tomcat-pod.json:25: trailing comma, which JSON forbids: accepted",)
    assert [entry.record for entry in found.records] == [
        ReplicationController(
            meta=Meta("tomcatController", "default", labels=(("name", "tomcatCluster"),)),
            replicas=2,
            selector=(("name", "tomcatCluster"),),
            template_labels=(("name", "tomcatCluster"),),
            template_name="tomcat",
            template=PodSpec((Container("tomcat", "tutum/tomcat", ports=(ContainerPort(8080, host_port=80),)),)),
        )
    ]


def test_v1beta1_service_with_every_field() -> None:
    record = only("""
        {"kind": "Service", "apiVersion": "v1beta1", "id": "web", "namespace": "shop", "uid": "u1",
         "creationTimestamp": "2014-07-25T10:00:00Z", "labels": {"a": "b"}, "annotations": {"why": "because"},
         "port": 80, "containerPort": "http", "protocol": "UDP", "selector": {"app": "web"},
         "portalIP": "10.0.0.9", "publicIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP",
         "createExternalLoadBalancer": true, "selfLink": "ignored", "resourceVersion": 7}""")
    assert record == Service(
        meta=Meta("web", "shop", (("a", "b"),), (("why", "because"),), "u1", "2014-07-25T10:00:00Z"),
        ports=(ServicePort(80, protocol="UDP", target_port="http"),),
        selector=(("app", "web"),),
        type="LoadBalancer",
        cluster_ips=("10.0.0.9",),
        external_ips=("192.0.2.1",),
        session_affinity="ClientIP",
    )


def test_v1beta1_headless_service() -> None:
    record = only('{"kind": "Service", "apiVersion": "v1beta1", "id": "web", "port": 80, "portalIP": "None"}')
    assert isinstance(record, Service)
    assert record.headless


@pytest.mark.parametrize(
    ("status", "phase"), [("Running", "Running"), ("Waiting", "Pending"), ("Terminated", "Failed"), ("", "")]
)
def test_v1beta1_pod(status: str, phase: str) -> None:
    record = only(f"""
        {{"kind": "Pod", "apiVersion": "v1beta1", "id": "Tomcat-1", "labels": {{"name": "t"}},
         "desiredState": {{"manifest": {{"version": "v1beta1", "id": "t", "containers": [
            {{"name": "t", "image": "i", "command": ["run"], "env": [{{"name": "B", "value": "2"}}],
              "ports": [{{"name": "http", "containerPort": 8080, "hostPort": 80, "protocol": "TCP"}}]}}]}}}},
         "currentState": {{"status": "{status}", "podIP": "10.1.0.5", "host": "m1", "hostIP": "192.0.2.7"}}}}""")
    ports = (ContainerPort(8080, "http", host_port=80),)
    assert record == Pod(
        meta=Meta("Tomcat-1", "default", (("name", "t"),)),
        spec=PodSpec((Container("t", "i", ("run",), ports=ports, env=(("B", "2"),)),), node="m1"),
        phase=phase,
        ips=("10.1.0.5",),
        host_ip="192.0.2.7",
    )


def test_v1beta1_endpoints_are_grouped_by_port() -> None:
    record = only("""
        {"kind": "Endpoints", "apiVersion": "v1beta1", "id": "web",
         "endpoints": ["10.0.0.1:80", "10.0.0.2:81", "10.0.0.3:80", "[2001:DB8::1]:80"]}""")
    assert record == Endpoints(
        Meta("web", "default"),
        (
            Subset(tuple(SliceEndpoint((ip,)) for ip in ("10.0.0.1", "10.0.0.3", "2001:db8::1")), (EndpointPort(80),)),
            Subset((SliceEndpoint(("10.0.0.2",)),), (EndpointPort(81),)),
        ),
    )


def test_v1beta1_minion_is_a_node() -> None:
    record = only('{"kind": "Minion", "apiVersion": "v1beta1", "id": "m1.example.org", "hostIP": "192.0.2.7"}')
    assert record == Node(Meta("m1.example.org"), addresses=(("InternalIP", "192.0.2.7"),))


def test_v1_service_with_every_field() -> None:
    record = only("""
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {a: b}, annotations: {c: d}, uid: u, creationTimestamp: 2020-01-01}
spec:
  type: LoadBalancer
  clusterIP: 10.0.0.1
  clusterIPs: [10.0.0.1, "FD00:0::1"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080, appProtocol: http}
  - {name: dns, port: 53, targetPort: 5353, protocol: UDP}
  externalIPs: [192.0.2.1]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  healthCheckNodePort: 30081
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  publishNotReadyAddresses: true
  loadBalancerIP: 192.0.2.2
  loadBalancerClass: x/y
  loadBalancerSourceRanges: [" 10.1.2.3/8 ", "2001:db8::/32"]
  allocateLoadBalancerNodePorts: false
  trafficDistribution: PreferSameZone
status: {loadBalancer: {ingress: [{ip: 192.0.2.3, ipMode: Proxy}, {hostname: lb.example.org}]}}
""")
    assert record == Service(
        meta=Meta("web", "shop", (("a", "b"),), (("c", "d"),), "u", "2020-01-01"),
        ports=(
            ServicePort(80, "http", target_port="web", node_port=30080, app_protocol="http"),
            ServicePort(53, "dns", "UDP", 5353),
        ),
        selector=(("app", "web"),),
        type="LoadBalancer",
        cluster_ips=("10.0.0.1", "fd00::1"),
        ip_families=("IPv4", "IPv6"),
        ip_family_policy="RequireDualStack",
        external_ips=("192.0.2.1",),
        external_traffic_policy="Local",
        internal_traffic_policy="Local",
        health_check_node_port=30081,
        session_affinity="ClientIP",
        session_affinity_seconds=60,
        publish_not_ready_addresses=True,
        load_balancer_ip="192.0.2.2",
        load_balancer_class="x/y",
        load_balancer_source_ranges=("10.0.0.0/8", "2001:db8::/32"),
        allocate_load_balancer_node_ports=False,
        traffic_distribution="PreferSameZone",
        ingress=(Ingress("192.0.2.3", ip_mode="Proxy"), Ingress(hostname="lb.example.org")),
    )


def test_v1_service_says_little_and_means_the_defaults() -> None:
    record = only('{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}')
    assert record == Service(meta=Meta("a", "default"), ports=(ServicePort(80),))


def test_null_means_absent_as_in_kubernetes() -> None:
    record = only("""
apiVersion: v1
kind: Service
metadata: {name: a, creationTimestamp: null, labels: null}
spec: {ports: [{port: 80, targetPort: null, name: ~}], clusterIP: "", selector: {app: }, externalIPs: null}
status: null
""")
    assert record == Service(meta=Meta("a", "default"), ports=(ServicePort(80),), selector=(("app", ""),))


def test_v1_service_without_an_address_of_its_own() -> None:
    name = only("""
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {type: ExternalName, externalName: db.example.org}
""")
    headless = only("""
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: None, selector: {a: b}}
""")
    assert isinstance(name, Service)
    assert isinstance(headless, Service)
    assert name.external_name == "db.example.org"
    assert headless.headless
    assert not name.wants_address
    assert not headless.wants_address


def test_v1_pod() -> None:
    record = only("""
apiVersion: v1
kind: Pod
metadata: {name: p, deletionTimestamp: 2020-01-01T00:00:00Z}
spec:
  nodeName: m1
  hostname: p-0
  subdomain: web
  hostNetwork: true
  containers:
  - {name: c, image: i, args: [x], env: [{name: A, value: "1"}, {name: B, valueFrom: {fieldRef: {}}}],
     ports: [{containerPort: 80, hostIP: 127.0.0.1}]}
status:
  phase: Running
  podIP: 10.1.0.5
  podIPs: [{ip: 10.1.0.5}, {ip: "fd00::5"}]
  hostIP: 192.0.2.7
  conditions: [{type: Initialized, status: "True"}, {type: Ready, status: "False"}]
""")
    container = Container(
        "c", "i", args=("x",), ports=(ContainerPort(80, host_ip="127.0.0.1"),), env=(("A", "1"), ("B", ""))
    )
    assert record == Pod(
        meta=Meta("p", "default"),
        spec=PodSpec((container,), "m1", "p-0", "web", host_network=True),
        phase="Running",
        ips=("10.1.0.5", "fd00::5"),
        host_ip="192.0.2.7",
        ready=False,
        deletion="2020-01-01T00:00:00Z",
    )


def test_v1_controller_takes_its_selector_from_the_template() -> None:
    record = only("""
apiVersion: v1
kind: ReplicationController
metadata: {name: rc}
spec: {replicas: 3, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c}]}}}
""")
    assert isinstance(record, ReplicationController)
    assert (record.replicas, record.selector, record.template_labels) == (3, (("a", "b"),), (("a", "b"),))


def test_endpoint_slice() -> None:
    record = only("""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}, {port: null}]
endpoints:
- addresses: ["FD00::5"]
  conditions: {ready: false, serving: true, terminating: true}
  hostname: p-0
  nodeName: m1
  zone: z1
  targetRef: {kind: Pod, namespace: shop, name: p}
  hints: {forZones: [{name: z1}], forNodes: [{name: m1}]}
- addresses: ["fd00::6"]
""")
    assert record == EndpointSlice(
        Meta("web-x", "default", (("kubernetes.io/service-name", "web"),)),
        "IPv6",
        (
            SliceEndpoint(("fd00::5",), False, True, True, "p-0", "m1", "z1", "Pod/shop/p", ("z1",), ("m1",)),
            SliceEndpoint(("fd00::6",)),
        ),
        (EndpointPort(8080, "http"), EndpointPort()),
    )


def test_v1_endpoints() -> None:
    record = only("""
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses: [{ip: 10.1.0.5, nodeName: m1, targetRef: {kind: Pod, name: p}}]
  notReadyAddresses: [{ip: 10.1.0.6}]
  ports: [{port: 8080, name: http}]
""")
    endpoints = (SliceEndpoint(("10.1.0.5",), node="m1", target="Pod//p"), SliceEndpoint(("10.1.0.6",), ready=False))
    assert record == Endpoints(Meta("web", "default"), (Subset(endpoints, (EndpointPort(8080, "http"),)),))


def test_node_and_namespace_have_no_namespace() -> None:
    node = only("""
apiVersion: v1
kind: Node
metadata: {name: m1, namespace: ignored, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, "fd00:1::/64"], unschedulable: true}
status:
  addresses: [{type: InternalIP, address: 192.0.2.7}, {type: Hostname, address: m1}]
  conditions: [{type: Ready, status: Unknown}]
""")
    assert node == Node(
        Meta("m1", labels=(("topology.kubernetes.io/zone", "z1"),)),
        ("10.244.1.0/24", "fd00:1::/64"),
        (("InternalIP", "192.0.2.7"), ("Hostname", "m1")),
        ready=False,
        unschedulable=True,
    )
    assert only('{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}') == Namespace(Meta("shop"))


def test_what_is_written() -> None:
    record = only((RECORDS / "tomcat-service.json").read_bytes())
    assert to_v1(record) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "tomcat", "namespace": "default", "labels": {"name": "tomcatCluster"}},
        "spec": {
            "type": "ClusterIP",
            "ports": [{"protocol": "TCP", "port": 8080, "targetPort": 8080}],
            "selector": {"name": "tomcatCluster"},
        },
    }
    assert to_json(record).startswith(b'{\n  "apiVersion": "v1",\n  "kind": "Service",\n')
    assert to_json(record).endswith(b"}\n")
    assert to_yaml(record).startswith("apiVersion: v1\nkind: Service\nmetadata:\n  name: tomcat\n")
