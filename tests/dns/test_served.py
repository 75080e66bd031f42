"""What of the records has names: by namespace, by label, by endpoints; and which names of pods there are."""

from collections.abc import Iterable

import pytest

from svcnet.dns.records import ABSENT, EXIST, SPEC, Serving
from svcnet.dns.scope import Scope, Wanted
from svcnet.dns.zone import DISABLED, INSECURE
from svcnet.endpoints import Networks
from svcnet.feed import changed, changes, whole
from svcnet.model import selector
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.event import Delete, Event, Put
from svcnet.model.meta import Key, Meta, pairs
from svcnet.model.node import Namespace
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Delta, Endpoint
from svcnet.tracker import Tracker
from tests.dns.world import SHAPE, Asked, external, gone, headless, lines, namespace, pod, virtual

HOME = "svc.cluster.local."
ONE = Endpoint("10.1.1.2", 80, hostname="db-0")


class Scoped(Asked):
    """Answers from records that came through a scope; `seen` is how many services and addresses each change told."""

    def __init__(self, wanted: Wanted, *records: Record) -> None:
        super().__init__()
        self._tracker = Tracker(Networks(()))
        self._scope = Scope(wanted)
        self._rev = 0
        self._tracker.fold(self._events(records))
        snapshot, _ = self._scope.follow(self._tracker.snapshot, Delta(self._rev))
        for frame in whole(snapshot):
            self.responder.take(frame)
        self.seen: list[int] = []

    def _events(self, records: Iterable[Record]) -> list[Event]:
        self._rev += 1
        return [Put(record, self._rev) for record in records]

    def put(self, *records: Record) -> None:
        """Write records."""
        self._fold(self._events(records))

    def drop(self, *keys: Key) -> None:
        """Remove records."""
        self._rev += 1
        self._fold([Delete(key, self._rev) for key in keys])

    def _fold(self, events: list[Event]) -> None:
        delta = self._tracker.fold(events)
        snapshot, delta = self._scope.follow(self._tracker.snapshot, delta)
        frames = tuple(changes(snapshot, changed(delta)))
        self.seen.append(sum(len(frame.entries) + len(frame.census) for frame in frames))
        for frame in frames:
            self.responder.take(frame)

    def codes(self, *names: str) -> list[str]:
        """What becomes of a question for the address of each."""
        return [self.ask(name).rcode().name for name in names]


def service(name: str, namespace: str = "default", address: str = "10.0.0.5", **labels: str) -> Service:
    """A service with a virtual IP."""
    meta = Meta(name, namespace, pairs(labels))
    return Service(meta, (ServicePort(80, "http"),), cluster_ips=(address,))


def space(name: str, **labels: str) -> Namespace:
    """A Namespace record."""
    return Namespace(Meta(name, labels=pairs(labels)))


def slice_of(name: str, address: str, namespace: str = "default") -> EndpointSlice:
    """An endpoint of a service."""
    meta = Meta(f"{name}-1", namespace, pairs({"kubernetes.io/service-name": name}))
    return EndpointSlice(meta, "IPv4", (SliceEndpoint((address,)),), (EndpointPort(80, "http"),))


def test_only_named_namespaces_have_names() -> None:
    asked = Scoped(
        Wanted(("shop",)),
        service("web", "shop"),
        service("db", "back", "10.0.0.6"),
        space("empty"),
        service("api", address="10.0.0.9"),
    )
    assert asked.codes(f"web.shop.{HOME}", "web.shop.svc.", "shop.svc.") == ["NOERROR"] * 3
    assert asked.codes(f"db.back.{HOME}", "db.back.svc.", "back.svc.", "empty.svc.", "api.svc.") == ["NXDOMAIN"] * 5
    assert asked.text("5.0.0.10.in-addr.arpa.", "PTR") == [f"5.0.0.10.in-addr.arpa. 5 IN PTR web.shop.{HOME}"]
    assert asked.text("6.0.0.10.in-addr.arpa.", "PTR") == ["NXDOMAIN", "0.10.in-addr.arpa."]
    before = asked.responder.zone.serial
    asked.put(service("late", "back", "10.0.0.7"), slice_of("db", "10.1.1.2", "back"))
    assert asked.codes(f"late.back.{HOME}") == ["NXDOMAIN"]
    assert asked.seen == [0]
    asked.put(service("late", "shop", "10.0.0.8"))
    assert asked.text(f"late.shop.{HOME}") == [f"late.shop.{HOME} 5 IN A 10.0.0.8"]
    assert asked.responder.zone.serial > before


