"""Virtual IPs and node ports: what is chosen, honoured, refused."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.model.claim import NOTHING, Claim, claim_id, claim_key
from svcnet.model.errors import ConflictError, RecordError
from svcnet.model.meta import Key, Meta
from svcnet.model.service import Service, ServicePort
from svcnet.virtual_ip import FULL4, FULL_PORTS, Allocation, Claims, Settled, asks, wakes

V4, V6 = IPv4Network("10.0.0.0/16"), IPv6Network("fd00:10::/108")
DUAL = Allocation((V4, V6))


def service(
    name: str = "tomcat", *cluster_ips: str, ports: Sequence[ServicePort] = (ServicePort(80),), **more: Any
) -> Service:
    return Service(Meta(name, "default"), cluster_ips=cluster_ips, ports=tuple(ports), **more)


def claim(claims: Claims, one: Service) -> Settled:
    settled = claims.settle(one)
    claims.hold(claim_id(one.key), settled.claim)
    return settled


def families(settled: Settled) -> list[int]:
    return [ip_address(text).version for text in settled.service.cluster_ips]


def refusal(settled: Settled) -> str:
    (error,) = settled.errors
    return str(error)


def test_a_claim_id_leads_back_to_its_key() -> None:
    key = Key("Service", "prod", "tomcat")
    assert claim_key(claim_id(key)) == key


def test_a_name_gets_the_same_address_wherever_it_is_free() -> None:
    one, two = Claims(DUAL), Claims(DUAL)
    for number in range(500):
        claim(two, service(f"other-{number}"))
    chosen = claim(one, service()).claim
    assert two.holder(chosen.addresses[0]) is not None or claim(two, service()).claim == chosen


def test_what_a_service_holds_it_keeps() -> None:
    claims = Claims(DUAL)
    first = claim(claims, service(type="NodePort"))
    again = claims.settle(service(type="NodePort", session_affinity="ClientIP"))
    assert (again.claim, again.errors) == (first.claim, ())


def test_a_settled_service_is_settled_for_good() -> None:
    claims = Claims(DUAL)
    first = claim(claims, service(type="LoadBalancer", external_traffic_policy="Local"))
    assert claims.settle(first.service) == first


def test_settling_changes_nothing_before_it_is_held() -> None:
    claims = Claims(DUAL)
    claims.settle(service())
    assert claims.held == {}
    assert not claims.changed


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.booleans()), max_size=60))
def test_no_address_or_node_port_is_ever_held_twice(steps: list[tuple[str, int, bool]]) -> None:
    claims = Claims(Allocation((ip_network("10.0.0.0/29"),), range(30000, 30005)))
    for name, wish, frees in steps:
        if frees:
            claims.free(f"default/{name}")
        else:
            named = (f"10.0.0.{wish}",) if wish > 5 else ()
            settled = claim(claims, service(name, *named, type="NodePort"))
            assert bool(settled.service.cluster_ips) or settled.errors
        held = [resource for one in claims.held.values() for resource in one.resources()]
        assert len(set(held)) == len(held)
        assert all(claims.holder(resource) is not None for resource in held)
        assert claims.used[4] == sum(isinstance(resource, str) for resource in held)


def test_every_address_is_given_before_the_range_is_full() -> None:
    claims = Claims(Allocation((ip_network("10.0.0.0/24"),)))
    given_out = {claim(claims, service(f"s{number}")).service.cluster_ips[0] for number in range(254)}
    assert given_out == {str(address) for address in ip_network("10.0.0.0/24").hosts()}
    late = claims.settle(service("late"))
    assert refusal(late) == "Service default/late: the service CIDR 10.0.0.0/24 has no free address"
    assert late.waits_for == (FULL4,)
    assert late.service.cluster_ips == ()


def test_addresses_at_the_low_end_are_left_to_people() -> None:
    claims = Claims(DUAL)
    lowest = min(int(ip_address(claim(claims, service(f"s{n}")).service.cluster_ips[0])) for n in range(2000))
    assert lowest - int(V4.network_address) > 256


@pytest.mark.parametrize("cidr", ["10.0.0.0/31", "10.0.0.0/32"])
def test_a_cidr_of_network_and_broadcast_alone_is_full(cidr: str) -> None:
    assert Claims(Allocation((ip_network(cidr),))).settle(service()).errors


def test_an_ipv6_service_never_has_the_network_address() -> None:
    allocation = Allocation((ip_network("fd00::/127"),))
    assert Claims(allocation).settle(service()).service.cluster_ips == ("fd00::1",)
    assert "network" in refusal(Claims(allocation).settle(service("s", "fd00::")))


@pytest.mark.parametrize(
    ("cidrs", "fields", "expected"),
    [
        ((V4, V6), {}, [4]),
        ((V6, V4), {}, [6]),
        ((V4, V6), {"ip_families": ("IPv6",)}, [6]),
        ((V4, V6), {"ip_family_policy": "SingleStack"}, [4]),
        ((V4, V6), {"ip_family_policy": "PreferDualStack"}, [4, 6]),
        ((V4,), {"ip_family_policy": "PreferDualStack"}, [4]),
        ((V6, V4), {"ip_family_policy": "RequireDualStack"}, [6, 4]),
        ((V4, V6), {"ip_family_policy": "RequireDualStack", "ip_families": ("IPv6",)}, [6, 4]),
        ((V4, V6), {"ip_families": ("IPv6", "IPv4")}, [6, 4]),
    ],
)
def test_families(cidrs: tuple[IPv4Network | IPv6Network, ...], fields: dict[str, Any], expected: list[int]) -> None:
    settled = Claims(Allocation(cidrs)).settle(service(**fields))
    assert (families(settled), settled.errors) == (expected, ())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ip_family_policy": "RequireDualStack"}, "RequireDualStack needs an IPv6 service CIDR"),
        ({"ip_families": ("IPv6",)}, "needs an IPv6 service CIDR"),
    ],
)
def test_a_family_without_a_cidr_is_refused(fields: dict[str, Any], why: str) -> None:
    settled = Claims(Allocation((V4,))).settle(service(**fields))
    assert why in refusal(settled)
    assert isinstance(settled.errors[0], RecordError)


def test_one_named_address_of_a_dual_stack_service_is_joined_by_a_chosen_one() -> None:
    settled = Claims(DUAL).settle(service("s", "fd00:10::7", ip_family_policy="PreferDualStack"))
    assert settled.service.cluster_ips[0] == "fd00:10::7"
    assert families(settled) == [6, 4]


def test_a_service_that_turns_dual_stack_keeps_its_first_address() -> None:
    claims = Claims(DUAL)
    (first,) = claim(claims, service()).service.cluster_ips
    both = claim(claims, service(ip_family_policy="RequireDualStack")).service.cluster_ips
    assert both[0] == first
    assert claim(claims, service()).service.cluster_ips == (first,)
    assert claims.holder(both[1]) is None


@pytest.mark.parametrize(
    ("addresses", "more", "why"),
    [
        (("10.1.0.5",), {}, "10.1.0.5 is outside the service CIDR 10.0.0.0/16,fd00:10::/108"),
        (("10.0.255.255",), {}, "network or broadcast"),
        (("10.0.0.1", "10.0.0.2"), {}, "10.0.0.2 is a second IPv4 address"),
        (("nonsense",), {}, "'nonsense', expected an IP address"),
        (("10.0.0.1",), {"ip_families": ("IPv6",)}, "IPv6 first, but clusterIP 10.0.0.1 is IPv4"),
    ],
)
def test_a_named_address_that_can_not_be(addresses: tuple[str, ...], more: dict[str, Any], why: str) -> None:
    settled = Claims(DUAL).settle(service("s", *addresses, **more))
    assert any(why in str(error) and isinstance(error, RecordError) for error in settled.errors)


def test_a_taken_address_is_refused_with_its_holder_and_not_replaced() -> None:
    claims = Claims(DUAL)
    claim(claims, service("old", "10.0.0.5"))
    settled = claims.settle(service("new", "10.0.0.5"))
    assert refusal(settled) == "Service default/new: clusterIP: 10.0.0.5 is taken by Service default/old"
    assert isinstance(settled.errors[0], ConflictError)
    assert (settled.service.cluster_ips, settled.claim, settled.waits_for) == ((), NOTHING, ("10.0.0.5",))


def test_a_lapsed_holder_yields_to_who_names_the_address_and_last_to_others() -> None:
    claims = Claims(Allocation((ip_network("10.0.0.0/30"),)))
    claim(claims, service("gone", "10.0.0.1"))
    claims.lapsed.add("default/gone")
    assert claims.settle(service("named", "10.0.0.1"), take_lapsed=False).errors
    assert claim(claims, service("any")).service.cluster_ips == ("10.0.0.2",)
    assert claim(claims, service("last")).service.cluster_ips == ("10.0.0.1",)
    assert claims.held.get("default/gone", NOTHING).addresses == ()
    assert claims.settle(service("late")).errors


@pytest.mark.parametrize(
    "fields",
    [{"type": "ExternalName", "external_name": "example.org"}, {"cluster_ips": ("None",), "type": "ClusterIP"}],
)
def test_names_and_headless_services_hold_nothing(fields: dict[str, Any]) -> None:
    claims = Claims(DUAL)
    claim(claims, service("s", "10.0.0.5"))
    settled = claim(claims, Service(Meta("s", "default"), **fields))
    assert settled.claim == NOTHING
    assert claims.holder("10.0.0.5") is None
    assert settled.service == Service(Meta("s", "default"), **fields)


def test_without_leave_to_choose_a_service_keeps_what_it_names_or_holds() -> None:
    claims = Claims(DUAL)
    bare = claims.settle(service(type="NodePort"), choose=False)
    assert (bare.service.cluster_ips, bare.errors, bare.lacking) == ((), (), True)
    assert claims.settle(service("s", "10.0.0.5"), choose=False).service.cluster_ips == ("10.0.0.5",)
    held = claim(claims, service(type="NodePort"))
    assert claims.settle(service(type="NodePort"), choose=False) == held


# Node ports


@pytest.mark.parametrize(
    ("fields", "has_node_port", "has_health_check"),
    [
        ({"type": "ClusterIP"}, False, False),
        ({"type": "NodePort"}, True, False),
        ({"type": "LoadBalancer"}, True, False),
        ({"type": "LoadBalancer", "allocate_load_balancer_node_ports": False}, False, False),
        ({"type": "LoadBalancer", "external_traffic_policy": "Local"}, True, True),
        ({"type": "NodePort", "external_traffic_policy": "Local"}, True, False),
    ],
)
def test_who_gets_node_ports(fields: dict[str, Any], has_node_port: bool, has_health_check: bool) -> None:
    one = Claims(DUAL).settle(service(**fields)).service
    assert (one.ports[0].node_port in range(30000, 32768)) == has_node_port
    assert (one.health_check_node_port in range(30000, 32768)) == has_health_check


def test_a_named_node_port_is_honoured_on_a_load_balancer_without_allocation() -> None:
    one = service(
        type="LoadBalancer", allocate_load_balancer_node_ports=False, ports=(ServicePort(80, node_port=30080),)
    )
    assert Claims(DUAL).settle(one).claim.node_ports == (("TCP", 80, 30080),)


def test_a_cluster_ip_service_loses_its_node_ports() -> None:
    claims = Claims(DUAL)
    port = claim(claims, service(type="NodePort")).service.ports
    assert claim(claims, service(type="ClusterIP", ports=port)).service.ports[0].node_port == 0
    assert claims.holder(port[0].node_port) is None


def test_one_port_of_two_protocols_shares_a_node_port() -> None:
    ports = (ServicePort(53, name="udp", protocol="UDP"), ServicePort(53, name="tcp", protocol="TCP"))
    one, two = Claims(DUAL).settle(service("dns", type="NodePort", ports=ports)).service.ports
    assert one.node_port == two.node_port


def test_ports_of_one_service_have_unlike_node_ports_and_keep_them() -> None:
    claims = Claims(DUAL)
    ports = tuple(ServicePort(number, name=f"p{number}") for number in range(80, 90))
    first = claim(claims, service(type="NodePort", ports=ports)).service.ports
    assert len({port.node_port for port in first}) == 10
    again = claim(claims, service(type="NodePort", ports=tuple(reversed(ports)))).service.ports
    assert set(again) == set(first)


@pytest.mark.parametrize("number", [80, 29999, 32768, 70000])
def test_a_node_port_outside_the_range_is_refused(number: int) -> None:
    settled = Claims(DUAL).settle(service(type="NodePort", ports=(ServicePort(80, node_port=number),)))
    assert refusal(settled) == f"Service default/tomcat: nodePort: {number}, expected 30000 to 32767"
    assert settled.service.ports[0].node_port == 0


def test_a_taken_node_port_is_refused_with_its_holder() -> None:
    claims = Claims(DUAL)
    claim(claims, service("old", type="NodePort", ports=(ServicePort(80, node_port=30080),)))
    wanted = ServicePort(80, protocol="UDP", node_port=30080)
    settled = claims.settle(service("new", type="NodePort", ports=(wanted,)))
    assert refusal(settled) == "Service default/new: nodePort: 30080 is taken by Service default/old"
    assert settled.waits_for == (30080,)


def test_a_node_port_named_twice_in_one_service() -> None:
    ports = (ServicePort(80, name="a", node_port=30080), ServicePort(81, name="b", node_port=30080))
    settled = Claims(DUAL).settle(service(type="NodePort", ports=ports))
    assert "30080/TCP is named twice" in refusal(settled)
    assert [port.node_port for port in settled.service.ports] == [30080, 0]


@pytest.mark.parametrize(("number", "why"), [(1, "expected 30000 to 32767"), (30080, "a nodePort of the same service")])
def test_a_health_check_node_port_that_can_not_be(number: int, why: str) -> None:
    ports = (ServicePort(80, node_port=30080),)
    fields: dict[str, Any] = {"type": "LoadBalancer", "external_traffic_policy": "Local", "ports": ports}
    settled = Claims(DUAL).settle(service(health_check_node_port=number, **fields))
    assert why in refusal(settled)
    assert settled.service.health_check_node_port == 0


def test_no_node_port_left() -> None:
    claims = Claims(Allocation((V4,), range(30000, 30002)))
    for name in "ab":
        claim(claims, service(name, type="NodePort"))
    settled = claims.settle(service("c", type="NodePort"))
    assert refusal(settled) == "Service default/c: no node port of 30000-30001 is free"
    assert settled.waits_for == (FULL_PORTS,)
    claims.lapsed.add("default/a")
    assert not claims.settle(service("c", type="NodePort")).errors


# The table


def test_what_is_given_up_wakes_who_waits_for_it_or_for_any() -> None:
    assert wakes("10.0.0.5") == ("10.0.0.5", FULL4)
    assert wakes(30000) == (30000, FULL_PORTS)


def test_a_table_becomes_another_one_with_holders_swapped() -> None:
    claims = Claims(DUAL, {"a/x": Claim(("10.0.0.1",)), "a/y": Claim(("10.0.0.2",)), "a/z": Claim(("10.0.0.3",))})
    claims.update({"a/x": Claim(("10.0.0.2",)), "a/y": Claim(("10.0.0.1",))})
    assert [claims.holder(f"10.0.0.{n}") for n in (1, 2, 3)] == ["a/y", "a/x", None]
    assert claims.used == {4: 2, 6: 0}


def test_who_names_something_is_settled_first() -> None:
    named = service(type="NodePort", ports=(ServicePort(80), ServicePort(81, node_port=30001)))
    assert asks(service("s", "10.0.0.1"))
    assert asks(named)
    assert not asks(service(type="NodePort"))
