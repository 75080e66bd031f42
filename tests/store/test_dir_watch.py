"""A record directory that vanishes, floods, or can't be read: what a watch makes of it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from svcnet.codec.writer import to_json
from svcnet.model.event import Away, Delete
from svcnet.store import inotify
from svcnet.store.dir import DirStore
from svcnet.store.inotify import Inotify, Notice
from tests.store.follower import ALLOCATION, Follower, addresses, key, pod, run, service
from tests.store.test_dir_files import POD, place

MANY = 300


def fill(records: Path, files: int = MANY) -> None:
    for number in range(files):
        place(records / f"d{number % 7}/p{number}.json", to_json(pod(f"p{number}")))


def swap(records: Path, other: Path) -> None:
    records.rename(other.with_name("old"))
    other.rename(records)


def deletes(reader: Follower) -> int:
    return sum(isinstance(event, Delete) for event in reader.seen)


@pytest.mark.parametrize("files", [1, MANY])
def test_a_directory_that_is_removed_as_a_whole_is_away_and_not_empty(records: Path, files: int) -> None:
    async def scenario() -> None:
        fill(records, files)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            shutil.rmtree(records)
            await reader.until(lambda f: f.away)
            assert len(reader.records) == files
            assert deletes(reader) == 0
            fill(records, files)
            await reader.until(lambda f: f.syncs > 1 and len(f.records) == files and not f.away)

    run(scenario)


def test_another_directory_in_its_place_is_a_new_list(records: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        place(records / "p.json", to_json(pod("p")))
        place(records / "q.json", to_json(pod("q")))
        shutil.copytree(records, tmp_path / "other")
        place(tmp_path / "other/p.json", to_json(pod("p", "10.1.0.2")))
        (tmp_path / "other/q.json").unlink()
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            swap(records, tmp_path / "other")
            await reader.until(lambda f: f.syncs > 1 and not f.away)
            assert reader.records == {POD: pod("p", "10.1.0.2")}
            assert deletes(reader) == 0

    run(scenario)


def test_a_link_that_turns_to_another_directory_is_a_new_list(tmp_path: Path) -> None:
    async def scenario() -> None:
        for number in (1, 2):
            place(tmp_path / f"v{number}/p.json", to_json(pod("p", f"10.1.0.{number}")))
        (tmp_path / "records").symlink_to("v1")
        async with Follower(DirStore(tmp_path / "records", ALLOCATION)) as reader:
            await reader.synced()
            (tmp_path / "turn").symlink_to("v2")
            (tmp_path / "turn").rename(tmp_path / "records")
            await reader.until(lambda f: f.records[POD] == pod("p", "10.1.0.2"))
            await reader.until(lambda f: f.syncs > 1)

    run(scenario)


def test_a_missing_directory_is_away_until_it_appears(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Follower(DirStore(tmp_path / "records", ALLOCATION)) as reader:
            await reader.until(lambda f: f.away)
            assert str(tmp_path / "records") in reader.away
            place(tmp_path / "records/p.json", to_json(pod("p")))
            await reader.until(lambda f: f.syncs and POD in f.records)
            assert sum(isinstance(event, Away) for event in reader.seen) == 1

    run(scenario)


@pytest.fixture
def small_queue() -> Iterator[None]:
    """Let this process's next inotify instances overflow after few events, as a loaded machine's would."""
    real, Inotify.read = Inotify.read, overflowing  # type: ignore[method-assign] # the kernel's limit is the machine's
    yield
    Inotify.read = real  # type: ignore[method-assign] # as above


def overflowing(self: Inotify) -> list[Notice]:
    """Read as the kernel fills a queue of eight: what is beyond is lost, and one event says so."""
    data = b""
    while self.pending():
        data += os.read(self.fd, 1 << 16)
    notices = inotify.parse(data)
    return notices if len(notices) <= 8 else [*notices[:8], Notice(-1, inotify.Q_OVERFLOW, 0, "")]


@pytest.mark.usefixtures("small_queue")
def test_an_overflow_costs_a_list_and_loses_nothing(records: Path) -> None:
    async def scenario() -> None:
        fill(records)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            count = len(reader.seen)
            for number in range(0, MANY, 3):
                place(records / f"d{number % 7}/p{number}.json", to_json(pod(f"p{number}", "10.1.0.2")))
            shutil.rmtree(records / "d1")
            await reader.until(lambda f: f.syncs > 1)
            expected = {
                key(f"p{n}", "Pod"): pod(f"p{n}", "10.1.0.1" if n % 3 else "10.1.0.2")
                for n in range(MANY)
                if n % 7 != 1
            }
            await reader.until(lambda f: f.records == expected)
            changed = {event.record.key for event in reader.seen[count:] if hasattr(event, "record")}
            assert changed <= {key(f"p{number}", "Pod") for number in range(0, MANY, 3)}

    run(scenario)


def test_a_storm_of_changes_ends_in_what_is_there(records: Path) -> None:
    async def scenario() -> None:
        fill(records)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            for turn in range(2, 6):
                for number in range(0, MANY, 2):
                    place(records / f"d{number % 7}/p{number}.json", to_json(pod(f"p{number}", f"10.1.0.{turn}")))
            for number in range(1, MANY, 2):
                (records / f"d{number % 7}/p{number}.json").unlink()
            expected = {key(f"p{n}", "Pod"): pod(f"p{n}", "10.1.0.5") for n in range(0, MANY, 2)}
            await reader.until(lambda f: f.records == expected)
            assert reader.syncs == 1

    run(scenario)


def test_two_watches_share_a_directory_and_agree_on_every_address(records: Path) -> None:
    async def scenario() -> None:
        async with Follower(DirStore(records, ALLOCATION)) as one, Follower(DirStore(records, ALLOCATION)) as two:
            await one.synced()
            await two.synced()
            for number in range(100):
                place(records / f"s{number}.json", to_json(service(f"s{number}")))
            await one.until(lambda f: len(f.records) == 100)
            await two.until(lambda f: len(f.records) == 100)
            assert one.records == two.records
            assert len({addresses(record) for record in one.records.values()}) == 100

    run(scenario)


def test_first_start_claims_for_all_services_with_one_rewrite(records: Path) -> None:
    async def scenario() -> None:
        for number in range(1200):
            place(records / f"s{number}.json", to_json(service(f"s{number}")))
        watcher = Inotify()
        watcher.add(str(records), inotify.MOVED_TO)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            assert len({addresses(record) for record in reader.records.values()}) == 1200
        assert [notice.name for notice in watcher.read()] == [".virtual-ips"]
        watcher.close()

    run(scenario)


def test_a_service_whose_file_comes_back_has_its_old_address(records: Path) -> None:
    async def scenario() -> None:
        place(records / "s.json", to_json(service("s")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            before = addresses(reader.records[key("s")])
            (records / "s.json").unlink()
            await reader.until(lambda f: not f.records)
            place(records / "s.json", to_json(service("s")))
            await reader.until(lambda f: f.records)
            assert addresses(reader.records[key("s")]) == before

    run(scenario)


def test_an_address_that_an_unlinked_service_had_is_there_for_who_names_it(records: Path) -> None:
    async def scenario() -> None:
        store = DirStore(records, ALLOCATION)
        place(records / "s.json", to_json(service("s", "10.0.0.5")))
        async with Follower(store) as reader:
            await reader.synced()
            place(records / "t.json", to_json(service("t", "10.0.0.5")))
            await reader.until(lambda f: "default/s" in f.problems.get(str(key("t")), ""))
            (records / "s.json").unlink()
            await reader.until(lambda f: addresses(f.records[key("t")]) == ("10.0.0.5",) and not f.problems)
            (records / "t.json").unlink()
            await reader.until(lambda f: not f.records)
            # Nobody watched for the second one: put has to look whether the holder is still there.
            assert store.put(service("u", "10.0.0.5")) == (service("u", "10.0.0.5"),)

    run(scenario)


def test_a_watch_that_ends_leaves_no_descriptor(records: Path) -> None:
    async def scenario() -> None:
        before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
        assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above

    run(scenario)
