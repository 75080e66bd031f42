"""put and delete on a record directory: where records go, what a rewrite leaves alone, many writers, missing rights."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from svcnet.codec.reader import read
from svcnet.codec.writer import to_json, to_yaml
from svcnet.model.errors import ConfigError, ConflictError, NotPermittedError, RecordError, StoreError, SvcnetError
from svcnet.model.meta import Meta
from svcnet.model.node import Node
from svcnet.model.service import Service, ServicePort
from svcnet.store.dir import DirStore
from svcnet.virtual_ip import Allocation
from tests.store.follower import ALLOCATION, Follower, addresses, key, listed, pod, run, service
from tests.store.test_dir_files import place

CREATORS = 8
EACH = 25


def files(records: Path) -> list[str]:
    return sorted(str(path.relative_to(records)) for path in records.rglob("*") if path.is_file())


def test_new_records_go_to_a_file_each_under_a_readable_name(records: Path) -> None:
    DirStore(records, ALLOCATION).put(service("tomcat", "10.0.0.5"), pod("tomcat-1"), Node(Meta("m1")))
    found = [name for name in files(records) if not name.startswith(".")]
    assert found == ["nodes/m1.json", "pods/default/tomcat-1.json", "services/default/tomcat.json"]
    written = read((records / "services/default/tomcat.json").read_bytes(), "")
    assert [located.record for located in written.records] == [service("tomcat", "10.0.0.5")]


def test_a_name_as_long_as_kubernetes_allows_has_a_file(records: Path) -> None:
    store = DirStore(records, ALLOCATION)
    first, second = (".".join(["x" * 60] * 4) + end for end in ("a", "b"))
    store.put(pod(first), pod(second))
    assert set(listed(store)) == {key(first, "Pod"), key(second, "Pod")}


def test_a_record_is_replaced_in_the_file_that_holds_it(records: Path) -> None:
    place(records / "mine/p.json", to_json(pod("p", "10.1.0.1")))
    place(records / "mine/q.yaml", to_yaml(pod("q", "10.1.0.1")))
    before = files(records)
    DirStore(records, ALLOCATION).put(pod("p", "10.1.0.2"), pod("q", "10.1.0.2"))
    assert [name for name in files(records) if name != ".lock"] == before
    assert (records / "mine/q.yaml").read_text() == to_yaml(pod("q", "10.1.0.2"))
    assert listed(DirStore(records, ALLOCATION)) == {key(n, "Pod"): pod(n, "10.1.0.2") for n in ("p", "q")}


def test_a_name_that_is_spelled_with_escapes_is_found(records: Path) -> None:
    place(records / "p.json", to_json(pod("tomcat-1")).replace(b"tomcat-1", rb"tomc\u0061t-1"))
    with pytest.raises(ConflictError, match=r"p\.json"):
        DirStore(records, ALLOCATION).put(pod("tomcat-1"), create=True)


YAML = """\
# Kept by the web team.
apiVersion: v1
kind: Pod
metadata: {name: a}   # the first
spec: {volumes: [{name: data}]}
status: {podIP: 10.1.0.1}
---
# the second
apiVersion: v1
kind: Pod
metadata:
  name: b
