"""Files of a record directory as people and other tools write them, and what readers are told."""

import os
from pathlib import Path

from svcnet.codec.writer import to_json, to_yaml
from svcnet.model.event import Delete, Put
from svcnet.store.dir import DirStore
from svcnet.virtual_ip import Allocation
from tests.store.follower import ALLOCATION, Follower, addresses, endpoints, key, listed, pod, run, service

POD = key("p", "Pod")


def place(path: Path, data: bytes | str) -> None:
    """Write aside and rename, as well-behaved tools do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.new")
    temp.write_bytes(data.encode() if isinstance(data, str) else data)
    temp.rename(path)


def many(*names: str, address: str = "10.1.0.1") -> str:
    return "---\n".join(to_yaml(pod(name, address)) for name in names)


def test_files_of_any_name_in_any_directory_are_read(records: Path) -> None:
    place(records / "a.json", to_json(pod("a")))
    place(records / "x/y/z/b.yaml", to_yaml(pod("b")))
    place(records / "x/c.yml", many("c", "d"))
    place(records / "x/.hidden.json", to_json(pod("hidden")))
    place(records / ".git/e.json", to_json(pod("e")))
    place(records / "README.md", "no record")
    assert sorted(record.key.name for record in DirStore(records, ALLOCATION).list().records) == ["a", "b", "c", "d"]


def test_a_symbolic_link_to_a_file_is_followed(records: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        real = tmp_path / "real.json"
        real.write_bytes(to_json(pod("p", "10.1.0.1")))
        (records / "link.json").symlink_to(real)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            assert reader.records[POD] == pod("p", "10.1.0.1")
            real.write_bytes(to_json(pod("p", "10.1.0.2")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.2"))
            place(tmp_path / "real.json", to_json(pod("p", "10.1.0.3")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.3"))
            real.write_bytes(to_json(pod("p", "10.1.0.4")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.4"))
            (records / "link.json").unlink()
            await reader.until(lambda f: POD not in f.records)

    run(scenario)


def test_a_mounted_config_map_changes_by_one_link(records: Path) -> None:
    async def scenario() -> None:
        for version in (1, 2):
            (records / f"..v{version}").mkdir()
            (records / f"..v{version}/p.json").write_bytes(to_json(pod("p", f"10.1.0.{version}")))
        (records / "..data").symlink_to("..v1")
        (records / "p.json").symlink_to("..data/p.json")
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            assert reader.records[POD] == pod("p", "10.1.0.1")
            (records / "..tmp").symlink_to("..v2")
            (records / "..tmp").rename(records / "..data")
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.2"))

    run(scenario)


def test_a_dangling_link_is_a_problem_and_keeps_the_last_good_record(records: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        real = tmp_path / "real.json"
        real.write_bytes(to_json(pod("p")))
        (records / "link.json").symlink_to(real)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            real.unlink()
            await reader.until(lambda f: "link to nothing" in f.problems.get(str(records / "link.json"), ""))
            assert POD in reader.records
            real.write_bytes(to_json(pod("p", "10.1.0.7")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.7") and not f.problems)

    run(scenario)


def test_a_link_to_a_directory_a_pipe_and_a_hard_link(records: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        os.mkfifo(records / "pipe.json")
        (records / "dir.json").symlink_to(tmp_path)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            assert {Path(where.partition(":")[0]).name for where in reader.problems} == {"pipe.json", "dir.json"}
            (tmp_path / "outside").write_bytes(to_json(pod("p")))
            (records / "hard.json").hardlink_to(tmp_path / "outside")
            await reader.until(lambda f: POD in f.records)

    run(scenario)


def test_a_file_that_breaks_keeps_its_last_good_records(records: Path) -> None:
    async def scenario() -> None:
        place(records / "p.json", to_json(pod("p")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            for broken in (b"", b'{"kind": "Pod",\n"apiVersion": "v1"', b"\x00\xff\x80" * 99, b"[" * 1000):
                place(records / "p.json", broken)
                await reader.until(lambda f: any(str(records / "p.json") in where for where in f.problems))
                assert reader.records[POD] == pod("p")
                place(records / "p.json", to_json(pod("p")))
                await reader.until(lambda f: not f.problems)
            assert len(reader.events(POD)) == 1

    run(scenario)


def test_a_broken_file_is_named_with_its_line(records: Path) -> None:
    place(
        records / "bad.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n  ports:\n  - port: 70000\n"
    )
    place(records / "good.json", to_json(pod("p")))
    listing = DirStore(records, ALLOCATION).list()
    assert [record.key for record in listing.records] == [POD]
    (problem,) = listing.problems
    assert problem.where == f"{records}/bad.yaml:6"
    assert "70000" in problem.what


def test_one_bad_record_among_many_leaves_the_others(records: Path) -> None:
    async def scenario() -> None:
        place(records / "many.yaml", many("a", "b", "c"))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            text = many("a", "b", "c", address="10.1.0.2")
            text = text.replace("kind: Pod\nmetadata:\n  name: b", "kind: Nonsense\nmetadata:\n  name: b")
            place(records / "many.yaml", text)
            await reader.until(lambda f: f.problems)
            assert reader.records[key("a", "Pod")] == pod("a", "10.1.0.2")
            assert reader.records[key("b", "Pod")] == pod("b", "10.1.0.1")
            assert reader.records[key("c", "Pod")] == pod("c", "10.1.0.2")

    run(scenario)


def test_a_file_written_in_place_is_read_when_it_is_closed(records: Path) -> None:
    async def scenario() -> None:
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            data = to_json(pod("p"))
            with (records / "p.json").open("wb", buffering=0) as file:
                file.write(data[:40])
                file.write(data[40:])
            await reader.until(lambda f: POD in f.records)
            assert not reader.problems
            assert len(reader.events(POD)) == 1

    run(scenario)


def test_the_same_record_in_two_files_the_first_by_path_counts(records: Path) -> None:
    async def scenario() -> None:
        place(records / "b.json", to_json(pod("p", "10.1.0.2")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            place(records / "c.json", to_json(pod("p", "10.1.0.3")))
            await reader.until(lambda f: f"{records}/c.json:1" in f.problems)
            assert reader.records[POD] == pod("p", "10.1.0.2")
            place(records / "a.json", to_json(pod("p", "10.1.0.1")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.1"))
            assert set(reader.problems) == {f"{records}/b.json:1", f"{records}/c.json:1"}
            (records / "a.json").unlink()
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.2"))
            await reader.until(lambda f: set(f.problems) == {f"{records}/c.json:1"})
            (records / "b.json").unlink()
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.3"))
            await reader.until(lambda f: not f.problems)
            assert not [event for event in reader.seen if isinstance(event, Delete)]

    run(scenario)


def test_the_same_record_twice_in_one_file(records: Path) -> None:
    place(records / "p.yaml", to_yaml(pod("p", "10.1.0.1")) + "---\n" + to_yaml(pod("p", "10.1.0.2")))
    listing = DirStore(records, ALLOCATION).list()
    assert listing.records == (pod("p", "10.1.0.1"),)
    assert [problem.what for problem in listing.problems] == ["Pod default/p is in line 1 already, which counts"]


def test_a_hand_written_service_is_served_with_an_address_and_its_file_left_alone(records: Path) -> None:
    text = "apiVersion: v1beta1\nkind: Service\nid: tomcat\nport: 8080  # by hand\n"
    place(records / "tomcat.yaml", text)
    first = listed(DirStore(records, ALLOCATION))
    assert addresses(first[key("tomcat")]) != ()
    assert (records / "tomcat.yaml").read_text() == text
    assert listed(DirStore(records, ALLOCATION)) == first


def test_a_renamed_file_is_no_change(records: Path) -> None:
    async def scenario() -> None:
        place(records / "b/p.json", to_json(pod("p")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            (records / "b/p.json").rename(records / "b/q.json")
            (records / "b/q.json").rename(records / "a.json")
            (records / "b").rename(records / "c")
            (records / "a.json").rename(records / "c/r.json")
            (records / "c").rename(records / "d")
            place(records / "last.json", to_json(pod("last")))
            await reader.until(lambda f: key("last", "Pod") in f.records)
            place(records / "d/r.json", to_json(pod("p", "10.1.0.9")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.9"))
            assert [type(event) for event in reader.events(POD)] == [Put, Put]
            assert not reader.problems

    run(scenario)


def test_directories_that_come_and_go(records: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            place(records / "new/deep/p.json", to_json(pod("p")))
            await reader.until(lambda f: POD in f.records)
            place(records / "new/deep/p.json", to_json(pod("p", "10.1.0.2")))
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.2"))
            (records / "new").rename(tmp_path / "out")
            await reader.until(lambda f: POD not in f.records)
            place(tmp_path / "out/deep/p.json", to_json(pod("p", "10.1.0.3")))
            place(records / "q.json", to_json(pod("q")))
            await reader.until(lambda f: key("q", "Pod") in f.records)
            assert POD not in reader.records
            (tmp_path / "out").rename(records / "in")
            await reader.until(lambda f: f.records.get(POD) == pod("p", "10.1.0.3"))

    run(scenario)


def test_an_editor_that_writes_anew_deletes_nothing(records: Path) -> None:
    async def scenario() -> None:
        place(records / "p.json", to_json(pod("p", "10.1.0.1")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            for number in range(2, 6):
                (records / "p.json").rename(records / "p.json~")
                (records / "p.json").write_bytes(to_json(pod("p", f"10.1.0.{number}")))
                (records / "p.json~").unlink()
                await reader.shows(pod("p", f"10.1.0.{number}"))
            assert not [event for event in reader.seen if isinstance(event, Delete)]

    run(scenario)


def test_an_unlinked_file_is_a_watched_delete(records: Path) -> None:
    async def scenario() -> None:
        place(records / "s.yaml", to_yaml(service("s")) + "---\n" + to_yaml(endpoints("s", "10.1.0.1")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            (records / "s.yaml").unlink()
            await reader.until(lambda f: not f.records)
            assert sum(isinstance(event, Delete) for event in reader.seen) == 2
            assert reader.syncs == 1

    run(scenario)


def test_a_link_to_a_device_is_reported_and_not_read(records: Path) -> None:
    (records / "endless.yaml").symlink_to("/dev/zero")
    place(records / "a.json", to_json(pod("a")))
    listing = DirStore(records, ALLOCATION).list()
    assert [r.meta.name for r in listing.records] == ["a"]
    told = (f"{records}/endless.yaml", "can't be read: not a regular file")
    assert [(p.where, p.what) for p in listing.problems] == [told]


def test_a_second_family_is_added_to_the_range_and_loses_no_claim(records: Path) -> None:
    place(records / "web.json", to_json(service("web")))
    single = Allocation(ALLOCATION.cidrs[:1])
    before = DirStore(records, single).list().records
    assert DirStore(records, ALLOCATION).list().records == before
