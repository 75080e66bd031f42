"""/metrics tells connections and bytes by service and endpoint: known numbers of both, through the kernel."""

import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from svcnet.iptables import flow_events
from svcnet.lab import namespace
from tests.harness.client import LONG_SECONDS
from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, Minion

pytestmark = pytest.mark.kernel

MODES = [pytest.param("nftables", marks=()), pytest.param("iptables", marks=pytest.mark.needs("iptables"))]
WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")
IP_AND_UDP = 28
"""Bytes of both headers, IPv4."""

Sums = dict[tuple[str, ...], float]


def sums(daemon: Daemon, name: str, *labels: str) -> Sums:
    """The values of one metric, by these labels."""
    families = parse(daemon.get("/metrics")[1])
    rows = (sample for family in families for sample in family.samples if sample.name == f"svcnet_{name}_total")
    return {tuple(row.labels[label] for label in labels): row.value for row in rows}


def counting(minion: Minion, mode: str, *, with_bytes: bool = False, options: tuple[str, ...] = ()) -> Daemon:
    """A daemon that counts already."""
    namespace.write_settings(minion.name, [("net/netfilter/nf_conntrack_acct", str(int(with_bytes)))])
    daemon = minion.daemon(f"--mode={mode}", *options).caught_up()
    daemon.until(lambda: daemon.status()["parts"]["traffic"].startswith("running"))
    return daemon


def send(minion: Minion, address: str, count: int, size: int) -> int:
    """That many datagrams of one flow, each answered; return the size of an answer."""

    def talk() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(LONG_SECONDS)
            client.connect((address, 80))
            for _ in range(count):
                client.send(bytes(size))
                answer = len(client.recv(4096))
            return answer

    return minion.inside(talk)


@pytest.mark.parametrize("mode", MODES)
def test_every_connection_is_counted_for_its_service_and_endpoint(minion: Minion, mode: str) -> None:
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6, B6), service("alone", "10.0.0.6"))
    minion.put(endpoints("alone", B))
    daemon = counting(minion, mode)
    answers = [minion.ask(VIP) for _ in range(12)] + [minion.ask(VIP6) for _ in range(5)]
    for _ in range(3):
        assert minion.ask("10.0.0.6", "udp") == B
    assert minion.ask(A, port=8080) == A  # not through a service
    wanted = {("web", "tcp", "80"): 17.0, ("alone", "udp", "80"): 3.0}
    daemon.until(lambda: sums(daemon, "service_connections", "service", "protocol", "port") == wanted)
    ends = sums(daemon, "endpoint_connections", "service", "endpoint")
    assert ends.pop(("alone", f"{B}:8080")) == 3
    assert {end[1].rpartition(":")[0].strip("[]"): n for end, n in ends.items()} == {
        address: float(answers.count(address)) for address in set(answers)
    }
    assert not sums(daemon, "service_bytes", "service")
    assert "nf_conntrack_acct=1" in daemon.status()["parts"]["traffic"]


@pytest.mark.parametrize("mode", MODES)
def test_every_byte_is_counted_when_its_flow_ends(minion: Minion, mode: str) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = counting(minion, mode, with_bytes=True)
    answer = send(minion, VIP, 10, 100) + IP_AND_UDP
    assert minion.run("conntrack", "-D", "-p", "udp").returncode == 0
    wanted = {("web", "in"): 10.0 * (100 + IP_AND_UDP), ("web", "out"): 10.0 * answer}
    daemon.until(lambda: sums(daemon, "service_bytes", "service", "direction") == wanted)
    by_end = sums(daemon, "endpoint_bytes", "endpoint", "direction")
    assert by_end == {(f"{A}:8080", way): count for (_, way), count in wanted.items()}


def test_the_bytes_of_a_flow_that_lasts_are_counted_meanwhile_and_once(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = counting(minion, "nftables", with_bytes=True)
    count = 100
    send(minion, VIP, count, 1000)
    sent = {("in",): count * (1000.0 + IP_AND_UDP)}
    daemon.until(lambda: sent.items() <= sums(daemon, "service_bytes", "direction").items())
    assert minion.run("conntrack", "-D", "-p", "udp").returncode == 0
    send(minion, VIP, 1, 0)
    assert minion.run("conntrack", "-D", "-p", "udp").returncode == 0
    sent["in",] += IP_AND_UDP
    daemon.until(lambda: sent.items() <= sums(daemon, "service_bytes", "direction").items())


def test_an_endpoint_that_goes_leaves_its_service_its_total(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A, B))
    daemon = counting(minion, "nftables")
    for _ in range(8):
        minion.ask(VIP)
    daemon.until(lambda: sums(daemon, "service_connections", "service") == {("web",): 8.0})
    minion.put(endpoints("web", B))
    daemon.until(lambda: (f"{A}:8080",) not in sums(daemon, "endpoint_connections", "endpoint"))
    assert sums(daemon, "service_connections", "service") == {("web",): 8.0}
    assert sums(daemon, "traffic_events_lost") == {(): 0.0}


def test_services_past_the_limit_are_counted_together(minion: Minion) -> None:
    for i in range(1, 4):
        minion.put(service(f"s{i}", f"10.0.0.{i}"), endpoints(f"s{i}", A))
    daemon = counting(minion, "nftables", options=("--traffic-series=1",))
    for i in range(1, 4):
        assert minion.ask(f"10.0.0.{i}") == A
    wanted = {("default", "s1"): 1.0, ("", "other"): 2.0}
    daemon.until(lambda: sums(daemon, "service_connections", "namespace", "service") == wanted)


def test_none_is_counted_where_the_operator_wants_none(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon("--mode=nftables", "--traffic-series=0").caught_up()
    assert minion.ask(VIP) == A
    assert daemon.status()["parts"]["traffic"] == "off"
    assert "svcnet_service_" not in daemon.get("/metrics")[1]


def test_events_that_nobody_had_room_for_are_counted(minion: Minion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_events, "ROOM_BYTES", 1 << 14)
    minion.put(WEB, endpoints("web", A))
    minion.daemon("--mode=nftables", "--traffic-series=0").caught_up()
    count = 300
    with minion.inside(flow_events.FlowEvents) as events:
        for _ in range(count):
            minion.ask(VIP)
        seen, more = events.read(2 * count)
        assert not more
        assert 0 < len(seen) < count
        assert len(seen) + events.lost == count
        minion.ask(VIP)
        assert len(events.read(2)[0]) == 1


def test_flows_that_nobody_translated_reach_no_one(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A))
    minion.daemon("--mode=nftables", "--traffic-series=0").caught_up()
    with minion.inside(flow_events.FlowEvents) as events:
        assert minion.ask(A, port=8080) == A
        assert minion.ask(VIP) == A
        assert len(events.read(9)[0]) == 1
