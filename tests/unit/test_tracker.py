"""The tracker: which endpoints a service has after which events."""

from ipaddress import ip_network

import pytest
from msgspec import structs

from svcnet.endpoints import Networks
from svcnet.model.endpoint import EndpointPort, Endpoints, EndpointSlice, SliceEndpoint, Subset
from svcnet.model.event import Delete, Event, Put, Synced
from svcnet.model.meta import Key, Meta, pairs
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Delta, PortKey
from svcnet.tracker import Tracker


def service(name: str = "web", ip: str = "10.0.0.5", **more: object) -> Service:
    base = Service(
        Meta(name, "default"),
        (ServicePort(80, target_port=8080),),
        pairs({"app": name}),
        cluster_ips=(ip,) if ip else (),
    )
    return structs.replace(base, **more)


def pod(name: str, ip: str, app: str = "web", **more: object) -> Pod:
    meta = Meta(name, "default", pairs({"app": app}))
    return structs.replace(Pod(meta, phase="Running", ips=(ip,), ready=True), **more)


def slice_of(
    name: str, *endpoints: SliceEndpoint, service: str = "web", port: str = "", number: int = 8080
) -> EndpointSlice:
    meta = Meta(name, "default", pairs({"kubernetes.io/service-name": service}))
    return EndpointSlice(meta, endpoints=endpoints, ports=(EndpointPort(number, port),))


def tracker() -> Tracker:
    return Tracker(Networks([ip_network("127.0.0.0/8"), ip_network("fe80::/10")]))


def feed(t: Tracker, *records: Record, rev: int = 1) -> Delta:
    return t.fold([Put(record, rev) for record in records])


def addresses(t: Tracker, name: str = "web", port: int = 80, family: int = 4) -> list[str]:
    served = t.snapshot.ports[PortKey("default", name, "TCP", port, family)]
    return [f"{e.address}:{e.port}" for e in served.endpoints]


def test_a_service_gets_the_ready_pods_that_its_selector_matches() -> None:
    t = tracker()
    feed(t, service(), pod("a", "10.1.0.2"), pod("b", "10.1.0.3", ready=False), pod("c", "10.1.0.4", app="other"))
    assert addresses(t) == ["10.1.0.2:8080"]


@pytest.mark.parametrize("pods_first", [True, False])
def test_the_order_of_arrival_does_not_matter(pods_first: bool) -> None:
    t = tracker()
    records: list[Record] = [pod("a", "10.1.0.2"), service()]
    for record in records if pods_first else reversed(records):
        feed(t, record)
    assert addresses(t) == ["10.1.0.2:8080"]


def test_a_pod_that_changes_its_labels_moves_between_services() -> None:
    t = tracker()
    feed(t, service(), service("api", "10.0.0.6"), pod("a", "10.1.0.2"))
    delta = feed(t, pod("a", "10.1.0.2", app="api"))
    assert (addresses(t), addresses(t, "api")) == ([], ["10.1.0.2:8080"])
    assert {new.key.service for _, new in delta.changed} == {"web", "api"}


def test_a_new_selector_finds_the_pods_that_are_there() -> None:
    t = tracker()
    feed(t, service(), pod("a", "10.1.0.2"), pod("b", "10.1.0.3", app="v2"))
    feed(t, service(selector=pairs({"app": "v2"})))
    assert addresses(t) == ["10.1.0.3:8080"]


def test_slices_come_before_the_selector_and_join_by_port_name() -> None:
    t = tracker()
    ports = (ServicePort(80, "http"), ServicePort(90, "admin"))
    feed(
        t,
        service(ports=ports),
        pod("a", "10.1.0.2"),
        slice_of("s", SliceEndpoint(("10.1.0.9",)), port="admin", number=9),
    )
    assert (addresses(t), addresses(t, port=90)) == ([], ["10.1.0.9:9"])
    t.fold([Delete(Key("EndpointSlice", "default", "s"), 2)])
    assert addresses(t) == ["10.1.0.2:80"]


