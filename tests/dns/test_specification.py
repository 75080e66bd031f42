"""The Kubernetes DNS specification 1.1.0, from records as people write them to answers as dnspython reads them.

Every statement is a row of the table in docs/dns.md, whose tests exist.
"""

import json
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import pytest

from svcnet import feed
from svcnet.codec.reader import read
from svcnet.dns.responder import Responder
from svcnet.dns.zone import Zone
from svcnet.endpoints import Networks
from svcnet.model.event import Put
from svcnet.tracker import Tracker
from tests.dns.world import EVERYONE, SHAPE, Asked, lines
from tests.harness.files import Written, service

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "dns.md"
HOME = "svc.cluster.local."
PORTS = (("http", "TCP"), ("dns", "UDP"), ("sig", "SCTP"))


class Cluster(Asked):
    """A responder that was told what a minion works out of these records."""

    def __init__(self, *records: Written) -> None:
        super().__init__()
        self.responder = Responder(Zone(SHAPE), Networks(map(ip_network, EVERYONE)), recursion=False)
        self.tracker = Tracker(Networks(()), "m1")
        self.put(*records)

    def put(self, *records: Written) -> None:
        """Write records."""
        decoded = [read(json.dumps(record).encode(), "test") for record in records]
        assert not [error for d in decoded for error in d.errors]
        self.rev += 1
        self.tracker.fold([Put(r.record, self.rev) for d in decoded for r in d.records])
        for frame in feed.whole(self.tracker.snapshot):
            self.responder.take(frame)


def headless(name: str, **spec: Any) -> Written:
    return service(name, protocols=("TCP",), clusterIP="None", **spec)


def slice_of(name: str, *entries: dict[str, Any], family: int = 4, ports: Any = None, number: int = 0) -> Written:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{family}-{number}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": f"IPv{family}",
        "ports": [{"name": "tcp", "port": 5432, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": list(entries),
    }


def entry(address: str, ready: bool = True, hostname: str = "") -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": ready}} | ({"hostname": hostname} if hostname else {})


def pod(name: str, address: str, ready: bool, **spec: Any) -> Written:
    status = {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]}
    meta = {"name": name, "namespace": "default", "labels": {"app": "db"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [], **spec}, "status": status}


def test_2_3_a_virtual_ip_has_addresses_srv_of_named_ports_and_ptr_in_both_families() -> None:
    asked = Cluster(
        service("web", "10.0.0.6", "fd00:10::6", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack")
    )
    name = f"web.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.0.0.6"]
    assert asked.text(name, "AAAA") == [f"{name} 5 IN AAAA fd00:10::6"]
    for protocol in ("tcp", "udp"):
        assert asked.text(f"_{protocol}._{protocol}.{name}", "SRV") == [
            f"_{protocol}._{protocol}.{name} 5 IN SRV 0 100 80 {name}"
        ]
    assert asked.text(f"_tcp._udp.{name}", "SRV") == ["NXDOMAIN", "cluster.local."]
    assert asked.text("6.0.0.10.in-addr.arpa.", "PTR") == [f"6.0.0.10.in-addr.arpa. 5 IN PTR {name}"]
    six = "6.0.0.0." + "0.0.0.0." * 5 + "0.1.0.0.0.0.d.f.ip6.arpa."
    assert asked.text(six, "PTR") == [f"{six} 5 IN PTR {name}"]


def test_2_1_names_are_compared_without_regard_to_case() -> None:
    asked = Cluster(headless("db"), slice_of("db", entry("10.1.1.2", hostname="db-0")), service("web", "10.0.0.6"))
    for name in ("DB-0.dB.Default.SVC.Cluster.LOCAL.", "db-0.db.default.svc.cluster.local."):
        assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2"]
    name = "_TCP._Tcp.WEB.default.svc.cluster.LOCAL."
    assert asked.text(name, "SRV") == [f"{name} 5 IN SRV 0 100 80 web.default.{HOME}"]
    (pointer,) = asked.text("2.1.1.10.IN-ADDR.arpa.", "PTR")
    assert pointer.split()[-1] == f"db-0.db.default.{HOME}"


def test_2_2_the_version_of_the_schema_is_a_text() -> None:
    asked = Cluster(service("web", "10.0.0.6"))
    name = "dns-version.cluster.local."
    assert asked.text(name, "TXT") == [f'{name} 5 IN TXT "1.1.0"']


