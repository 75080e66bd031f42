"""What every store does, whatever it is made of. Each test runs against each adapter of conftest.py."""

from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest

from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import EndpointPort, Endpoints, SliceEndpoint, Subset
from svcnet.model.errors import ConflictError, RecordError, StoreError
from svcnet.model.event import Delete, Put
from svcnet.model.meta import Key, Meta
from svcnet.model.node import Namespace, Node
from svcnet.model.record import KINDS, Record
from svcnet.model.service import Service, ServicePort
from svcnet.virtual_ip import Allocation
from tests.store.conftest import Adapter
from tests.store.follower import Follower, addresses, endpoints, key, listed, pod, run, service


def one_of_each() -> tuple[Record, ...]:
    return (
        service("tomcat", "10.0.0.5"),
        pod("tomcat-1"),
        ReplicationController(Meta("tomcatController", "default"), replicas=2),
        Endpoints(Meta("tomcat", "default"), (Subset((SliceEndpoint(("10.1.0.1",)),), (EndpointPort(80),)),)),
        endpoints("tomcat", "10.1.0.1"),
        Node(Meta("m1"), addresses=(("InternalIP", "192.168.0.1"),)),
        Namespace(Meta("prod")),
    )


def test_an_empty_store_lists_nothing(adapter: Adapter) -> None:
    listing = adapter.open().list()
    assert (listing.records, listing.problems) == ((), ())


def test_every_kind_comes_back_as_it_was_put(adapter: Adapter) -> None:
    given = one_of_each()
    assert {type(record) for record in given} == set(KINDS)
    assert adapter.open().put(*given) == given
    assert listed(adapter.open()) == {record.key: record for record in given}