---
apiVersion: v1
kind: Pod
metadata: {name: c}
"""


def test_a_rewrite_of_a_yaml_file_keeps_the_other_documents_to_the_letter(records: Path) -> None:
    place(records / "web.yaml", YAML)
    store = DirStore(records, ALLOCATION)
    store.delete(key("b", "Pod"))
    first, _, third = YAML.split("---\n")
    assert (records / "web.yaml").read_text() == f"{first}---\n{third}"
    store.put(pod("c", "10.1.0.3"))
    assert (records / "web.yaml").read_text() == f"{first}---\n{to_yaml(pod('c', '10.1.0.3'))}"
    assert set(listed(store)) == {key("a", "Pod"), key("c", "Pod")}


@pytest.mark.parametrize("kind", ["List", "PodList"])
def test_a_rewrite_of_a_list_keeps_what_svcnet_does_not_know(records: Path, kind: str) -> None:
    head = {} if kind == "PodList" else {"apiVersion": "v1", "kind": "Pod"}
    items = [{**head, "metadata": {"name": name}, "spec": {"volumes": [{"name": name}]}} for name in "abc"]
    place(records / "web.json", json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"x": 1}, "items": items}))
    store = DirStore(records, ALLOCATION)
    store.put(pod("b", "10.1.0.2"))
    store.delete(key("c", "Pod"))
    written = json.loads((records / "web.json").read_text())
    assert written["metadata"] == {"x": 1}
    assert written["items"][0] == items[0]
    assert len(written["items"]) == 2
    assert listed(store)[key("b", "Pod")] == pod("b", "10.1.0.2")


def test_the_last_record_of_a_file_takes_the_file_with_it(records: Path) -> None:
    place(records / "web.yaml", YAML)
    DirStore(records, ALLOCATION).delete(*(key(name, "Pod") for name in "abc"))
    assert [name for name in files(records) if name != ".lock"] == []


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([json.loads(to_json(pod("a"))), json.loads(to_json(pod("b")))]),
        '{"apiVersion": "v1", "kind": "List", "items": [\n'
        + ",".join(to_json(pod(name)).decode() for name in "ab")
        + ",]}",
        YAML.replace("name: c", "name: [c"),
        YAML.replace("kind: Pod\nmetadata: {name: c", "kind: Nonsense\nmetadata: {name: c"),
    ],
)
def test_a_file_that_can_not_be_rewritten_without_harm_is_named(records: Path, text: str) -> None:
    place(records / "web.yaml", text)
    store = DirStore(records, ALLOCATION)
    if not listed(store):
        return  # no record of it is read, so there is none to delete
    with pytest.raises(ConflictError, match=r"web\.yaml"):
        store.delete(key("a", "Pod"))
    assert (records / "web.yaml").read_text() == text


def test_delete_removes_a_record_from_every_file(records: Path) -> None:
    for name in ("a", "b"):
        place(records / f"{name}.json", to_json(pod("p")))
    assert DirStore(records, ALLOCATION).delete(key("p", "Pod")) == (key("p", "Pod"),)
    assert listed(DirStore(records, ALLOCATION)) == {}


def test_a_file_keeps_its_mode(records: Path) -> None:
    place(records / "p.json", to_json(pod("p")))
    (records / "p.json").chmod(0o640)
    DirStore(records, ALLOCATION).put(pod("p", "10.1.0.2"))
    assert (records / "p.json").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(records: Path, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(to_json(pod("p")))
    (records / "p.json").symlink_to(tmp_path / "real.json")
    DirStore(records, ALLOCATION).put(pod("p", "10.1.0.2"))
    assert (records / "p.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == to_json(pod("p", "10.1.0.2"))


def test_a_record_that_nobody_could_read_back_is_refused(records: Path) -> None:
    bad = Service(Meta("tomcat", "default"), ports=(ServicePort(70000),))
    with pytest.raises(RecordError, match="70000"):
        DirStore(records, ALLOCATION).put(bad)
    assert [name for name in files(records) if not name.startswith(".")] == []
    assert addresses(DirStore(records, ALLOCATION).put(service("s"))[0])


@pytest.mark.parametrize("name", ["../../etc/passwd", ".hidden", ""])
def test_a_name_that_leads_elsewhere_is_refused(records: Path, name: str) -> None:
    with pytest.raises(RecordError, match="name"):
        DirStore(records, ALLOCATION).put(pod(name))


def test_a_missing_directory_is_made_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "var/lib/records"
    with pytest.raises(StoreError, match=str(path)):
        DirStore(path, ALLOCATION).put(service("s"))
    assert not path.parent.exists()
    DirStore(path, ALLOCATION, make=True).put(service("s"))
    assert set(listed(DirStore(path, ALLOCATION))) == {key("s")}


@pytest.mark.parametrize("act", [DirStore.list, lambda store: store.put(service("t"))])
def test_another_service_cidr_than_the_recorded_one_is_an_error_that_names_both(
    records: Path, act: Callable[[DirStore], object]
) -> None:
    DirStore(records, ALLOCATION).put(service("s"))
    other = DirStore(records, Allocation(tuple(type(c)("10.7.0.0/16") for c in ALLOCATION.cidrs[:1])))
    with pytest.raises(ConfigError, match=r"10\.7\.0\.0/16.*10\.0\.0\.0/16"):
        act(other)

    async def scenario() -> None:
        async with Follower(other) as reader:
            with pytest.raises(ConfigError):
                await reader.synced()

    run(scenario)


def test_a_broken_claims_file_stops_claims_and_nothing_else(records: Path) -> None:
    store = DirStore(records, ALLOCATION)
    store.put(service("s", "10.0.0.5"), pod("p"))
    place(records / "t.json", to_json(service("t")))
    (records / ".virtual-ips").write_text("{")
    with pytest.raises(RecordError, match=r"\.virtual-ips"):
        store.put(service("u"))
    listing = store.list()
    assert len(listing.records) == 3
    assert addresses(listed(store)[key("s")]) == ("10.0.0.5",)
    assert addresses(listed(store)[key("t")]) == ()
    assert {problem.where for problem in listing.problems} == {f"{records}/.virtual-ips", str(key("t"))}


CREATE = """
import sys
from pathlib import Path
from svcnet.model.errors import ConflictError
from svcnet.store.dir import DirStore
from tests.store.follower import ALLOCATION, service

store = DirStore(Path(sys.argv[1]), ALLOCATION)
me, each = sys.argv[2], int(sys.argv[3])
print(flush=True)
sys.stdin.readline()
for number in range(each):
    store.put(service(f"s{me}-{number}", type="NodePort"), create=True)
    try:
        store.put(service(f"shared-{number}"), create=True)
    except ConflictError:
        pass
    else:
        print(f"shared-{number}", flush=True)
    if number % 5 == 4:
        store.delete(store.put(service(f"gone-{me}-{number}"))[0].key)