def test_2_3_2_a_port_without_a_name_has_no_srv_of_its_own() -> None:
    one = service("web", "10.0.0.6")
    one["spec"]["ports"] = [{"port": 80}]
    asked = Cluster(one)
    assert asked.text(f"_tcp.web.default.{HOME}", "SRV") == ["NXDOMAIN", "cluster.local."]
    assert asked.text(f"web.default.{HOME}", "SRV") == [f"web.default.{HOME} 5 IN SRV 0 100 80 web.default.{HOME}"]


def test_2_4_a_headless_service_has_the_ready_endpoints_by_host_name_or_address() -> None:
    asked = Cluster(
        headless("db", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack"),
        slice_of("db", entry("10.1.1.2", hostname="db-0"), entry("10.1.1.3"), entry("10.1.1.4", ready=False)),
        slice_of("db", entry("fd00:1::2", hostname="db-0"), family=6),
    )
    name = f"db.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2", f"{name} 5 IN A 10.1.1.3"]
    assert asked.text(name, "AAAA") == [f"{name} 5 IN AAAA fd00:1::2"]
    assert asked.text(f"db-0.{name}") == [f"db-0.{name} 5 IN A 10.1.1.2"]
    assert asked.text(f"db-0.{name}", "AAAA") == [f"db-0.{name} 5 IN AAAA fd00:1::2"]
    assert asked.text(f"10-1-1-4.{name}") == ["NXDOMAIN", "cluster.local."]
    srv = asked.ask(f"_tcp._tcp.{name}", "SRV", payload=1232)
    assert {line.split()[-1] for line in lines(srv.answer)} == {f"db-0.{name}", f"10-1-1-3.{name}"}
    assert {line.split()[-2] for line in lines(srv.answer)} == {"5432"}
    assert sorted(lines(srv.additional)) == [
        f"10-1-1-3.{name} 5 IN A 10.1.1.3",
        f"db-0.{name} 5 IN A 10.1.1.2",
        f"db-0.{name} 5 IN AAAA fd00:1::2",
    ]
    assert asked.text("2.1.1.10.in-addr.arpa.", "PTR") == [f"2.1.1.10.in-addr.arpa. 5 IN PTR db-0.{name}"]
    six = "2.0.0.0." + "0.0.0.0." * 5 + "1.0.0.0.0.0.d.f.ip6.arpa."
    assert asked.text(six, "PTR") == [f"{six} 5 IN PTR db-0.{name}"]
    assert asked.text("4.1.1.10.in-addr.arpa.", "PTR") == ["NXDOMAIN", "1.10.in-addr.arpa."]


def test_2_4_2_there_is_an_srv_of_each_endpoint_at_each_named_port() -> None:
    one = headless("db")
    one["spec"]["ports"] = [{"name": n, "port": 80 + i, "protocol": p} for i, (n, p) in enumerate(PORTS)]
    ports = [{"name": n, "port": 5000 + i, "protocol": p} for i, (n, p) in enumerate(PORTS)]
    asked = Cluster(one, slice_of("db", *(entry(f"10.1.1.{i}", hostname=f"db-{i}") for i in (2, 3, 4)), ports=ports))
    name = f"db.default.{HOME}"
    for number, (port, protocol) in enumerate(PORTS):
        owner = f"_{port}._{protocol.lower()}.{name}"
        assert asked.text(owner, "SRV") == [f"{owner} 5 IN SRV 0 1 {5000 + number} db-{i}.{name}" for i in (2, 3, 4)]
    assert asked.text(f"_http._udp.{name}", "SRV") == ["NXDOMAIN", "cluster.local."]


def test_2_4_2_a_port_without_a_name_has_no_srv_of_its_own() -> None:
    one = headless("db")
    one["spec"]["ports"] = [{"port": 80}]
    asked = Cluster(one, slice_of("db", entry("10.1.1.2"), ports=[{"port": 5432}]))
    name = f"db.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2"]
    for owner in (f"_tcp.{name}", f"_tcp._tcp.{name}"):
        assert asked.text(owner, "SRV") == ["NXDOMAIN", "cluster.local."]


