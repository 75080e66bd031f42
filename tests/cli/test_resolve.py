"""`svcnet resolve`: names as people type them, from the records and from a server."""

import json
from typing import TYPE_CHECKING, Any

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from svcnet.dns.settings import Settings
from tests.dns.serving import HOST, Upstream, bound, worker
from tests.dns.world import virtual
from tests.harness.until import until

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "tomcat", "namespace": "default"},
    "spec": {"clusterIP": "10.0.0.5", "ports": [{"name": "http", "port": 8080}]},
}


@pytest.fixture
def tomcat(cli: "Cli") -> "Cli":
    other = SERVICE | {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": SERVICE["spec"] | {"clusterIP": "10.0.0.6"},
    }
    for number, record in enumerate((SERVICE, other)):
        (cli.records / f"{number}.json").write_text(json.dumps(record))
    return cli


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tomcat"], "tomcat.default.svc. 5 IN A 10.0.0.5"),
        (["tomcat.default"], "tomcat.default.svc. 5 IN A 10.0.0.5"),
        (["tomcat.svc"], "tomcat.svc. 5 IN A 10.0.0.5"),
        (["tomcat.default.svc.cluster.local."], "tomcat.default.svc.cluster.local. 5 IN A 10.0.0.5"),
        (["web", "-n", "shop"], "web.shop.svc. 5 IN A 10.0.0.6"),
        (["tomcat", "-t", "srv"], "tomcat.default.svc. 5 IN SRV 0 100 8080 tomcat.default.svc.cluster.local."),
        (["10.0.0.5"], "5.0.0.10.in-addr.arpa. 5 IN PTR tomcat.default.svc.cluster.local."),
    ],
)
def test_a_name_is_looked_up_in_the_records(tomcat: "Cli", arguments: list[str], expected: str) -> None:
    assert tomcat.ok("resolve", *arguments).splitlines() == [expected]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "svcnet: nothing: not found"),
        (["web"], "svcnet: web: not found"),
        (["tomcat", "-t", "AAAA"], "svcnet: tomcat: no AAAA record"),
        (
            ["example.org"],
            "svcnet: example.org: not in our zones (svc, cluster.local): ask a server with --at-server ADDR[:PORT]",
        ),
        (
            ["example.org."],
            "svcnet: example.org.: not in our zones (svc, cluster.local): ask a server with --at-server ADDR[:PORT]",
        ),
        (["10.0.0.77"], "svcnet: 10.0.0.77: not found"),
        (
            ["192.0.2.7"],
            "svcnet: 192.0.2.7: not in our zones (10.0.0.0/16): ask a server with --at-server ADDR[:PORT]",
        ),
    ],
)
def test_what_is_not_there_ends_with_1(tomcat: "Cli", arguments: list[str], said: str) -> None:
    done = tomcat("resolve", *arguments)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", said)


def test_a_headless_service_without_ports_leads_to_its_endpoints(cli: "Cli") -> None:
    service = SERVICE | {"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "selector": {"app": "db"}}}
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"db-{number}", "labels": {"app": "db"}},
            "spec": {"hostname": f"db-{number}", "subdomain": "db", "containers": []},
            "status": {"phase": "Running", "podIP": f"10.1.1.{number + 2}"},
        }
        for number in range(2)
    ]
    (cli.records / "db.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, *pods]}))
    found = cli.ok("resolve", "db").splitlines()
    assert sorted(found) == [f"db.default.svc. 5 IN A 10.1.1.{last}" for last in (2, 3)]
    assert cli.ok("resolve", "db-1.db") == "db-1.db.default.svc. 5 IN A 10.1.1.3\n"
    assert cli.ok("resolve", "10-1-1-3.default.pod.cluster.local").endswith(" 5 IN A 10.1.1.3\n")
    assert "no SRV record" in cli("resolve", "db", "-t", "srv").stderr
    assert cli.ok("get", "endpoints", "db").split()[-3:-1] == ["db", "10.1.1.2,10.1.1.3"]
    assert "any port → 10.1.1.2 (db-0)" in cli.ok("describe", "service", "db")
    written = json.loads(cli.ok("get", "endpoints", "db", "-o", "json"))
    assert "ports" not in written["subsets"][0]


def test_a_namespace_with_nothing_in_it_exists(cli: "Cli") -> None:
    (cli.records / "shop.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}')
    assert "shop.svc: no A or AAAA record" in cli("resolve", "shop.svc").stderr
    assert "stop.svc: not found" in cli("resolve", "stop.svc").stderr


@pytest.mark.parametrize("arguments", [["a" * 70], ["tomcat", "-t", "A6"], ["tomcat", "--at-server", "localhost"]])
def test_bad_input_ends_with_2(tomcat: "Cli", arguments: list[str]) -> None:
    assert tomcat("resolve", *arguments).returncode == 2


def test_a_server_is_asked_instead(cli: "Cli") -> None:
    with worker(Settings(), [virtual("tomcat", "10.0.0.9")]) as served:
        until(lambda: served.udp("tomcat.svc.").answer)
        server = ("--at-server", f"{HOST}:{served.port}")
        assert cli.ok("resolve", "tomcat", *server) == "tomcat.default.svc. 5 IN A 10.0.0.9\n"
        assert cli("resolve", "nothing", *server).returncode == 1
        refused = cli("resolve", "example.org.", *server)
        assert (refused.returncode, refused.stderr) == (1, "svcnet: example.org.: REFUSED\n")


def test_a_name_outside_is_found_at_a_server_that_asks_others(cli: "Cli") -> None:
    def answers(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        reply = dns.message.make_response(query)
        name = query.question[0].name
        if query.question[0].rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.80"))
        return reply

    with Upstream(answers) as upstream, worker(Settings(upstreams=(upstream.address,)), []) as served:
        until(lambda: served.udp("svc.", "SOA").answer)
        found = cli.ok("resolve", "example.org", "--at-server", f"{HOST}:{served.port}")
        assert found == "example.org. 60 IN A 192.0.2.80\n"


def test_a_server_that_is_not_there_is_named(cli: "Cli") -> None:
    datagram, stream = bound()
    address = f"{HOST}:{stream.getsockname()[1]}"
    datagram.close()
    stream.close()
    done = cli("resolve", "tomcat", "--at-server", address)
    assert (done.returncode, done.stderr) == (1, f"svcnet: {address}: Connection refused\n")