def test_a_service_has_names_while_its_labels_match() -> None:
    asked = Scoped(
        Wanted(service_labels=selector.parse("tier in (front, edge),!hidden")),
        service("web", tier="front"),
        service("db", "default", "10.0.0.6", tier="back"),
    )
    assert asked.codes("web.svc.", "db.svc.", "default.svc.") == ["NOERROR", "NXDOMAIN", "NOERROR"]
    asked.put(service("web", tier="front", hidden="yes"), service("db", "default", "10.0.0.6", tier="edge"))
    assert asked.codes("web.svc.", "db.svc.") == ["NXDOMAIN", "NOERROR"]
    assert asked.text("5.0.0.10.in-addr.arpa.", "PTR") == ["NXDOMAIN", "0.10.in-addr.arpa."]
    asked.drop(Key("Service", "default", "db"))
    assert asked.codes("db.svc.") == ["NXDOMAIN"]


def test_a_namespace_that_gets_the_label_brings_its_services_and_nobody_elses() -> None:
    names = [f"s{number}" for number in range(30)]
    asked = Scoped(
        Wanted(namespace_labels=selector.parse("dns=yes")),
        space("shop"),
        service("web", "shop", "10.0.0.200"),
        service("api", "shop", "10.0.0.201"),
        space("other", dns="yes"),
        *(service(name, "other", f"10.0.1.{number}") for number, name in enumerate(names)),
    )
    assert asked.codes(f"web.shop.{HOME}", "shop.svc.", f"s3.other.{HOME}") == ["NXDOMAIN", "NXDOMAIN", "NOERROR"]
    asked.put(space("shop", dns="yes"))
    assert asked.codes(f"web.shop.{HOME}", "shop.svc.", f"api.shop.{HOME}") == ["NOERROR"] * 3
    asked.put(service("web", "shop", "10.0.0.202"), slice_of("api", "10.1.1.2", "shop"))
    assert asked.text(f"web.shop.{HOME}") == [f"web.shop.{HOME} 5 IN A 10.0.0.202"]
    asked.put(space("shop", dns="no"))
    assert asked.codes(f"web.shop.{HOME}", "shop.svc.", f"s3.other.{HOME}") == ["NXDOMAIN", "NXDOMAIN", "NOERROR"]
    assert asked.seen == [3, 2, 3]
    asked.drop(Key("Namespace", "", "other"))
    assert asked.codes(f"s3.other.{HOME}") == ["NXDOMAIN"]


def test_a_namespace_without_a_record_has_the_label_of_its_name() -> None:
    asked = Scoped(
        Wanted(namespace_labels=selector.parse("kubernetes.io/metadata.name notin (back)")),
        service("web", "shop"),
        service("db", "back", "10.0.0.6"),
    )
    assert asked.codes(f"web.shop.{HOME}", f"db.back.{HOME}") == ["NOERROR", "NXDOMAIN"]