"""


def test_concurrent_creators_lose_nothing_and_give_no_address_twice(records: Path) -> None:
    path = ":".join(filter(None, sys.path))
    creators = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(records), str(number), str(EACH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        for number in range(CREATORS)
    ]
    for creator in creators:
        assert creator.stdout is not None
        creator.stdout.readline()
    won: list[str] = []
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write(b"\n")
        creator.stdin.flush()
    for creator in creators:
        out, _ = creator.communicate()
        assert creator.returncode == 0
        won += out.decode().split()
    assert sorted(won) == sorted(f"shared-{number}" for number in range(EACH))
    listing = DirStore(records, ALLOCATION).list()
    assert not listing.problems
    assert len(listing.records) == EACH * (CREATORS + 1)
    found = [one for record in listing.records for one in addresses(record)]
    assert len(set(found)) == len(found) == EACH * (CREATORS + 1)
    ports = [p.node_port for r in listing.records if isinstance(r, Service) for p in r.ports if r.type == "NodePort"]
    assert len(set(ports)) == len(ports) == EACH * CREATORS
    claims = json.loads((records / ".virtual-ips").read_text())["claims"]
    assert len(claims) == EACH * (CREATORS + 1)
    assert [name for name in files(records) if "/." in name] == []


def test_concurrent_writers_of_one_file_lose_nothing(records: Path) -> None:
    place(records / "all.yaml", "---\n".join(to_yaml(pod(f"p{number}")) for number in range(CREATORS)))
    code = (
        "import sys; from pathlib import Path; from svcnet.store.dir import DirStore\n"
        "from tests.store.follower import ALLOCATION, pod\n"
        "for last in range(2, 8): DirStore(Path(sys.argv[1]), ALLOCATION).put(pod(sys.argv[2], f'10.1.0.{last}'))"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(records), f"p{number}"], env=env)
        for number in range(CREATORS)
    ]
    assert [writer.wait() for writer in writers] == [0] * CREATORS
    store = DirStore(records, ALLOCATION)
    assert listed(store) == {key(f"p{n}", "Pod"): pod(f"p{n}", "10.1.0.7") for n in range(CREATORS)}


def as_nobody(act: Callable[[], None]) -> None:
    """Run in a child process without root's rights (and as it is for an ordinary user)."""
    child = os.fork()
    if not child:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            act()
            status = 0
        except BaseException as error:  # noqa: BLE001 - the child ends here; its parent says the rest
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refused(error: type[SvcnetError], act: Callable[[], object]) -> None:
    try:
        act()
    except error:
        pass
    else:
        raise AssertionError(f"no {error.__name__}")


def test_a_directory_that_may_only_be_read(records: Path) -> None:
    store = DirStore(records, ALLOCATION)
    store.put(service("claimed"), service("named", "10.0.0.5"))
    place(records / "claimed.json", to_json(service("late")))
    before = listed(store)
    place(records / "new.json", to_json(service("new")))
    place(records / "fixed.json", to_json(service("fixed", "10.0.0.9")))
    for path in (records, records.parent, records.parent.parent, records.parent.parent.parent):
        path.chmod(0o755 if path != records else 0o555)

    async def scenario() -> None:
        async with Follower(store) as reader:
            await reader.synced()
            assert {name: reader.records[name] for name in before} == before
            assert addresses(reader.records[key("fixed")]) == ("10.0.0.9",)
            assert addresses(reader.records[key("new")]) == ()
            assert "no virtual IP" in reader.problems[str(key("new"))]
            assert listed(store) == reader.records

    def act() -> None:
        run(scenario)
        refused(NotPermittedError, lambda: store.put(service("x")))
        refused(NotPermittedError, lambda: store.delete(key("named")))

    as_nobody(act)


def test_a_file_and_a_directory_that_may_not_be_read(records: Path) -> None:
    place(records / "p.json", to_json(pod("p")))
    place(records / "d/q.json", to_json(pod("q")))
    place(records / "r.json", to_json(pod("r")))
    for path in (records, records.parent, records.parent.parent, records.parent.parent.parent):
        path.chmod(0o755)
    (records / "p.json").chmod(0)
    (records / "d").chmod(0)
    store = DirStore(records, ALLOCATION)

    def act() -> None:
        listing = store.list()
        assert [record.key for record in listing.records] == [key("r", "Pod")]
        assert {problem.where for problem in listing.problems} == {f"{records}/p.json", f"{records}/d"}
        assert all("Permission denied" in problem.what for problem in listing.problems)

    as_nobody(act)
    (records / "d").chmod(0o755)
    records.chmod(0)
    as_nobody(lambda: refused(StoreError, store.list))
