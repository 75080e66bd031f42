"""`svcnet create`, `apply`, `delete`: what is written, what is said, and the exit codes."""

import ipaddress
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

SEED = Path(__file__).parents[1] / "records"


def address(cli: "Cli", name: str) -> str:
    found: str = cli.json("get", "svc", name)["spec"]["clusterIP"]
    return found


def test_the_2014_walk_through(cli: "Cli") -> None:
    done = cli("create", "-f", SEED / "tomcat-pod.json")
    assert (done.returncode, done.stdout) == (0, "replicationcontroller/tomcatController created\n")
    assert re.fullmatch(r"\S+tomcat-pod\.json:25: trailing comma.*\n", done.stderr)
    assert cli.ok("create", "-f", SEED / "tomcat-service.json") == "service/tomcat created\n"
    assert ipaddress.ip_address(address(cli, "tomcat")) in ipaddress.ip_network("10.0.0.0/16")


def test_create_reads_standard_input_directories_and_several_files(cli: "Cli") -> None:
    cli.file("d/b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n")
    cli.file("d/sub/a.json", cli.service("a"))
    cli.file("d/.hidden.json", "junk")
    cli.file("d/readme.txt", "junk")
    one = cli.file("one.yml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: one}\n")
    output = cli.ok("create", "-f", "d", "-f", one, "-f", "-", stdin=json.dumps(cli.pod("p", "a", "10.1.0.5")))
    assert output == "namespace/b created\nservice/a created\nnamespace/one created\npod/p created\n"


def test_create_of_an_existing_record_exits_1_and_leaves_it(cli: "Cli") -> None:
    cli.create(cli.service("a", 80))
    done = cli("create", "-f", "-", stdin="\n".join(json.dumps(s) for s in (cli.service("a", 81), cli.service("b"))))
    assert done.returncode == 1
    assert done.stdout == "service/b created\n"
    assert re.match(r"svcnet: Service default/a exists", done.stderr)
    assert cli.json("get", "svc", "a")["spec"]["ports"][0]["port"] == 80


def test_one_existing_among_many_is_the_only_one_refused(cli: "Cli") -> None:
    cli.create(cli.service("s13"))
    records = "\n".join(json.dumps(cli.service(f"s{n}")) for n in range(20))
    done = cli("create", "-f", "-", stdin=records)
    assert done.stdout == "".join(f"service/s{n} created\n" for n in range(20) if n != 13)
    assert done.stderr.count("\n") == 1
    assert len(cli.json("get", "svc")["items"]) == 20


def bad(**change: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "bad"},
        "spec": {"ports": [{"port": 80}]},
    }
    return record | change


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bad(spec={"ports": [{"port": "80"}]}), r"x\.json:1: spec\.ports\[0\]\.port: got .*80.*, expected integer"),
        (bad(kind="Servise"), r"x\.json:1: kind: unknown kind .*Servise"),
        (bad(apiVersion="v9"), r"x\.json:1: apiVersion: got .*v9"),
        (bad(metadata={"name": "Not_A_Label"}), r"x\.json:1: metadata\.name: .*Not_A_Label"),
        (bad(metadata={}), r"x\.json:1: metadata\.name: missing"),
        (bad(spec={"ports": [{"port": 0}]}), r"x\.json:1: spec\.ports\[0\]\.port: .*\b0\b.*65535"),
        (bad(spec={"ports": [{"port": 70000}]}), r"x\.json:1: spec\.ports\[0\]\.port: .*70000.*65535"),
        ("", r"x\.json:1: no record"),
        (b"\x00\xff\x17random", r"x\.json:1: "),
        ('{"apiVersion": "v1",\n "kind": }', r"x\.json:2: column \d+: "),
    ],
)
def test_bad_input_exits_2_with_file_line_and_field(cli: "Cli", content: Any, said: str) -> None:
    done = cli("create", "-f", cli.file("x.json", content))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(rf"\S*{said}", done.stderr), done.stderr
    assert cli("get", "svc").stdout == ""


def test_good_records_are_created_beside_bad_ones_and_the_exit_is_2(cli: "Cli") -> None:
    records = [cli.service("a"), bad(spec={"ports": [{"port": 0}]}), cli.service("b")]
    done = cli("create", "-f", cli.file("x.json", {"apiVersion": "v1", "kind": "List", "items": records}))
    assert (done.returncode, done.stdout) == (2, "service/a created\nservice/b created\n")


def test_a_virtual_ip_outside_the_cidr_is_bad_input_naming_both(cli: "Cli") -> None:
    done = cli("create", "-f", "-", stdin=json.dumps(cli.service("a", clusterIP="192.168.3.4")))
    assert done.returncode == 2
    assert "192.168.3.4" in done.stderr
    assert "10.0.0.0/16" in done.stderr
    assert cli("get", "svc", "a").returncode == 1


def test_a_taken_virtual_ip_names_its_holder(cli: "Cli") -> None:
    cli.create(cli.service("a", clusterIP="10.0.0.9"))
    done = cli("create", "-f", "-", stdin=json.dumps(cli.service("b", clusterIP="10.0.0.9")))
    assert done.returncode == 1
    assert "10.0.0.9" in done.stderr
    assert "default/a" in done.stderr


