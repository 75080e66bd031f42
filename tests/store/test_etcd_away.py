"""etcd goes away and comes back: the same, without its history, or another one in its place."""

import pytest

from svcnet.model.errors import StoreError
from svcnet.model.event import Away, Delete, Put, Synced
from svcnet.store import etcd_client, etcd_watch
from svcnet.store.etcd import EtcdStore
from svcnet.store.etcd_client import Access
from tests.store.conftest import Etcd
from tests.store.etcd_server import EtcdServer
from tests.store.follower import ALLOCATION, Follower, key, listed, pod, run, service

pytestmark = pytest.mark.needs("etcd")


def compact(server: EtcdServer) -> None:
    """Let etcd forget all history up to now."""
    revision = server.call("kv/range", {"key": "eA=="})["header"]["revision"]
    server.call("kv/compaction", {"revision": revision, "physical": True})


def test_what_changed_while_etcd_was_away_is_told_after_it_is_back(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        store.put(pod("kept"), pod("changed"), pod("deleted"), service("tomcat"))
        async with Follower(store) as reader:
            await reader.synced()
            etcd.server.stop()
            await reader.until(lambda f: f.away)
            etcd.server.start()
            other = etcd.open()
            other.put(pod("changed", "10.1.0.9"), pod("new"))
            other.delete(key("deleted", "Pod"))
            await reader.until(lambda f: f.syncs > 1)
            await reader.until(lambda f: f.records == listed(other))
            assert not reader.events(key("kept", "Pod"))[1:]

    run(scenario)


def test_a_compaction_while_away_becomes_a_list_of_what_differs(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        store.put(*(pod(f"p{number}") for number in range(50)), pod("changed"), pod("deleted"))
        async with Follower(store) as reader:
            await reader.synced()
            begin = len(reader.seen)
            etcd.server.kill()
            await reader.until(lambda f: f.away)
            etcd.server.start()
            other = etcd.open()
            other.put(pod("changed", "10.1.0.9"))
            other.delete(key("deleted", "Pod"))
            compact(etcd.server)
            await reader.until(lambda f: f.syncs > 1)
            await reader.until(lambda f: f.records == listed(other))
            told = [event for event in reader.seen[begin:] if not isinstance(event, Away | Synced)]
            assert {event.record.key for event in told if isinstance(event, Put)} == {key("changed", "Pod")}

    run(scenario)


@pytest.mark.parametrize("more", [0, 40])
def test_another_etcd_in_its_place_is_read_anew(etcd: Etcd, more: int) -> None:
    """Also when it is further than the one before was, so that its revisions tell nothing."""

    async def scenario() -> None:
        store = etcd.open()
        for turn in range(20):
            store.put(pod("p1", f"10.1.0.{turn + 1}"), pod("p2"))
        begin = store.list().rev
        async with Follower(store) as reader:
            await reader.synced()
            etcd.server.kill()
            await reader.until(lambda f: f.away)
            etcd.server.wipe()
            with etcd.server.elsewhere():
                other = EtcdStore(Access((etcd.server.host,), etcd.access.prefix), ALLOCATION)
                for turn in range(begin + more if more else 0):
                    other.put(pod("only", f"10.1.0.{turn % 200 + 1}"))
                other.put(pod("only"))
                other.close()
            await reader.until(lambda f: f.syncs > 1 and set(f.keys) == {key("only", "Pod")})
            assert not [event for event in reader.seen if isinstance(event, Delete)]

    run(scenario)


def test_kills_in_a_row_lose_nothing_that_was_acknowledged(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        async with Follower(store) as reader:
            await reader.synced()
            for turn in range(3):
                (stored,) = store.put(service(f"s{turn}"))
                etcd.server.kill()
                await reader.until(lambda f: f.away)
                with pytest.raises(StoreError):
                    store.put(service("never"))
                etcd.server.start()
                await reader.until(lambda f: not f.away)
                await reader.shows(stored)
            assert reader.records == listed(etcd.open())

    run(scenario)


def test_away_is_said_once_an_outage(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        async with Follower(store) as reader:
            await reader.synced()
            etcd.server.kill()
            await reader.until(lambda f: f.away)
            with pytest.raises(StoreError, match=etcd.server.host):
                store.list()
            etcd.server.start()
            await reader.until(lambda f: f.syncs > 1)
            assert len([event for event in reader.seen if isinstance(event, Away)]) <= 2

    run(scenario)


def test_an_etcd_that_hangs_is_away_until_it_goes_on(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        store = etcd.open()
        store.put(pod("p"))
        async with Follower(store) as reader:
            await reader.synced()
            with etcd.server.hanging(), monkeypatch.context() as hasty:
                hasty.setattr(etcd_watch, "SILENCE_SECONDS", 0.1)
                hasty.setattr(etcd_client, "CALL_SECONDS", 0.5)
                await reader.until(lambda f: f.away)
                assert "no answer within 0.5 s" in reader.away
                with pytest.raises(StoreError, match="no answer within"):
                    store.put(pod("q"))
            await reader.until(lambda f: f.syncs > 1)
            store.put(pod("r"))
            await reader.shows(pod("r"))
            assert key("p", "Pod") in reader.records

    run(scenario)