def test_2_4_3_the_address_of_an_endpoint_outside_our_networks_leads_back_too() -> None:
    """As that of a pod in its host's network; its neighbours are none of ours."""
    asked = Cluster(headless("db"), slice_of("db", entry("192.0.2.7", hostname="db-0")))
    name = "7.2.0.192.in-addr.arpa."
    assert asked.text(name, "PTR") == [f"{name} 5 IN PTR db-0.db.default.{HOME}"]
    assert asked.text(name, "TXT") == ["NOERROR", name]
    assert asked.text("8.2.0.192.in-addr.arpa.", "PTR") == ["REFUSED"]
    assert asked.text(f"1.{name}", "PTR") == ["REFUSED"]
    asked.put(slice_of("db", entry("192.0.2.7", ready=False)))
    assert asked.text(name, "PTR") == ["REFUSED"]


def test_2_4_1_endpoints_that_share_a_host_name_share_its_answer() -> None:
    asked = Cluster(headless("db"), slice_of("db", entry("10.1.1.2", hostname="x"), entry("10.1.1.3", hostname="x")))
    name = f"x.db.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2", f"{name} 5 IN A 10.1.1.3"]


def test_2_4_1_endpoints_that_lack_a_port_have_addresses_and_no_srv() -> None:
    asked = Cluster(
        headless("db"),
        slice_of("db", entry("10.1.1.2")),
        slice_of("db", entry("10.1.1.3"), ports=[], number=1),
        slice_of("db", entry("10.1.1.4"), ports=[{"name": "other", "port": 9}], number=2),
    )
    name = f"db.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.{i}" for i in (2, 3, 4)]
    assert asked.text(f"10-1-1-3.{name}") == [f"10-1-1-3.{name} 5 IN A 10.1.1.3"]
    assert asked.text(f"_tcp._tcp.{name}", "SRV") == [f"_tcp._tcp.{name} 5 IN SRV 0 1 5432 10-1-1-2.{name}"]


@pytest.mark.parametrize(
    ("kind", "other", "addresses"),
    [("A", "AAAA", ("10.0.0.6", "10.1.1.2")), ("AAAA", "A", ("fd00:10::6", "fd00:1::2"))],
)
def test_2_4_1_a_service_of_one_family_has_nothing_of_the_other(
    kind: str, other: str, addresses: tuple[str, str]
) -> None:
    virtual_ip, endpoint = addresses
    family = 6 if kind == "AAAA" else 4
    asked = Cluster(
        headless("db", ipFamilies=[f"IPv{family}"]),
        slice_of("db", entry(endpoint, hostname="db-0"), family=family),
        service("web", virtual_ip),
    )
    for name, address in ((f"web.default.{HOME}", virtual_ip), (f"db.default.{HOME}", endpoint)):
        assert asked.text(name, kind) == [f"{name} 5 IN {kind} {address}"]
        assert asked.text(name, other) == ["NOERROR", "cluster.local."]
    name = f"db-0.db.default.{HOME}"
    assert asked.text(name, kind) == [f"{name} 5 IN {kind} {endpoint}"]
    assert asked.text(name, other) == ["NOERROR", "cluster.local."]
    srv = asked.ask(f"_tcp._tcp.db.default.{HOME}", "SRV", payload=1232)
    assert lines(srv.additional) == [f"{name} 5 IN {kind} {endpoint}"]
    reverse = f"{ip_address(endpoint).reverse_pointer}."
    assert asked.text(reverse, "PTR") == [f"{reverse} 5 IN PTR {name}"]


@pytest.mark.parametrize("kind", ["A", "AAAA", "SRV"])
def test_2_4_1_without_a_ready_endpoint_the_name_is_not_there(kind: str) -> None:
    asked = Cluster(headless("db"), slice_of("db", entry("10.1.1.2", ready=False)))
    assert asked.text(f"db.default.{HOME}", kind) == ["NXDOMAIN", "cluster.local."]
    assert asked.text(f"_tcp.db.default.{HOME}", kind) == ["NXDOMAIN", "cluster.local."]


def test_2_4_1_an_endpoint_that_ends_is_not_ready_though_it_serves() -> None:
    ending = {"addresses": ["10.1.1.3"], "conditions": {"ready": False, "serving": True, "terminating": True}}
    asked = Cluster(headless("db"), slice_of("db", entry("10.1.1.2"), ending))
    name = f"db.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2"]
    asked.put(slice_of("db", ending))
    for question in ((name, "A"), (name, "SRV"), (f"_tcp._tcp.{name}", "SRV"), (f"10-1-1-3.{name}", "A")):
        assert asked.ask(*question).answer == []
    assert asked.ask("3.1.1.10.in-addr.arpa.", "PTR").answer == []


