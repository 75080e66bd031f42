"""Claims of a record directory over time: grace, the lock, and what happens when inotify or the disk has no room."""

import fcntl
import json
import os
from functools import partial
from pathlib import Path

import pytest

from svcnet.codec.writer import to_json
from svcnet.model.event import Delete
from svcnet.model.meta import Key
from svcnet.store import dir_watch, inotify
from svcnet.store.claim_file import ClaimFile
from svcnet.store.dir import DirStore
from svcnet.store.inotify import Inotify
from tests.store.follower import ALLOCATION, Follower, addresses, endpoints, key, listed, pod, run, service
from tests.store.test_dir_files import place


def has(name: Key, reader: Follower) -> bool:
    return name in reader.records


def claims(records: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((records / ".virtual-ips").read_text())["claims"]
    return found


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let grace times pass at once."""
    monkeypatch.setattr(dir_watch, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(dir_watch, "TICK_SECONDS", 0.02)


@pytest.mark.usefixtures("hasty")
def test_the_claim_of_an_unlinked_service_is_given_up_after_a_grace_time(records: Path) -> None:
    async def scenario() -> None:
        for name in ("s", "t"):
            place(records / f"{name}.json", to_json(service(name)))
        watcher = Inotify()
        watcher.add(str(records), inotify.MOVED_TO)
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            (records / "s.json").unlink()
            await reader.until(lambda f: key("s") not in f.records)
            while "default/s" in claims(records):
                turn = pod("tick", f"10.1.0.{len(reader.seen) % 250}")
                place(records / "tick.json", to_json(turn))
                await reader.shows(turn)
            assert set(claims(records)) == {"default/t"}
        watcher.close()

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_a_list_that_lacks_most_services_frees_no_claim(records: Path) -> None:
    async def scenario() -> None:
        store = DirStore(records, ALLOCATION)
        store.put(*(service(f"s{number}") for number in range(30)))
        before = claims(records)
        for number in range(20):
            (records / f"services/default/s{number}.json").unlink()
        async with Follower(store) as reader:
            await reader.synced()
            assert len(reader.records) == 10
            for turn in range(1, 9):
                place(records / "tick.json", to_json(pod("tick", f"10.1.0.{turn}")))
                await reader.shows(pod("tick", f"10.1.0.{turn}"))
            assert claims(records) == before

    run(scenario)


def test_claims_are_one_a_line_oldest_first(records: Path) -> None:
    store = DirStore(records, ALLOCATION)
    store.put(service("b", "10.0.0.2"))
    store.put(service("a", "10.0.0.1"))
    assert (records / ".virtual-ips").read_text() == (
        '{"cidrs": ["10.0.0.0/16","fd00:10::/108"], "claims": {\n'
        '"default/b": {"addresses":["10.0.0.2"]},\n'
        '"default/a": {"addresses":["10.0.0.1"]}\n'
        "}}\n"
    )


def test_endpoints_leave_the_claims_file_alone(records: Path) -> None:
    store = DirStore(records, ALLOCATION)
    store.put(service("s"))
    before = (records / ".virtual-ips").stat()
    store.put(endpoints("s", "10.1.0.1"))
    store.put(service("s", session_affinity="ClientIP"))
    store.list()
    assert (records / ".virtual-ips").stat() == before


def test_a_lock_file_that_is_removed_while_it_is_held_is_not_the_lock(records: Path) -> None:
    file = ClaimFile(str(records), ALLOCATION)
    with file.locked():
        (records / ".lock").unlink()
        with file.locked():
            inner = os.stat(records / ".lock").st_ino  # noqa: PTH116 - its inode is the point
        assert inner


def test_a_watch_waits_for_the_lock_and_goes_on_meanwhile(records: Path) -> None:
    async def scenario() -> None:
        store = DirStore(records, ALLOCATION)
        store.put(pod("p"))
        async with Follower(store) as reader:
            await reader.synced()
            with (records / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                place(records / "q.json", to_json(pod("q")))
                await reader.until(lambda f: key("q", "Pod") in f.records)
            place(records / "s.json", to_json(service("s")))
            await reader.until(lambda f: key("s") in f.records)

    run(scenario)


def test_a_put_while_a_watch_claims_in_the_same_process(records: Path) -> None:
    async def scenario() -> None:
        store = DirStore(records, ALLOCATION)
        async with Follower(store) as one, Follower(store) as two:
            await one.synced()
            await two.synced()
            for number in range(30):
                place(records / f"h{number}.json", to_json(service(f"h{number}")))
                store.put(service(f"s{number}"))
                await one.until(partial(has, key(f"s{number}")))
            await one.until(lambda f: len(f.records) == 60)
            await two.until(lambda f: f.records == one.records)
            assert len({addresses(record) for record in one.records.values()}) == 60

    run(scenario)


def test_claims_made_by_another_reach_a_watch_that_could_make_none(records: Path) -> None:
    async def scenario() -> None:
        store = DirStore(records, ALLOCATION)
        store.put(service("other"))
        good = (records / ".virtual-ips").read_bytes()
        (records / ".virtual-ips").write_bytes(b"{")
        place(records / "s.json", to_json(service("s")))
        async with Follower(store) as reader:
            await reader.synced()
            assert addresses(reader.records[key("s")]) == ()
            assert str(key("s")) in reader.problems
            place(records / ".virtual-ips", good)
            await reader.until(lambda f: addresses(f.records[key("s")]) and not f.problems)
            assert listed(store) == reader.records

    run(scenario)


@pytest.fixture(params=["max_user_instances", "max_user_watches"])
def no_inotify(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine whose inotify is used up."""

    def refuse(*_: object) -> None:
        code = 24 if request.param == "max_user_instances" else 28
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Inotify, "__init__" if request.param == "max_user_instances" else "add", refuse)
    monkeypatch.setattr(dir_watch, "DEAF_SECONDS", 0.05)
    return str(request.param)


def test_without_inotify_the_directory_is_read_now_and_then(records: Path, no_inotify: str) -> None:
    async def scenario() -> None:
        place(records / "p.json", to_json(pod("p")))
        place(records / "d/q.json", to_json(pod("q")))
        async with Follower(DirStore(records, ALLOCATION)) as reader:
            await reader.synced()
            await reader.until(lambda f: no_inotify in f.problems.get(str(records), ""))
            place(records / "p.json", to_json(pod("p", "10.1.0.2")))
            await reader.shows(pod("p", "10.1.0.2"))
            (records / "d/q.json").unlink()
            await reader.until(lambda f: key("q", "Pod") not in f.records)
            assert not [event for event in reader.seen if isinstance(event, Delete)]

    run(scenario)
