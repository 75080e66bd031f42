"""What a worker is told: frames survive the wire, however it cuts them, and hold all of what changed."""

import msgspec
import pytest

from svcnet import feed
from svcnet.endpoints import Networks
from svcnet.feed import Change, Entry, Known, Splitter, Whole
from svcnet.model.event import Delete, Put, Synced
from svcnet.model.meta import Key, Meta
from svcnet.model.pod import Pod
from svcnet.model.service import Service, ServicePort
from svcnet.tracker import Tracker


def service(name: str, *addresses: str) -> Service:
    ports = (ServicePort(80, "http"), ServicePort(53, "dns", "UDP"))
    return Service(Meta(name, "default"), ports, selector=(("app", name),), cluster_ips=addresses)


def pod(name: str, address: str) -> Pod:
    return Pod(Meta(f"{name}-pod", "default", labels=(("app", name),)), phase="Running", ips=(address,), ready=True)


def loaded(*names: str) -> Tracker:
    tracker = Tracker(Networks(()))
    records = [service(name, f"10.0.0.{i}", f"fd00::{i}") for i, name in enumerate(names, 1)]
    keys = frozenset(record.key for record in records)
    tracker.fold([*(Put(record, 1) for record in records), Synced(1, keys)])
    return tracker


def payloads(data: bytes, size: int) -> list[feed.Frame]:
    splitter = Splitter()
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return [feed.decode(payload) for piece in pieces for payload in splitter.feed(piece)]


@pytest.mark.parametrize("size", [1, 3, 7, 10_000_000])
def test_frames_are_what_they_were_however_the_stream_is_cut(size: int) -> None:
    tracker = loaded("a", "b")
    frames: list[feed.Frame] = [
        *feed.whole(tracker.snapshot),
        *feed.changes(tracker.snapshot, {Key("Service", "default", "gone")}),
    ]
    assert payloads(b"".join(feed.encode(frame) for frame in frames), size) == frames


def test_a_whole_is_every_service_with_all_its_ports_in_bounded_frames() -> None:
    names = [f"s{i}" for i in range(feed.CHUNK + 1)]
    tracker = loaded(*names)
    frames = list(feed.whole(tracker.snapshot))
    assert [frame.last for frame in frames] == [False, True]
    assert all(len(frame.entries) <= feed.CHUNK for frame in frames)
    entries = [e for frame in frames for e in frame.entries]
    assert sorted(e.name for e in entries) == sorted(names)
    assert all(len(e.ports) == 4 for e in entries)


def test_a_whole_has_every_namespace_and_pod_address_in_bounded_frames_too() -> None:
    tracker = loaded("a")
    number = feed.MANY + 1
    tracker.fold([Put(pod(f"x{i}", f"10.2.{i // 256}.{i % 256}"), 2) for i in range(number)])
    frames = list(feed.whole(tracker.snapshot))
    assert [frame.last for frame in frames] == [False, True]
    assert all(len(frame.census) <= feed.MANY for frame in frames)
    found = [known for frame in frames for known in frame.census]
    assert len(found) == len(set(map(str, found))) == number + 1
    assert [e.name for frame in frames for e in frame.entries] == ["a"]


def test_a_whole_of_nothing_is_one_frame_that_ends_it() -> None:
    assert list(feed.whole(Tracker(Networks(())).snapshot)) == [Whole(0, (), last=True)]


def test_a_change_of_an_endpoint_is_told_as_the_whole_service_and_no_other() -> None:
    tracker = loaded("a", "b")
    keys = feed.changed(tracker.fold([Put(pod("a", "10.1.1.2"), 2)]))
    assert keys == {Key("Service", "default", "a"), Key("Address", "default", "10.1.1.2")}
    (change,) = feed.changes(tracker.snapshot, keys)
    assert change.census == (Known("Address", "default", "10.1.1.2"),)
    (entry,) = change.entries
    assert entry.service == service("a", "10.0.0.1", "fd00::1")
    assert [(p.key.protocol, p.key.family, [e.address for e in p.endpoints]) for p in entry.ports] == [
        ("TCP", 4, ["10.1.1.2"]),
        ("UDP", 4, ["10.1.1.2"]),
        ("TCP", 6, []),
        ("UDP", 6, []),
    ]


def test_a_deleted_service_is_told_as_gone() -> None:
    tracker = loaded("a")
    keys = feed.changed(tracker.fold([Delete(Key("Service", "default", "a"), 3)]))
    emptied = Known("Namespace", "", "default", there=False)
    assert list(feed.changes(tracker.snapshot, keys)) == [Change(3, (Entry("default", "a", None),), (emptied,))]


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        feed.decode(b"\xc1")
    with pytest.raises(msgspec.ValidationError):
        feed.decode(msgspec.msgpack.encode({"type": "other"}))
    with pytest.raises(ValueError, match="a frame of"):
        list(Splitter().feed(b"\xff\xff\xff\xff"))
