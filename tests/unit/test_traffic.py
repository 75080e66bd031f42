"""Whose traffic is counted where: totals by service and endpoint, from what was seen of flows."""

from collections.abc import Iterable

from svcnet.iptables.desired import packed
from svcnet.iptables.flow_events import Event, Way
from svcnet.iptables.flow_tally import FlowTally
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import Delta, Endpoint, PortKey, ServedPort, Snapshot
from svcnet.tracker import NODE_PORT
from svcnet.traffic import OTHER, OTHER_ENDPOINT, Seen, ServiceId, Traffic

WEB = ServiceId("default", "web", "tcp", "80")
VIP = "10.0.0.5"


def served(*addresses: str, name: str = "web", vip: str = VIP, family: int = 4, node_port: int = 0) -> ServedPort:
    """A service port with these endpoints, on port 8080."""
    key = PortKey("default", name, "TCP", 80, family)
    return ServedPort(key, "http", vip, tuple(Endpoint(a, 8080) for a in addresses), node_port)


def snapshot(*ports: ServedPort) -> Snapshot:
    """All of them, on the addresses that they answer on."""
    empty = Snapshot()
    where = {(p.virtual_ip, "TCP", 80): p.key for p in ports}
    where |= {(NODE_PORT[p.key.family], "TCP", p.node_port): p.key for p in ports if p.node_port}
    return Snapshot(1, empty.services, empty.ports.update({p.key: p for p in ports}), empty.by_address.update(where))


def serving(*ports: ServedPort, most: int = 100) -> Traffic:
    """Accounts of these services."""
    traffic = Traffic(most)
    traffic.follow(snapshot(*ports), Delta(1, added=ports))
    return traffic


def flow(
    backend: str, connections: int = 1, to: str = VIP, port: int = 80, bytes_in: int = 0, bytes_out: int = 0
) -> Seen:
    """Connections to an address that went to an endpoint."""
    front = Frontend(6 if ":" in to else 4, to, "tcp", port)
    return Seen(front, (backend, 8080), connections, bytes_in, bytes_out)


def services(traffic: Traffic) -> dict[ServiceId, tuple[int, int, int]]:
    """(connections, bytes in, bytes out) by service."""
    return {mine: (t.connections, t.bytes_in, t.bytes_out) for mine, t in traffic.services()}


def endpoints(traffic: Traffic) -> dict[tuple[str, str], int]:
    """Connections by (service, endpoint)."""
    return {(mine.service, where): t.connections for mine, where, t in traffic.endpoints()}


def test_a_service_has_the_sum_of_its_endpoints() -> None:
    traffic = serving(served("10.1.0.1", "10.1.0.2"))
    traffic.count([flow("10.1.0.1", 3, bytes_in=10, bytes_out=100), flow("10.1.0.2", 4, bytes_in=1, bytes_out=2)])
    assert services(traffic) == {WEB: (7, 11, 102)}
    assert endpoints(traffic) == {("web", "10.1.0.1:8080"): 3, ("web", "10.1.0.2:8080"): 4}


def test_both_families_are_one_service() -> None:
    traffic = serving(served("10.1.0.1"), served("fd00::1", vip="fd00:10::5", family=6))
    traffic.count([flow("10.1.0.1"), flow("fd00::1", to="fd00:10::5")])
    assert services(traffic) == {WEB: (2, 0, 0)}
    assert endpoints(traffic) == {("web", "10.1.0.1:8080"): 1, ("web", "[fd00::1]:8080"): 1}


def test_what_nobody_has_is_not_counted() -> None:
    traffic = serving(served("10.1.0.1"))
    traffic.count([flow("10.1.0.1", to="10.0.0.6"), flow("10.1.0.1", port=81)])
    assert not services(traffic)


def test_an_endpoint_that_goes_takes_nothing_from_its_service() -> None:
    old, new = served("10.1.0.1", "10.1.0.2"), served("10.1.0.2")
    traffic = serving(old)
    traffic.count([flow("10.1.0.1", 5), flow("10.1.0.2", 2)])
    traffic.follow(snapshot(new), Delta(2, changed=((old, new),)))
    assert services(traffic) == {WEB: (7, 0, 0)}
    assert endpoints(traffic) == {("web", "10.1.0.2:8080"): 2}


def test_an_end_that_comes_after_its_endpoint_went_is_its_services() -> None:
    traffic = serving(served("10.1.0.2"))
    traffic.count([flow("10.1.0.1", 0, bytes_in=10)])
    assert services(traffic) == {WEB: (0, 10, 0)}
    assert not endpoints(traffic)


def test_a_deleted_service_ends_its_series_and_its_namesake_begins_anew() -> None:
    port = served("10.1.0.1")
    traffic = serving(port)
    traffic.count([flow("10.1.0.1", 5)])
    traffic.follow(snapshot(), Delta(2, removed=(port,)))
    assert not services(traffic)
    traffic.follow(snapshot(port), Delta(3, added=(port,)))
    traffic.count([flow("10.1.0.1")])
    assert services(traffic) == {WEB: (1, 0, 0)}