def test_an_endpoints_record_counts_its_ready_addresses() -> None:
    t = tracker()
    ready, unready = SliceEndpoint(("10.1.0.2",)), SliceEndpoint(("10.1.0.3",), ready=False)
    feed(t, service(), Endpoints(Meta("web", "default"), (Subset((ready, unready), (EndpointPort(81),)),)))
    assert addresses(t) == ["10.1.0.2:81"]


def test_an_endpoint_in_two_slices_counts_once() -> None:
    t = tracker()
    feed(t, service(), *(slice_of(name, SliceEndpoint(("10.1.0.2",))) for name in ("s1", "s2")))
    assert addresses(t) == ["10.1.0.2:8080"]


def test_terminating_endpoints_serve_only_when_none_is_ready() -> None:
    t = tracker()
    going = SliceEndpoint(("10.1.0.2",), ready=False, serving=True, terminating=True)
    feed(t, service(), slice_of("s", going, SliceEndpoint(("10.1.0.3",))))
    assert addresses(t) == ["10.1.0.3:8080"]
    feed(t, slice_of("s", going, SliceEndpoint(("10.1.0.3",), ready=False)))
    assert addresses(t) == ["10.1.0.2:8080"]


def test_a_named_target_port_is_each_pods_own() -> None:
    def named(name: str, ip: str, port: int | None) -> Pod:
        ports = (ContainerPort(port, "http"),) if port else ()
        return pod(name, ip, spec=PodSpec((Container("c", ports=ports),)))

    t = tracker()
    ports = (ServicePort(80, target_port="http"),)
    feed(t, service(ports=ports), named("a", "10.1.0.2", 81), named("b", "10.1.0.3", 82), named("c", "10.1.0.4", None))
    assert addresses(t) == ["10.1.0.2:81", "10.1.0.3:82"]
    assert ["no container port named http" in item.reason for item in t.left_out()] == [True]


def test_a_forbidden_endpoint_is_left_out_with_the_reason() -> None:
    t = tracker()
    feed(t, service(), slice_of("s", SliceEndpoint(("127.0.0.1",)), SliceEndpoint(("10.1.0.2",))))
    assert addresses(t) == ["10.1.0.2:8080"]
    (item,) = t.left_out()
    assert "127.0.0.1:8080" in item.what
    assert "127.0.0.0/8" in item.reason
    feed(t, slice_of("s", SliceEndpoint(("10.1.0.2",))))
    assert t.left_out() == ()


@pytest.mark.parametrize(("affinity", "most"), [("None", 0x8000), ("ClientIP", 4095)])
def test_endpoints_past_what_a_service_port_can_hold_are_left_out_with_the_reason(affinity: str, most: int) -> None:
    t = tracker()
    ends = [SliceEndpoint((f"10.{1 + n // 60_000}.{n // 250 % 240}.{n % 250 + 1}",)) for n in range(most + 2)]
    feed(t, service(session_affinity=affinity), slice_of("s", *ends))
    assert len(addresses(t)) == most
    (item,) = t.left_out()
    assert item.what == "2 endpoints of Service default/web tcp/80"
    assert item.reason == f"a service port has at most {most} endpoints"


def test_a_slice_without_a_service_name_is_reported_until_it_goes() -> None:
    t = tracker()
    nameless = EndpointSlice(Meta("s", "default"))
    feed(t, nameless)
    assert "kubernetes.io/service-name" in t.left_out()[0].reason
    t.fold([Delete(nameless.key, 2)])
    assert t.left_out() == ()


def test_the_first_holder_keeps_an_address_and_the_next_gets_it_when_it_goes() -> None:
    t = tracker()
    feed(t, service("a"), service("b"), pod("p", "10.1.0.2", app="b"))
    where = ("10.0.0.5", "TCP", 80)
    assert t.snapshot.by_address[where].service == "a"
    assert "held by default/a tcp/80" in t.left_out()[0].reason
    delta = t.fold([Delete(Key("Service", "default", "a"), 2)])
    assert t.snapshot.by_address[where].service == "b"
    assert [(old.virtual_ip, new.virtual_ip) for old, new in delta.changed] == [("", "10.0.0.5")]
    assert t.left_out() == ()


