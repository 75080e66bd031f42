"""What only the etcd store does: keys that others may rely on, outages, histories that end, many writers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from svcnet.codec.writer import to_json, to_v1
from svcnet.model.errors import ConfigError, ConflictError
from svcnet.model.meta import Meta
from svcnet.model.node import Node
from svcnet.model.service import Service, ServicePort
from svcnet.store.etcd_client import Access, EtcdClient
from svcnet.virtual_ip import Allocation
from tests.store.conftest import Etcd
from tests.store.follower import Follower, addresses, endpoints, key, listed, pod, run, service

pytestmark = pytest.mark.needs("etcd")


def held(etcd: Etcd) -> set[str]:
    """The addresses and node ports that anybody holds."""
    start = "claims/holders/"
    return {name.removeprefix(start) for name in etcd.values() if name.startswith(start)}


def test_keys_are_those_of_the_contract(etcd: Etcd) -> None:
    etcd.open().put(service("tomcat", "10.0.0.5"), Node(Meta("m1")))
    assert etcd.values() == {
        "records/Service/default/tomcat": msgspec.json.encode(to_v1(service("tomcat", "10.0.0.5"))),
        "records/Node/-/m1": b'{"apiVersion":"v1","kind":"Node","metadata":{"name":"m1"}}',
        "claims/cidrs": b"10.0.0.0/16,fd00:10::/108",
        "claims/holders/10.0.0.5": b"default/tomcat",
        "claims/services/default/tomcat": b'{"addresses":["10.0.0.5"]}',
    }


def test_a_deleted_service_leaves_no_key(etcd: Etcd) -> None:
    store = etcd.open()
    store.put(service("tomcat", type="NodePort"), pod("p"))
    store.delete(key("tomcat"), key("p", "Pod"))
    assert set(etcd.values()) == {"claims/cidrs"}


def test_the_revision_is_etcds(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        async with Follower(store) as reader:
            await reader.synced()
            store.put(pod("p"))
            await reader.shows(pod("p"))
            assert reader.revs[-1] == store.list().rev

    run(scenario)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "b'' is no JSON object"),
        (b"kind: Pod", "b'kind: Pod' is no JSON object"),
        (b'{"kind": "Pod", "apiVersion": "v1",', "1: column"),
        (b'{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": 7}}', "1: metadata.name: got integer 7"),
        (to_json(pod("other")), "holds Pod default/other, expected Pod default/p"),
        (b"{" + b"\xff" * 8, "not UTF-8"),
    ],
)
def test_a_value_that_cannot_be_read_is_reported_by_its_key_and_the_rest_goes_on(
    etcd: Etcd, value: bytes, said: str
) -> None:
    async def scenario() -> None:
        store = etcd.open()
        store.put(pod("p"), pod("q"))
        name = etcd.space.record(key("p", "Pod"))
        async with Follower(store) as reader:
            await reader.synced()
            etcd.write(name, value)
            await reader.until(lambda f: f.problems)
            assert said in reader.problems[name.decode()]
            assert reader.records[key("p", "Pod")] == pod("p")
            store.put(pod("q", "10.1.0.9"))
            await reader.shows(pod("q", "10.1.0.9"))
            assert [problem.where for problem in store.list().problems] == [name.decode()]
            assert set(listed(store)) == {key("q", "Pod")}
            store.put(pod("p", "10.1.0.7"))
            await reader.shows(pod("p", "10.1.0.7"))
            assert not reader.problems

    run(scenario)


@pytest.mark.parametrize("name", ["Pod/p", "Pod/default/p/q", "Bogus/default/p", "Pod/-/p", "Node/default/m", "Pod//p"])
def test_a_key_that_names_no_record_is_reported(etcd: Etcd, name: str) -> None:
    full = f"{etcd.space.records}{name}".encode()
    etcd.write(full, to_json(pod("p")))
    listing = etcd.open().list()
    assert [problem.where for problem in listing.problems] == [full.decode()]
    assert listing.records == ()


def test_keys_outside_records_and_claims_are_nobodys_business(etcd: Etcd) -> None:
    for name in ("health/x", "recordsX", "zzz"):
        etcd.write(f"{etcd.space.prefix}/{name}".encode(), b"{")
    assert etcd.open().list()[1:] == ((), ())


def test_a_hand_put_record_stays_as_it_was_written(etcd: Etcd) -> None:
    async def scenario() -> None:
        store = etcd.open()
        async with Follower(store) as reader:
            await reader.synced()
            etcd.smuggle(service("tomcat"))
            await reader.until(lambda f: key("tomcat") in f.records)
            (address,) = addresses(reader.records[key("tomcat")])
        keys = etcd.values()
        assert keys["records/Service/default/tomcat"] == to_json(service("tomcat"))
        assert keys[f"claims/holders/{address}"] == b"default/tomcat"

    run(scenario)


def test_readers_that_see_a_hand_put_service_at_once_agree_on_its_address(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Follower(etcd.open()) as one, Follower(etcd.open()) as two, Follower(etcd.open()) as three:
            readers = (one, two, three)
            for reader in readers:
                await reader.synced()
            etcd.smuggle(*(service(f"s{number}") for number in range(60)))
            for reader in readers:
                await reader.until(lambda f: len(f.records) == 60)
            assert one.records == two.records == three.records
            assert len({addresses(record) for record in one.records.values()}) == 60
            assert len(held(etcd)) == 60

    run(scenario)


def test_a_service_deleted_past_svcnet_gives_its_address_to_who_asks(etcd: Etcd) -> None:
    store = etcd.open()
    store.put(service("old", "10.0.0.5"))
    etcd.write(etcd.space.record(key("old")), None)
    store.put(service("new", "10.0.0.5"))
    assert etcd.values()["claims/holders/10.0.0.5"] == b"default/new"
    (again,) = store.put(service("old"))
    assert addresses(again) != ("10.0.0.5",)
    assert addresses(listed(store)[key("new")]) == ("10.0.0.5",)


def test_a_full_range_is_given_on_by_services_deleted_past_svcnet(etcd: Etcd) -> None:
    store = etcd.open(Allocation((ip_network("10.0.0.0/29"),)))
    store.put(*(service(f"s{number}") for number in range(6)))
    gone = addresses(listed(store)[key("s3")])
    etcd.write(etcd.space.record(key("s3")), None)
    assert addresses(store.put(service("late"))[0]) == gone


def test_claims_of_another_range_are_refused_naming_both(etcd: Etcd) -> None:
    etcd.open().put(service("tomcat"))
    other = etcd.open(Allocation((ip_network("10.7.0.0/16"),)))
    for act in (other.list, lambda: other.put(service("b"))):
        with pytest.raises(ConfigError, match=r"10\.7\.0\.0/16.*10\.0\.0\.0/16"):
            act()

    async def scenario() -> None:
        async with Follower(other) as reader:
            with pytest.raises(ConfigError, match=r"10\.7\.0\.0/16.*10\.0\.0\.0/16"):
                await reader.synced()

    run(scenario)


def test_a_range_without_claims_can_be_changed(etcd: Etcd) -> None:
    store = etcd.open()
    store.put(service("tomcat"))
    store.delete(key("tomcat"))
    (stored,) = etcd.open(Allocation((ip_network("10.7.0.0/16"),))).put(service("tomcat"))
    assert addresses(stored)[0].startswith("10.7.")


def test_eight_creators_never_get_one_address_twice(etcd: Etcd) -> None:
    # 24 services in 30 addresses: most of them want an address that another creator is just taking.
    allocation = Allocation((ip_network("10.0.0.0/27"),))
    stores = [etcd.open(allocation) for _ in range(8)]

    def create(number: int) -> list[tuple[str, ...]]:
        records = [service(f"c{number}-{turn}", type="NodePort") for turn in range(3)]
        return [addresses(stores[number].put(record, create=True)[0]) for record in records]

    with ThreadPoolExecutor(8) as pool:
        found = [one for several in pool.map(create, range(8)) for one in several]
    assert len(set(found)) == 24
    records = [record for record in listed(stores[0]).values() if isinstance(record, Service)]
    assert {record.cluster_ips for record in records} == set(found)
    assert len({port.node_port for record in records for port in record.ports}) == 24


def test_of_eight_creators_of_one_record_one_wins(etcd: Etcd) -> None:
    stores = [etcd.open() for _ in range(8)]

    def create(number: int) -> bool:
        try:
            stores[number].put(service("tomcat", ports=(ServicePort(80 + number),)), create=True)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert sum(won) == 1
    assert len(etcd.values()) == 4


def test_eight_writers_of_one_service_leave_one_claim(etcd: Etcd) -> None:
    stores = [etcd.open() for _ in range(8)]

    def write(number: int) -> None:
        for _ in range(3):
            stores[number].put(service("tomcat", f"10.0.0.{10 + number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    (address,) = addresses(listed(stores[0])[key("tomcat")])
    assert held(etcd) == {address}


class Interrupted(EtcdClient):
    """Lets another writer in after the first transaction with many writes."""

    def __init__(self, access: Access, act: Callable[[], None]) -> None:
        super().__init__(access)
        self._act = [act]

    def txn(self, compare: list[Any], success: list[Any], failure: list[Any]) -> Any:
        answer = super().txn(compare, success, failure)
        if len(success) > 50 and compare and self._act:
            self._act.pop()()
        return answer


def test_a_refused_create_of_many_records_leaves_nothing(etcd: Etcd) -> None:
    """500 services are several transactions; the record that another one makes meanwhile is in the last."""
    store = etcd.open()
    store._client = Interrupted(etcd.access, lambda: etcd.smuggle(service("s499", "10.0.0.5")))
    with pytest.raises(ConflictError, match="Service default/s499 exists"):
        store.put(*(service(f"s{number:03}") for number in range(500)), create=True)
    assert set(etcd.values()) == {"claims/cidrs", "records/Service/default/s499"}


def test_many_records_in_one_call_are_all_written(etcd: Etcd) -> None:
    store = etcd.open()
    services = [service(f"s{number}") for number in range(400)]
    stored = store.put(*services, *(endpoints(f"s{number}", "10.1.0.1") for number in range(400)), create=True)
    assert listed(store) == {record.key: record for record in stored}
    assert len({addresses(record) for record in stored[:400]}) == 400
    assert len(store.delete(*(record.key for record in stored))) == 800
    assert set(etcd.values()) == {"claims/cidrs"}


def test_a_service_of_a_hundred_node_ports_is_one_transaction(etcd: Etcd) -> None:
    ports = tuple(ServicePort(number, name=f"p{number}", target_port=80) for number in range(1, 101))
    (stored,) = etcd.open().put(service("wide", type="NodePort", ports=ports))
    assert isinstance(stored, Service)
    assert len({port.node_port for port in stored.ports}) == 100


def test_twenty_thousand_records_are_listed_and_followed(etcd: Etcd) -> None:
    """Three pages, whose last is of the first one's revision."""
    records = {record.key: record for record in (pod(f"p{number}") for number in range(20_000))}
    store = etcd.open()
    store.put(*records.values())

    async def scenario() -> None:
        async with Follower(store) as reader:
            await reader.synced()
            assert reader.records == records
            store.put(pod("p1", "10.1.0.2"))
            await reader.shows(pod("p1", "10.1.0.2"))

    run(scenario)
    assert len(store.list().records) == 20_000


def test_a_large_record_is_no_trouble(etcd: Etcd) -> None:
    wide = endpoints("wide", *(f"10.{number // 250}.1.{number % 250 + 1}" for number in range(4000)))
    assert 12 * len(to_json(wide)) > 2_000_000
    store = etcd.open()
    store.put(*(msgspec.structs.replace(wide, meta=Meta(f"w{number}", "default")) for number in range(12)))
    assert len(store.list().records) == 12