def test_a_service_that_loses_one_family_keeps_its_total() -> None:
    four, six = served("10.1.0.1"), served("fd00::1", vip="fd00:10::5", family=6)
    traffic = serving(four, six)
    traffic.count([flow("10.1.0.1"), flow("fd00::1", to="fd00:10::5")])
    traffic.follow(snapshot(four), Delta(2, removed=(six,)))
    assert services(traffic) == {WEB: (2, 0, 0)}
    assert endpoints(traffic) == {("web", "10.1.0.1:8080"): 1}


def test_a_node_port_is_known_on_any_address_by_where_it_leads() -> None:
    traffic = serving(served("10.1.0.1", node_port=30080))
    traffic.count([flow("10.1.0.1", 1, "192.0.2.1", 30080), flow("10.9.9.9", 1, "203.0.113.1", 30080)])
    assert services(traffic) == {WEB: (1, 0, 0)}


def test_services_past_the_limit_are_counted_together() -> None:
    ports = [served("10.1.0.1", name=f"s{i}", vip=f"10.0.0.{i}") for i in range(1, 5)]
    traffic = serving(*ports, most=2)
    traffic.count(flow("10.1.0.1", i, to=f"10.0.0.{i}") for i in range(1, 5))
    assert {mine.service: counts[0] for mine, counts in services(traffic).items()} == {"s1": 1, "s2": 2, "other": 7}
    assert endpoints(traffic)[OTHER.service, OTHER_ENDPOINT] == 7


def test_endpoints_past_the_limit_are_counted_together_and_their_service_by_itself() -> None:
    traffic = serving(served("10.1.0.1", "10.1.0.2"), most=1)
    traffic.count([flow("10.1.0.1", 1), flow("10.1.0.2", 2)])
    assert services(traffic) == {WEB: (3, 0, 0)}
    assert endpoints(traffic) == {("web", "10.1.0.1:8080"): 1, (OTHER.service, OTHER_ENDPOINT): 2}


def test_a_service_that_goes_makes_room() -> None:
    first, second = (served("10.1.0.1", name=f"s{i}", vip=f"10.0.0.{i}") for i in (1, 2))
    traffic = serving(first, second, most=1)
    traffic.count([flow("10.1.0.1", to="10.0.0.1")])
    traffic.follow(snapshot(second), Delta(2, removed=(first,)))
    traffic.count([flow("10.1.0.1", to="10.0.0.2")])
    assert endpoints(traffic) == {("s2", "10.1.0.1:8080"): 1}


WAY: Way = (2, packed(VIP), 6, 80, packed("10.1.0.1"), 8080)


def tallied(tally: FlowTally) -> tuple[int, int, int]:
    """(connections, bytes in, bytes out) since the last time, of the one way there is."""
    found = tally.take()
    assert len(found) <= 1
    return found[0][2:5] if found else (0, 0, 0)


def ended(bytes_in: int, name: int = 7) -> list[Event]:
    """A flow's end, or a look at it."""
    return [Event(WAY, True, bytes_in, 10 * bytes_in, name)]


def looked(*looks: Iterable[Event]) -> FlowTally:
    """A tally after a look that found nothing, and then these."""
    tally = FlowTally()
    tally.look([])
    for flows in looks:
        tally.look(flows)
    return tally


def test_a_flow_is_a_connection_when_it_begins_and_bytes_when_it_ends() -> None:
    tally = looked()
    tally.note([Event(WAY), Event(WAY)])
    assert tallied(tally) == (2, 0, 0)
    tally.note(ended(5))
    assert tallied(tally) == (0, 5, 50)
    assert tallied(tally) == (0, 0, 0)


def test_bytes_of_a_long_flow_are_counted_as_it_goes_and_once() -> None:
    tally = looked(ended(100))
    assert tallied(tally) == (0, 100, 1000)
    tally.look(ended(150))
    assert tallied(tally) == (0, 50, 500)
    tally.note(ended(175))
    assert tallied(tally) == (0, 25, 250)


def test_what_was_carried_before_the_first_look_is_another_daemons() -> None:
    tally = FlowTally()
    tally.look(ended(100))
    tally.note(ended(130))
    assert tallied(tally) == (0, 30, 300)


def test_an_end_that_is_still_on_its_way_when_the_flow_is_missed_counts_the_rest() -> None:
    tally = looked(ended(100), [])
    tally.note(ended(120))
    assert tallied(tally) == (0, 120, 1200)


def test_a_flow_without_an_end_is_forgotten_and_its_name_may_come_again() -> None:
    tally = looked(ended(100), [], [])
    tallied(tally)
    tally.note(ended(20))
    assert tallied(tally) == (0, 20, 200)