@pytest.mark.parametrize(("publish", "expected"), [(False, ["10.1.1.2"]), (True, ["10.1.1.2", "10.1.1.3"])])
def test_2_4_pods_that_are_not_ready_are_published_when_the_service_says_so(publish: bool, expected: list[str]) -> None:
    asked = Cluster(
        headless("db", selector={"app": "db"}, publishNotReadyAddresses=publish),
        pod("db-0", "10.1.1.2", True, hostname="db-0", subdomain="db"),
        pod("db-1", "10.1.1.3", False),
    )
    name = f"db.default.{HOME}"
    assert [line.split()[-1] for line in asked.text(name)] == expected
    assert asked.text(f"db-0.{name}") == [f"db-0.{name} 5 IN A 10.1.1.2"]
    asked.put(pod("db-1", "10.1.1.3", True))
    assert [line.split()[-1] for line in asked.text(name)] == ["10.1.1.2", "10.1.1.3"]


@pytest.mark.parametrize("how", ["field", "annotation"])
def test_2_1_ready_are_all_endpoints_of_a_service_that_tolerates_unready_ones(how: str) -> None:
    one = headless("db", publishNotReadyAddresses=how == "field")
    if how == "annotation":
        one["metadata"]["annotations"] = {"service.alpha.kubernetes.io/tolerate-unready-endpoints": "true"}
    asked = Cluster(one, slice_of("db", entry("10.1.1.2"), entry("10.1.1.3", ready=False, hostname="x")))
    name = f"db.default.{HOME}"
    assert asked.text(name) == [f"{name} 5 IN A 10.1.1.2", f"{name} 5 IN A 10.1.1.3"]
    assert asked.text(f"x.{name}") == [f"x.{name} 5 IN A 10.1.1.3"]


@pytest.mark.parametrize(
    ("target", "rcode"), [("web.default.svc.cluster.local", "NOERROR"), ("no.default.svc.cluster.local", "NXDOMAIN")]
)
def test_2_5_an_external_name_is_an_alias_with_the_code_of_its_end(target: str, rcode: str) -> None:
    one = service("java", type="ExternalName", externalName=target)
    asked = Cluster(one, service("web", "10.0.0.6"))
    name = f"java.default.{HOME}"
    reply = asked.ask(name)
    assert lines(reply.answer)[0] == f"{name} 5 IN CNAME {target}."
    assert reply.rcode().name == rcode, "RFC 6604 §3"
    assert reply.flags & dns.flags.AA
    assert asked.text(name, "CNAME") == [f"{name} 5 IN CNAME {target}."]


def test_other_classes_and_operations_are_refused_whatever_the_name() -> None:
    asked = Cluster(service("web", "10.0.0.6"))
    query = dns.message.make_query(f"web.default.{HOME}", "A", rdclass="CH").to_wire()
    reply = asked.responder.respond(query, False)
    assert isinstance(reply, bytes)
    assert (dns.message.from_wire(reply).rcode().name, dns.message.from_wire(reply).answer) == ("REFUSED", [])
    for operation in ("IQUERY", "STATUS", "UPDATE"):
        message = dns.message.make_query(f"web.default.{HOME}", "A")
        packet = bytearray(message.to_wire())
        packet[2] |= {"IQUERY": 1, "STATUS": 2, "UPDATE": 5}[operation] << 3
        reply = asked.responder.respond(bytes(packet), False)
        assert isinstance(reply, bytes)
        assert reply[3] & 0xF == 4, "NOTIMP"


def rows() -> list[tuple[str, list[str]]]:
    """Each statement of the page with the tests that it names."""
    found = re.findall(r"^\| (.+?) \| (`tests/.+?`) \|$", PAGE.read_text(), re.MULTILINE)
    return [(statement, re.findall(r"`([^`]+)`", tests)) for statement, tests in found]


def test_every_statement_of_the_page_names_a_test_that_exists() -> None:
    assert len(rows()) >= 40
    missing = []
    for statement, tests in rows():
        for test in tests:
            file, _, name = test.partition("::")
            path = ROOT / file
            if not path.exists() or not re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE):
                missing.append(f"{statement}: {test}")
    assert not missing, "\n".join(missing)


def test_every_test_of_the_specification_is_on_the_page() -> None:
    here = set(re.findall(r"^def (test_\d\w*)\(", Path(__file__).read_text(), re.MULTILINE))
    assert here <= {test.partition("::")[2] for _, tests in rows() for test in tests}