def test_dual_stack_families_have_endpoints_of_their_own() -> None:
    t = tracker()
    feed(t, service(cluster_ips=("10.0.0.5", "fd00::5")), pod("a", "10.1.0.2", ips=("10.1.0.2", "fd01::2")))
    assert addresses(t) == ["10.1.0.2:8080"]
    assert addresses(t, family=6) == ["fd01::2:8080"]


def test_headless_services_have_endpoints_and_no_address_external_names_neither() -> None:
    t = tracker()
    feed(t, service(cluster_ips=("None",)), service("out", "", type="ExternalName"), pod("a", "10.1.0.2"))
    assert addresses(t) == ["10.1.0.2:8080"]
    assert len(t.snapshot.by_address) == 0
    assert {key.service for key in t.snapshot.ports} == {"web"}


def test_a_headless_service_without_ports_has_the_addresses_of_its_pods_or_records() -> None:
    t = tracker()
    feed(t, service(ip="None", ports=()), pod("a", "10.1.1.2"), pod("b", "10.1.1.3", ready=False))
    assert addresses(t, port=0) == ["10.1.1.2:0"]
    feed(t, slice_of("s", SliceEndpoint(("10.1.2.2",)), number=9))
    assert addresses(t, port=0) == ["10.1.2.2:0"]
    feed(t, service(ports=()))
    assert not t.snapshot.ports, "with a virtual IP there is nothing to serve"


def test_a_headless_service_has_all_its_endpoints_wherever_they_are() -> None:
    t = tracker()
    near = SliceEndpoint(("10.1.1.2",), for_zones=("a",), zone="a")
    far = SliceEndpoint(("10.1.2.2",), for_zones=("b",), zone="b")
    feed(t, slice_of("s", near, far), Node(Meta("", labels=pairs({"topology.kubernetes.io/zone": "a"}))))
    feed(t, service(ip="None", traffic_distribution="PreferSameZone"))
    assert addresses(t) == ["10.1.1.2:8080", "10.1.2.2:8080"]


def census(t: Tracker) -> list[str]:
    return [str(key) for key in sorted(t.snapshot.census)]


def test_a_namespace_exists_while_its_record_or_any_record_in_it_does() -> None:
    t = tracker()
    feed(t, Namespace(Meta("empty")), Namespace(Meta("default")), service(), Node(Meta("m1")))
    assert census(t) == ["Namespace default", "Namespace empty"]
    assert t.fold([Delete(Key("Namespace", "", "default"), 2)]).census == ()
    assert t.fold([Delete(service().key, 3)]).census == (Key("Namespace", "", "default"),)
    t.fold([Delete(Key("Namespace", "", "empty"), 4)])
    assert census(t) == []


def test_an_address_is_known_while_a_pod_of_the_namespace_that_has_not_ended_has_it() -> None:
    t = tracker()
    feed(t, pod("a", "10.1.1.2", ips=("10.1.1.2", "fd00::2")), pod("b", "10.1.1.2", ready=False), service())
    assert census(t) == ["Address default/10.1.1.2", "Address default/fd00::2", "Namespace default"]
    delta = feed(t, pod("a", "10.1.1.2", ips=("10.1.1.2", "fd00::2"), phase="Succeeded"))
    assert delta.census == (Key("Address", "default", "fd00::2"),)
    feed(t, pod("b", "10.1.1.3", ready=False))
    assert census(t) == ["Address default/10.1.1.3", "Namespace default"]
    feed(t, pod("b", "10.1.1.3", deletion="2026-11-22T00:00:00Z"))
    assert census(t) == ["Namespace default"]