@pytest.mark.parametrize(
    ("empty", "expected"),
    [(SPEC, ["NOERROR", "NXDOMAIN"]), (EXIST, ["NOERROR", "NOERROR"]), (ABSENT, ["NXDOMAIN", "NXDOMAIN"])],
)
def test_services_without_endpoints_are_there_or_not(empty: str, expected: list[str]) -> None:
    shape = SHAPE._replace(serving=Serving(empty=empty))
    asked = Asked(virtual("web", "10.0.0.5"), headless("db"), external("out", "example.org"), shape=shape)
    assert [asked.ask(f"{name}.svc.").rcode().name for name in ("web", "db")] == expected
    there = asked.ask("5.0.0.10.in-addr.arpa.", "PTR").answer
    assert bool(there) == (expected[0] == "NOERROR")
    assert asked.ask("out.svc.").answer
    asked.change(headless("db", ONE))
    assert asked.text("db.svc.") == ["db.svc. 5 IN A 10.1.1.2"]
    asked.change(headless("db"))
    assert asked.ask("db.svc.").rcode().name == expected[1]


def test_endpoints_without_a_host_name_are_called_as_their_pods_where_that_is_wanted() -> None:
    endpoints = (
        Endpoint("10.1.1.2", 80, hostname="db-0", target="Pod/default/pod-a"),
        Endpoint("10.1.1.3", 80, target="Pod/default/pod-b"),
        Endpoint("10.1.1.4", 80),
        Endpoint("10.1.1.5", 80, target="Pod/default/pod.c"),
        Endpoint("10.1.1.6", 80, target="VirtualMachine/default/vm"),
        Endpoint("10.1.1.7", 80, target=f"Pod/default/{'x' * 64}"),
    )
    named = ["db-0", "pod-b", "10-1-1-4", "10-1-1-5", "10-1-1-6", "10-1-1-7"]
    usual = ["db-0", *(f"10-1-1-{number}" for number in range(3, 8))]
    for wanted, expected in ((True, named), (False, usual)):
        asked = Asked(headless("db", *endpoints), shape=SHAPE._replace(serving=Serving(pod_names=wanted)))
        for endpoint, label in zip(endpoints, expected, strict=True):
            name = f"{label}.db.default.{HOME}"
            assert asked.text(name) == [f"{name} 5 IN A {endpoint.address}"]
            owner = f"{endpoint.address.rpartition('.')[2]}.1.1.10.in-addr.arpa."
            assert asked.text(owner, "PTR") == [f"{owner} 5 IN PTR {name}"]
        srv = asked.ask(f"_http._tcp.db.default.{HOME}", "SRV", payload=1232)
        assert {line.split()[-1] for line in lines(srv.answer)} == {f"{label}.db.default.{HOME}" for label in expected}


def test_without_names_of_endpoints_headless_services_are_not_there() -> None:
    records = (virtual("web", "10.0.0.5"), headless("db", ONE))
    assert Asked(*records).text("db-0.db.svc.") == ["db-0.db.svc. 5 IN A 10.1.1.2"]
    asked = Asked(*records, shape=SHAPE._replace(serving=Serving(endpoints=False)))
    for name in ("db.svc.", "db-0.db.svc.", "_http._tcp.db.svc."):
        assert asked.text(name, "SRV") == ["NXDOMAIN", "svc."]
    assert asked.text("2.1.1.10.in-addr.arpa.", "PTR") == ["NXDOMAIN", "1.10.in-addr.arpa."]
    assert asked.text("web.svc.") == ["web.svc. 5 IN A 10.0.0.5"]
    assert asked.text("5.0.0.10.in-addr.arpa.", "PTR") == [f"5.0.0.10.in-addr.arpa. 5 IN PTR web.default.{HOME}"]


