"""`svcnet get` and `describe`: what a person reads, and what a program reads back."""

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from svcnet.codec.reader import read

if TYPE_CHECKING:
    from tests.cli.conftest import Cli


def rows(output: str) -> list[list[str]]:
    """The cells of a table: columns are three blanks apart, or more."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in output.splitlines()]


NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "m1"},
    "spec": {"podCIDR": "10.1.0.0/24"},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
}


@pytest.fixture
def shop(cli: "Cli") -> "Cli":
    """Service web with two ready pods and one that is not; services without pods, headless, by name; a slice."""
    cli.create(
        cli.service("web", clusterIP="10.0.0.5"),
        cli.service("db", 5432, clusterIP="10.0.0.6", type="NodePort"),
        cli.service("other", namespace="prod", clusterIP="10.0.0.7"),
        cli.service("name", type="ExternalName", externalName="example.org"),
        cli.service("sliced", clusterIP="None"),
        cli.pod("web-1", "web", "10.1.0.5"),
        cli.pod("web-2", "web", "10.1.0.6"),
        cli.pod("web-3", "web", "10.1.0.7", ready=False),
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "sliced-1", "labels": {"kubernetes.io/service-name": "sliced"}},
            "addressType": "IPv4",
            "ports": [{"port": 9}],
            "endpoints": [{"addresses": [f"10.2.0.{n}"]} for n in range(1, 6)],
        },
        NODE,
        {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 3,
                "selector": {"app": "web"},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "nginx"}]},
                },
            },
        },
    )
    return cli


def without_age(output: str) -> list[list[str]]:
    return [row[:-1] for row in rows(output)]


def test_services_show_address_ports_and_ready_endpoints(shop: "Cli") -> None:
    table = without_age(shop.ok("get", "services"))
    assert table[0] == ["NAME", "VIRTUAL IP", "PORT(S)", "ENDPOINTS", "SELECTOR"]
    assert ["web", "10.0.0.5", "8080/TCP", "2/3", "app=web"] in table
    assert ["name", "-", "8080/TCP", "-", "app=name"] in table
    assert ["sliced", "None", "8080/TCP", "5/5", "app=sliced"] in table
    db = next(row for row in table if row[0] == "db")
    assert db[2].startswith("5432:3")
    assert db[3] == "0/0"


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        (
            "pods",
            [
                ["NAME", "IP", "MINION", "STATUS", "LABELS"],
                ["web-1", "10.1.0.5", "m1", "Running", "app=web"],
                ["web-2", "10.1.0.6", "m1", "Running", "app=web"],
                ["web-3", "10.1.0.7", "m1", "NotReady", "app=web"],
            ],
        ),
        (
            "eps",
            [
                ["NAME", "SERVICE", "TYPE", "PORT(S)", "READY", "ENDPOINTS"],
                ["sliced-1", "sliced", "IPv4", "9/TCP", "5/5", "10.2.0.1,10.2.0.2,10.2.0.3 + 2 more"],
            ],
        ),
        (
            "nodes",
            [
                ["NAME", "ADDRESS", "POD CIDR", "STATUS", "LABELS"],
                ["m1", "192.168.0.1", "10.1.0.0/24", "Unknown", "-"],
            ],
        ),
        ("rc", [["NAME", "PODS", "SELECTOR", "IMAGE(S)"], ["web", "2/3", "app=web", "nginx"]]),
        (
            "ns",
            [["NAME", "SERVICES", "PODS", "LABELS"], ["default", "4", "3", "-"], ["prod", "1", "0", "-"]],
        ),
    ],
)
def test_tables_of_the_other_kinds(shop: "Cli", kind: str, table: list[list[str]]) -> None:
    assert without_age(shop.ok("get", kind)) == table


def test_endpoints_are_those_that_a_minion_works_out(shop: "Cli") -> None:
    table = without_age(shop.ok("get", "endpoints"))
    assert ["web", "10.1.0.5:8080,10.1.0.6:8080"] in table
    assert ["db", "<none>"] in table
    assert "name" not in [row[0] for row in table]
    subset = shop.json("get", "ep", "web")["subsets"]
    assert [entry["ip"] for entry in subset[0]["addresses"]] == ["10.1.0.5", "10.1.0.6"]
    assert subset[0]["ports"] == [{"port": 8080, "protocol": "TCP"}]


def test_an_endpoints_record_beats_the_selector(shop: "Cli") -> None:
    meta = {"name": "web", "labels": {"by": "hand"}}
    subsets = [{"addresses": [{"ip": "10.9.0.1"}], "ports": [{"port": 1}]}]
    shop.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets})
    assert ["web", "10.9.0.1:1"] in without_age(shop.ok("get", "ep"))
    assert shop.json("get", "ep", "web")["metadata"]["labels"] == {"by": "hand"}
    assert ["web", "10.0.0.5", "8080/TCP", "1/1", "app=web"] in without_age(shop.ok("get", "svc"))


def test_wide_shows_more_and_all_endpoints(shop: "Cli") -> None:
    assert rows(shop.ok("get", "svc", "-o", "wide"))[0][:4] == ["NAME", "TYPE", "VIRTUAL IP", "EXTERNAL"]
    assert "10.2.0.5" in shop.ok("get", "eps", "-o", "wide")


def test_all_namespaces_come_with_a_column(shop: "Cli") -> None:
    table = rows(shop.ok("get", "svc", "-A"))
    assert table[0][0] == "NAMESPACE"
    assert [row[:2] for row in table[1:]][-1] == ["prod", "other"]
    assert rows(shop.ok("get", "svc", "-n", "prod"))[1][0] == "other"
    assert rows(shop.ok("get", "minions", "-A"))[0][0] == "NAME"


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=web", "web"),
        ("app==web", "web"),
        ("app!=web", "db name sliced"),
        ("app in (web, db)", "db web"),
        ("app notin (web,db)", "name sliced"),
        ("app", "db name sliced web"),
        ("!app", ""),
        ("app,app!=db,app notin (web)", "name sliced"),
        ("none!=x", "db name sliced web"),
        ("app=", ""),
    ],
)
def test_selectors(shop: "Cli", selector: str, names: str) -> None:
    output = shop("get", "svc", "-l", selector, "-o", "name").stdout
    assert output == "".join(f"service/{name}\n" for name in names.split())


@pytest.mark.parametrize("selector", ["a=b=c", "in (x)", "a in x", "a,,b", "a in (b", "=x", "a b"])
def test_a_selector_that_cannot_be_read_is_a_usage_error(shop: "Cli", selector: str) -> None:
    done = shop("get", "svc", "-l", selector)
    assert done.returncode == 2
    assert "is no label selector, expected KEY=VALUE" in done.stderr


@pytest.mark.parametrize("kind", ["svc", "po", "ep", "eps", "rc", "minions", "ns"])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_json_and_yaml_read_back_to_the_same_records(shop: "Cli", kind: str, form: str) -> None:
    output = shop.ok("get", kind, "-A", "-o", form)
    decoded = read(output.encode(), "output")
    assert (decoded.errors, decoded.warnings) == ((), ())
    names = [name.partition("/")[2] for name in shop.ok("get", kind, "-A", "-o", "name").splitlines()]
    assert [located.record.meta.name for located in decoded.records] == names
    whole: dict[str, Any] = json.loads(output) if form == "json" else yaml.safe_load(output)
    assert whole["kind"] == "List"


def test_yaml_keeps_text_that_only_looks_like_something_else(cli: "Cli") -> None:
    notes = {"a": "yes", "b": "1e5", "c": "two\n  lines\n\n", "d": "2026-01-01", "e": "'\"\\: # ", "f": " "}
    cli.create(cli.pod("p", "x", "10.1.0.5", annotations=notes))
    for whole in (cli.ok("get", "po", "-o", "yaml"), cli.ok("get", "po", "p", "-o", "yaml")):
        (located,) = read(whole.encode(), "output").records
        assert dict(located.record.meta.annotations) == notes


def test_one_named_record_is_the_object_itself(shop: "Cli") -> None:
    assert shop.json("get", "svc", "web")["kind"] == "Service"
    assert yaml.safe_load(shop.ok("get", "svc/web", "-o", "yaml"))["metadata"]["name"] == "web"
    assert shop.json("get", "svc", "web", "db")["kind"] == "List"


def test_names_go_back_into_other_commands(shop: "Cli") -> None:
    names = shop.ok("get", "po", "-o", "name").split()
    assert names == ["pod/web-1", "pod/web-2", "pod/web-3"]
    assert shop.ok("delete", *names).count("deleted") == 3


def test_an_empty_list_is_no_failure_and_says_where_it_looked(cli: "Cli") -> None:
    done = cli("get", "svc")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no services in namespace default (dir:{cli.records})\n"
    assert cli.json("get", "svc") == {"apiVersion": "v1", "kind": "List", "items": []}
    assert yaml.safe_load(cli.ok("get", "svc", "-o", "yaml"))["items"] == []


def test_a_name_that_is_not_there_exits_1_with_the_rest_shown(shop: "Cli") -> None:
    done = shop("get", "svc", "web", "nope", "-o", "name")
    assert (done.returncode, done.stdout, done.stderr) == (1, "service/web\n", "svcnet: service/nope not found\n")
    assert shop("get", "svc", "nope", "-o", "json").stdout == ""
    done = shop("get", "svc", "nope", "-A")
    assert (done.returncode, done.stderr) == (1, "svcnet: service/nope not found in any namespace\n")


def test_a_broken_file_in_the_store_is_reported_and_the_rest_is_listed(shop: "Cli") -> None:
    (shop.records / "broken.json").write_text('{"kind": "Service", "apiVersion": "v1",\n "metadata": 5}')
    done = shop("get", "svc", "-o", "name")
    assert done.returncode == 0
    assert "service/web\n" in done.stdout
    assert "broken.json:2: metadata" in done.stderr


def test_describe_a_service_says_who_serves_and_who_does_not(shop: "Cli") -> None:
    page = shop.ok("describe", "svc", "web")
    for text in (
        "Virtual IP:   10.0.0.5",
        "Ports:        8080/TCP → 8080",
        "8080 → 10.1.0.5:8080 (web-1, on m1)",
        "Not served:   pod web-3 (10.1.0.7): NotReady",
        "WEB_SERVICE_HOST=10.0.0.5",
        "DNS:          web.svc",
        "Problems:     none",
    ):
        assert text in page


def test_describe_says_what_is_left_out(shop: "Cli") -> None:
    shop.create(shop.pod("bad", "db", "127.0.0.9"))
    page = shop.ok("describe", "svc", "db")
    assert "127.0.0.9:5432" in page
    assert "--endpoint-deny" in page
    assert "Problems:     none" in shop.ok("describe", "svc", "web")


@pytest.mark.parametrize("target", ["po/web-1", "minion/m1", "rc/web", "eps/sliced-1", "ep/web", "ns/prod"])
def test_every_kind_can_be_described(shop: "Cli", target: str) -> None:
    assert shop.ok("describe", target).startswith("Name:")


def test_describe_of_what_is_not_there_exits_1(shop: "Cli") -> None:
    done = shop("describe", "svc", "nope")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "svcnet: service/nope not found\n")