def test_a_list_is_sorted_by_key(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(pod("b"), pod("a"), service("z"), Node(Meta("m1")))
    found = [record.key for record in store.list().records]
    assert found == sorted(found)
    assert len(found) == 4


def test_put_replaces_a_record(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(pod("p", "10.1.0.1"))
    store.put(pod("p", "10.1.0.2"))
    assert listed(store) == {key("p", "Pod"): pod("p", "10.1.0.2")}


def test_create_refuses_an_existing_record_and_writes_nothing(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(pod("old", "10.1.0.1"))
    with pytest.raises(ConflictError, match="Pod default/old"):
        store.put(pod("new"), service("new"), pod("old", "10.1.0.9"), create=True)
    assert listed(store) == {key("old", "Pod"): pod("old", "10.1.0.1")}


def test_delete_returns_what_existed(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(pod("a"), pod("b"))
    assert store.delete(key("a", "Pod"), key("nobody", "Pod")) == (key("a", "Pod"),)
    assert store.delete(key("a", "Pod")) == ()
    assert set(listed(store)) == {key("b", "Pod")}


def test_services_get_an_address_each_out_of_the_cidr(adapter: Adapter) -> None:
    store = adapter.open()
    stored = store.put(*(service(f"s{number}") for number in range(50)))
    found = [addresses(record) for record in stored]
    assert len(set(found)) == 50
    assert all(ip_address(one) in ip_network("10.0.0.0/16") for (one,) in found)
    assert [listed(store)[record.key] for record in stored] == list(stored)


def test_a_service_keeps_its_address_when_it_is_put_again_without_one(adapter: Adapter) -> None:
    store = adapter.open()
    (first,) = store.put(service("tomcat"))
    (second,) = store.put(service("tomcat", session_affinity="ClientIP"))
    assert addresses(second) == addresses(first)
    assert listed(store)[second.key] == second


def test_an_address_in_the_record_is_honoured(adapter: Adapter) -> None:
    assert addresses(adapter.open().put(service("tomcat", "10.0.0.77"))[0]) == ("10.0.0.77",)


def test_an_address_outside_the_cidr_is_refused_naming_both(adapter: Adapter) -> None:
    store = adapter.open()
    with pytest.raises(RecordError, match=r"10\.9\.9\.9.*10\.0\.0\.0/16"):
        store.put(pod("p"), service("tomcat", "10.9.9.9"))
    assert listed(store) == {}


@pytest.mark.parametrize("address", ["10.0.0.0", "10.0.255.255", "fd00:10::"])
def test_the_network_and_broadcast_addresses_are_refused(adapter: Adapter, address: str) -> None:
    with pytest.raises(RecordError, match=address):
        adapter.open().put(service("tomcat", address))


def test_an_address_that_is_taken_is_refused_with_its_holder(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(service("old", "10.0.0.5"))
    with pytest.raises(ConflictError, match=r"10\.0\.0\.5.*default/old"):
        store.put(service("new", "10.0.0.5"))
    assert set(listed(store)) == {key("old")}


def test_a_deleted_service_gives_its_address_up(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(service("old", "10.0.0.5"))
    store.delete(key("old"))
    assert addresses(store.put(service("new", "10.0.0.5"))[0]) == ("10.0.0.5",)


def test_a_refused_batch_claims_nothing(adapter: Adapter) -> None:
    store = adapter.open()
    with pytest.raises(RecordError):
        store.put(service("one", "10.0.0.5"), service("two", "10.9.9.9"))
    assert addresses(store.put(service("three", "10.0.0.5"))[0]) == ("10.0.0.5",)


def test_a_service_that_becomes_an_external_name_gives_its_address_up(adapter: Adapter) -> None:
    store = adapter.open()
    store.put(service("tomcat", "10.0.0.5"))
    store.put(Service(Meta("tomcat", "default"), type="ExternalName", external_name="example.org"))
    assert addresses(store.put(service("other", "10.0.0.5"))[0]) == ("10.0.0.5",)


def test_a_headless_service_gets_no_address(adapter: Adapter) -> None:
    assert addresses(adapter.open().put(service("db", "None"))[0]) == ("None",)


def test_a_full_cidr_is_refused_until_a_service_goes(adapter: Adapter) -> None:
    store = adapter.open(Allocation((ip_network("10.0.0.0/29"),)))
    store.put(*(service(f"s{number}") for number in range(6)))
    with pytest.raises(ConflictError, match=r"10\.0\.0\.0/29 has no free address"):
        store.put(service("late"))
    gone = addresses(listed(store)[key("s3")])
    store.delete(key("s3"))
    assert addresses(store.put(service("late"))[0]) == gone


def test_dual_stack_services_get_an_address_of_each_family(adapter: Adapter) -> None:
    (stored,) = adapter.open().put(service("tomcat", ip_family_policy="RequireDualStack"))
    assert [ip_address(text).version for text in addresses(stored)] == [4, 6]


def test_node_ports_are_unlike_each_other_and_in_the_range(adapter: Adapter) -> None:
    store = adapter.open()
    stored = store.put(*(service(f"s{number}", type="NodePort") for number in range(20)))
    found = {port.node_port for record in stored if isinstance(record, Service) for port in record.ports}
    assert len(found) == 20
    assert found <= set(range(30000, 32768))
    taken = min(found)
    with pytest.raises(ConflictError, match=str(taken)):
        store.put(service("late", type="NodePort", ports=(ServicePort(80, target_port=80, node_port=taken),)))


def test_a_watch_begins_with_the_list(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        given = store.put(*one_of_each())
        async with Follower(store) as reader:
            await reader.synced()
            assert reader.records == {record.key: record for record in given}
            assert reader.keys == reader.records.keys()

    run(scenario)


def test_a_watch_of_an_empty_store_is_synced_at_once(adapter: Adapter) -> None:
    async def scenario() -> None:
        async with Follower(adapter.open()) as reader:
            await reader.synced()
            assert reader.keys == frozenset()

    run(scenario)


def test_a_watch_sees_puts_and_deletes_at_rising_revisions(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        async with Follower(store) as one, Follower(store) as two:
            for reader in (one, two):
                await reader.synced()
            store.put(service("tomcat", "10.0.0.5"))
            await one.until(lambda f: f.records == {key("tomcat"): service("tomcat", "10.0.0.5")})
            store.put(pod("p", "10.1.0.1"))
            await one.until(lambda f: len(f.records) == 2)
            store.put(pod("p", "10.1.0.2"))
            await one.until(lambda f: f.records[key("p", "Pod")] == pod("p", "10.1.0.2"))
            store.delete(key("tomcat"))
            await one.until(lambda f: set(f.records) == {key("p", "Pod")})
            assert isinstance(one.seen[-1], Delete)
            assert all(earlier < later for earlier, later in pairwise(one.revs))
            await two.until(lambda f: f.records == one.records)

    run(scenario)


def test_a_put_that_changes_nothing_is_not_seen(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        store.put(service("tomcat", "10.0.0.5"))
        async with Follower(store) as reader:
            await reader.synced()
            store.put(service("tomcat", "10.0.0.5"))
            store.put(service("tomcat"))
            store.put(endpoints("tomcat", "10.1.0.1"))
            await reader.until(lambda f: key("tomcat", "EndpointSlice") in f.records)
            assert len(reader.events(key("tomcat"))) == 1

    run(scenario)


def test_a_store_that_goes_away_is_not_empty(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        store.put(*(service(f"s{number}") for number in range(20)), pod("p", "10.1.0.1"))
        async with Follower(store) as reader:
            await reader.synced()
            before = dict(reader.records)
            adapter.lose()
            await reader.until(lambda f: f.away)
            with pytest.raises(StoreError):
                store.list()
            with pytest.raises(StoreError):
                store.put(pod("q"))
            assert reader.records == before
            adapter.recover()
            await reader.until(lambda f: f.syncs == 2)
            assert reader.records == before
            store.put(pod("p", "10.1.0.2"))
            await reader.until(lambda f: f.records[key("p", "Pod")] == pod("p", "10.1.0.2"))
            assert not [event for event in reader.seen if isinstance(event, Delete)]

    run(scenario)


def test_a_watch_that_begins_while_the_store_is_away_gets_the_list_later(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        store.put(pod("p"))
        adapter.lose()
        async with Follower(store) as reader:
            await reader.until(lambda f: f.away)
            assert not reader.syncs
            adapter.recover()
            await reader.synced()
            assert set(reader.records) == {key("p", "Pod")}

    run(scenario)


def test_a_service_that_another_tool_wrote_gets_an_address(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        adapter.smuggle(service("first"))
        async with Follower(store) as reader:
            await reader.synced()
            adapter.smuggle(service("second"))
            await reader.until(lambda f: key("second") in f.records)
            found = {addresses(record) for record in reader.records.values()}
            assert len(found) == 2
            assert () not in found
            assert listed(store) == reader.records

    run(scenario)


def test_a_smuggled_address_that_is_taken_stays_with_the_older_holder(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        store.put(service("old", "10.0.0.5"))
        async with Follower(store) as reader:
            await reader.synced()
            adapter.smuggle(service("new", "10.0.0.5"))
            await reader.until(lambda f: key("new") in f.records)
            assert addresses(reader.records[key("new")]) == ()
            assert addresses(reader.records[key("old")]) == ("10.0.0.5",)
            assert "default/old" in reader.problems[str(key("new"))]
            assert [problem.where for problem in store.list().problems] == [str(key("new"))]
            store.delete(key("old"))
            await reader.until(lambda f: addresses(f.records[key("new")]) == ("10.0.0.5",))
            await reader.until(lambda f: not f.problems)

    run(scenario)


def test_an_endpoint_change_says_nothing_of_services(adapter: Adapter) -> None:
    async def scenario() -> None:
        store = adapter.open()
        store.put(service("tomcat"), endpoints("tomcat", "10.1.0.1"))
        async with Follower(store) as reader:
            await reader.synced()
            count = len(reader.seen)
            store.put(endpoints("tomcat", "10.1.0.2"))
            await reader.until(lambda f: len(f.seen) > count)
            (event,) = reader.seen[count:]
            assert isinstance(event, Put)
            assert event.record == endpoints("tomcat", "10.1.0.2")

    run(scenario)


def test_records_of_two_namespaces_are_two_records(adapter: Adapter) -> None:
    store = adapter.open()
    one, two = (Service(Meta("tomcat", space), ports=(ServicePort(80, target_port=80),)) for space in "ab")
    stored = store.put(one, two)
    assert len({addresses(record) for record in stored}) == 2
    assert store.delete(Key("Service", "a", "tomcat"))
    assert set(listed(store)) == {Key("Service", "b", "tomcat")}