def test_insecure_names_of_pods_hold_for_any_address_in_a_namespace_that_exists() -> None:
    asked = Asked(virtual("web", "10.0.0.5"), census=(namespace("shop"),), shape=SHAPE._replace(pods=INSECURE))
    end = "shop.pod.cluster.local."
    assert asked.text(f"192-0-2-9.{end}") == [f"192-0-2-9.{end} 5 IN A 192.0.2.9"]
    assert asked.text(f"192-0-2-9.{end}", "AAAA") == ["NOERROR", "cluster.local."]
    assert asked.text(f"2001-db8--9.{end}", "AAAA") == [f"2001-db8--9.{end} 5 IN AAAA 2001:db8::9"]
    assert asked.text(f"--1.{end}", "AAAA") == [f"--1.{end} 5 IN AAAA ::1"]
    for none in ("192-0-2", "192-0-2-256", "192-0-2-9-9", "web", "x.192-0-2-9", r"1\.2\.3\.4"):
        assert asked.text(f"{none}.{end}") == ["NXDOMAIN", "cluster.local."]
    assert asked.text("192-0-2-9.nowhere.pod.cluster.local.") == ["NXDOMAIN", "cluster.local."]
    assert asked.text(end) == asked.text("pod.cluster.local.") == ["NOERROR", "cluster.local."]


def test_insecure_names_come_and_go_with_their_namespace() -> None:
    asked = Asked(virtual("web", "10.0.0.5"), shape=SHAPE._replace(pods=INSECURE))
    name = "192-0-2-9.shop.pod.cluster.local."
    assert asked.text(name) == ["NXDOMAIN", "cluster.local."]
    asked.change(census=(namespace("shop"),))
    assert asked.text(name) == [f"{name} 5 IN A 192.0.2.9"]
    asked.change(census=(namespace("shop", there=False),))
    assert asked.text(name) == ["NXDOMAIN", "cluster.local."]


def test_disabled_names_of_pods_are_not_there() -> None:
    census = (namespace("shop"), pod("10.1.1.2", "shop"))
    asked = Asked(virtual("web", "10.0.0.5"), census=census, shape=SHAPE._replace(pods=DISABLED))
    for name in ("10-1-1-2.shop.pod.cluster.local.", "shop.pod.cluster.local.", "pod.cluster.local."):
        assert asked.text(name) == ["NXDOMAIN", "cluster.local."]
    asked.change(census=(pod("10.1.1.3", "shop"),))
    assert asked.text("10-1-1-3.shop.pod.cluster.local.") == ["NXDOMAIN", "cluster.local."]


@pytest.mark.parametrize("zones", [("svc",), ("",)])
def test_what_is_not_there_goes_upstream_where_the_zone_says_so(zones: tuple[str, ...]) -> None:
    records = (virtual("web", "10.0.0.5"), headless("db", ONE), external("alias", "nobody.svc"))
    asked = Asked(*records, recursion=True, shape=SHAPE._replace(onward=zones))
    assert asked.forwards("nobody.svc.").name == b"\6nobody\3svc\0"
    ask = asked.forwards("alias.svc.")
    assert (ask.name, ask.aliases) == (b"\6nobody\3svc\0", 1)
    assert asked.text("web.svc.", "AAAA") == ["NOERROR", "svc."]
    assert asked.text("_tcp.web.svc.") == ["NOERROR", "svc."]
    if zones == ("svc",):
        assert asked.text(f"nobody.{HOME}") == ["NXDOMAIN", "cluster.local."]
    asked.change(virtual("nobody", "10.0.0.9"))
    assert asked.text("nobody.svc.") == ["nobody.svc. 5 IN A 10.0.0.9"]
    asked.change(gone("nobody"))
    assert asked.forwards("nobody.svc.").name == b"\6nobody\3svc\0"
    alone = Asked(*records, shape=SHAPE._replace(onward=zones))
    assert alone.text("nobody.svc.") == ["NXDOMAIN", "svc."]


def test_addresses_of_ours_without_a_name_go_upstream_where_all_reverse_zones_do() -> None:
    asked = Asked(virtual("web", "10.0.0.5"), recursion=True, shape=SHAPE._replace(onward=("in-addr.arpa",)))
    assert asked.forwards("9.0.0.10.in-addr.arpa.", "PTR").name.startswith(b"\x019\x010\x010\x0210")
    assert asked.ask("5.0.0.10.in-addr.arpa.", "PTR").answer
    assert asked.text("nobody.svc.") == ["NXDOMAIN", "svc."]