def test_the_same_record_twice_in_the_input_names_both_places(cli: "Cli") -> None:
    one, two = cli.file("d/1.json", cli.service("a", 80)), cli.file("d/2.json", cli.service("a", 81))
    done = cli("create", "-f", "d")
    assert (done.returncode, done.stdout) == (2, "service/a created\n")
    places = (two.relative_to(cli.directory), one.relative_to(cli.directory))
    assert done.stderr == f"{places[0]}:1: Service default/a is given twice, first in {places[1]}:1\n"


def test_a_file_that_is_not_there_stops_everything(cli: "Cli") -> None:
    done = cli("create", "-f", cli.file("a.json", cli.service("a")), "-f", "nope.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("svcnet create: nope.json: no such file or directory\n")
    assert cli("get", "svc", "a").returncode == 1


def test_an_empty_directory_is_a_mistake(cli: "Cli") -> None:
    (cli.directory / "empty").mkdir()
    done = cli("create", "-f", "empty")
    assert done.returncode == 2
    assert "empty: no *.json, *.yaml or *.yml in it" in done.stderr


def test_a_store_that_is_away_exits_3(cli: "Cli") -> None:
    cli.records.rmdir()
    done = cli("get", "svc")
    assert (done.returncode, done.stdout) == (3, "")
    assert str(cli.records) in done.stderr


def test_apply_says_created_configured_unchanged(cli: "Cli") -> None:
    first = json.dumps(cli.service("a", 80))
    assert cli.ok("apply", "-f", "-", stdin=first) == "service/a created\n"
    before = cli.json("get", "svc", "a")
    assert cli.ok("apply", "-f", "-", stdin=first) == "service/a unchanged\n"
    assert cli.ok("apply", "-f", "-", stdin=json.dumps(cli.service("a", 81))) == "service/a configured\n"
    after = cli.json("get", "svc", "a")
    assert after["spec"]["ports"][0]["port"] == 81
    assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
    assert after["metadata"]["creationTimestamp"] == before["metadata"]["creationTimestamp"]


def test_apply_keeps_the_node_port(cli: "Cli") -> None:
    record = cli.service("a", 80, type="NodePort")
    cli.ok("apply", "-f", "-", stdin=json.dumps(record))
    port = cli.json("get", "svc", "a")["spec"]["ports"][0]["nodePort"]
    record["metadata"]["labels"]["x"] = "y"
    assert cli.ok("apply", "-f", "-", stdin=json.dumps(record)) == "service/a configured\n"
    assert cli.json("get", "svc", "a")["spec"]["ports"][0]["nodePort"] == port


def test_apply_of_what_get_prints_changes_nothing(cli: "Cli") -> None:
    cli.create(cli.service("a"), cli.pod("p", "a", "10.1.0.5"))
    for kind, said in (("svc", "service/a"), ("po", "pod/p")):
        for form in ("json", "yaml"):
            assert cli.ok("apply", "-f", "-", stdin=cli.ok("get", kind, "-o", form)) == f"{said} unchanged\n"


def test_delete_by_kind_and_name_by_slash_and_by_file(cli: "Cli") -> None:
    a, b, c, d = (cli.service(name) for name in "abcd")
    cli.create(a, b, c, d)
    assert cli.ok("delete", "svc", "a") == "service/a deleted\n"
    assert cli.ok("delete", "service/b", "service/c") == "service/b deleted\nservice/c deleted\n"
    assert cli.ok("delete", "-f", "-", stdin=json.dumps(d)) == "service/d deleted\n"
    assert cli("get", "svc").stdout == ""


def test_delete_of_what_is_not_there_exits_1_and_deletes_the_rest(cli: "Cli") -> None:
    cli.create(cli.service("a"), cli.service("z", namespace="other"))
    done = cli("delete", "svc", "nope", "a")
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "service/a deleted\n",
        "svcnet: service/nope not found\n",
    )
    assert cli("delete", "svc", "z").returncode == 1
    assert cli.ok("delete", "svc", "z", "-n", "other") == "service/z in other deleted\n"


@pytest.mark.parametrize(
    "arguments",
    [("delete",), ("delete", "svc"), ("delete", "svc", "a", "-f", "-"), ("delete", "svc/a", "b"), ("delete", "svc/")],
)
def test_delete_without_a_clear_target_is_a_usage_error(cli: "Cli", arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stderr.endswith("Try: svcnet delete --help\n")


def test_deleting_from_a_file_of_many_records_leaves_the_others(cli: "Cli") -> None:
    path = cli.records / "all.yaml"
    path.write_text("\n---\n".join(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}" for name in "ab"))
    assert cli.ok("delete", "ns", "a") == "namespace/a deleted\n"
    assert cli.ok("get", "ns", "-o", "name") == "namespace/b\n"
    assert path.exists()


def test_one_address_is_never_given_twice_by_eight_creators(cli: "Cli") -> None:
    files = [
        cli.file(
            f"{n}.json", {"apiVersion": "v1", "kind": "List", "items": [cli.service(f"s{n}-{m}") for m in range(5)]}
        )
        for n in range(8)
    ]
    started = [cli.start("create", "-f", file) for file in files]
    for process in started:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors, output.count("created")) == (0, "", 5)
    items = cli.json("get", "svc")["items"]
    assert len({item["spec"]["clusterIP"] for item in items}) == len(items) == 40