def test_a_record_that_comes_again_unchanged_changes_nothing() -> None:
    t = tracker()
    feed(t, service(), pod("a", "10.1.0.2"))
    before = t.snapshot.ports
    assert not feed(t, service(), pod("a", "10.1.0.2"), rev=2)
    assert t.snapshot.ports == before
    assert t.snapshot.rev == 2


def test_a_change_touches_its_own_services_alone() -> None:
    t = tracker()
    feed(t, *(service(f"s{i}", f"10.0.1.{i}") for i in range(50)), pod("a", "10.1.0.2", app="s7"))
    delta = feed(t, pod("a", "10.1.0.3", app="s7"))
    assert [new.key.service for _, new in delta.changed] == ["s7"]
    assert (delta.added, delta.removed, delta.services) == ((), (), ())


def lists(n: int) -> tuple[Tracker, list[Key]]:
    t = tracker()
    records = [service(f"s{i}", f"10.0.1.{i}") for i in range(n)]
    keys = [r.key for r in records]
    t.fold([*(Put(r, 1) for r in records), Synced(1, frozenset(keys))])
    return t, keys


@pytest.mark.parametrize(("known", "left", "held"), [(20, 9, True), (20, 10, False), (9, 0, False), (10, 0, True)])
def test_a_list_that_lacks_over_half_and_at_least_ten_services_is_held(known: int, left: int, held: bool) -> None:
    t, keys = lists(known)
    t.fold([Synced(2, frozenset(keys[:left]))])
    assert (t.held is not None) == held
    assert len(t.snapshot.services) == (known if held else left)


def test_a_held_list_is_let_through_by_release_or_ended_by_a_whole_list() -> None:
    t, keys = lists(20)
    t.fold([Synced(2, frozenset())])
    delta = t.release()
    assert len(delta.removed) == 20
    assert t.held is None
    t, keys = lists(20)
    t.fold([Synced(2, frozenset())])
    t.fold([Synced(3, frozenset(keys))])
    assert (t.held, len(t.snapshot.services)) == (None, 20)


def test_watched_deletes_are_never_held() -> None:
    t, keys = lists(20)
    t.fold([Delete(key, 2) for key in keys])
    assert len(t.snapshot.services) == 0
    assert t.held is None


def test_what_is_put_after_a_held_list_survives_the_release() -> None:
    t, _ = lists(20)
    t.fold([Synced(2, frozenset())])
    feed(t, service("s3", "10.0.1.3"), rev=3)
    t.release()
    assert [key.name for key in t.snapshot.services] == ["s3"]


def test_what_a_slice_lacks_is_left_out_alone() -> None:
    t = tracker()
    gaps = slice_of("web-1", SliceEndpoint(()), SliceEndpoint(("10.1.0.5",)))
    more = EndpointPort(None, "admin"), EndpointPort(8080, "")
    record = service(ports=(ServicePort(80), ServicePort(81, "admin")), selector=())
    feed(t, record, structs.replace(gaps, ports=more))
    assert (addresses(t), addresses(t, port=81)) == (["10.1.0.5:8080"], [])
    assert [tuple(item) for item in t.left_out()] == [
        ("an endpoint of EndpointSlice default/web-1", "it has no address"),
        ("tcp port 'admin' of EndpointSlice default/web-1", "it has no number"),
    ]


@pytest.mark.parametrize("added_first", [True, False])
def test_an_endpoint_that_moves_between_slices_changes_nothing(added_first: bool) -> None:
    """The EndpointSlice controller creates before it deletes; in one batch the order does not matter."""
    t = tracker()
    old, new = (slice_of(name, SliceEndpoint(("10.1.0.5",))) for name in ("web-1", "web-2"))
    feed(t, service(selector=()), old)
    added, removed = Put(new, 2), Delete(old.key, 3)
    batches: list[list[Event]] = [[added], [removed]] if added_first else [[removed, added]]
    for batch in batches:
        assert not t.fold(batch)
    assert addresses(t) == ["10.1.0.5:8080"]
