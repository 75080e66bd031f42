"""Node ports, external and load-balancer addresses in userspace mode, as the machine's routes and sockets show them."""

import signal
from contextlib import ExitStack
from functools import partial

import pytest

from svcnet.lab import namespace
from tests.harness import client
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, VIP, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import until

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

OPTIONS = ("--mode=userspace", "--external-ips=198.51.100.64/26,2001:db8:2::/64")
EXTERNAL, OTHER, EXTERNAL6 = "198.51.100.80", "198.51.100.81", "2001:db8:2::80"
MINION, NODE_PORT = "192.0.2.1", 30080
POD, TALK_VIP, TALK_PORT = "192.0.2.130", "10.0.0.7", 30070
TCP = ("TCP",)


def web(*external: str, **spec: object) -> Written:
    return service("web", VIP, protocols=TCP, externalIPs=list(external), **spec)


def balanced(*ranges: str, **spec: object) -> Written:
    record = service("web", VIP, protocols=TCP, type="LoadBalancer", loadBalancerSourceRanges=list(ranges), **spec)
    return record | {"status": {"loadBalancer": {"ingress": [{"ip": EXTERNAL}]}}}


def talk(record: Written) -> tuple[Written, Written]:
    """The same service with port TALK_PORT alone, and its endpoint: nothing answers there but what a test opens."""
    record = {**record, "metadata": {**record["metadata"], "name": "talk"}}
    port = {"port": TALK_PORT, "protocol": "TCP", "name": "tcp"}
    record["spec"] = {**record["spec"], "clusterIP": TALK_VIP, "clusterIPs": [TALK_VIP], "ports": [port]}
    slice_ = endpoints("talk", B, protocols=TCP)
    return record, {**slice_, "ports": [{"port": TALK_PORT, "protocol": "TCP", "name": "tcp"}]}


def routes(minion: Minion) -> str:
    done = [minion.run("ip", family, "route", "show", "table", "local", "proto", "115") for family in ("-4", "-6")]
    return "".join(d.stdout for d in done)


def test_an_external_address_is_local_as_long_as_a_service_or_a_connection_needs_it(minion: Minion) -> None:
    minion.put(web(EXTERNAL), endpoints("web", A, protocols=TCP))
    daemon = minion.daemon(*OPTIONS).ready()
    assert minion.ask(EXTERNAL) == A
    assert minion.ask(EXTERNAL, port=81) == client.REFUSED
    assert EXTERNAL in routes(minion)
    plan = minion.svcnet("plan", *minion.options(), *OPTIONS)
    assert plan.stdout == "0 to create, 0 to update, 0 to delete\n", plan.stderr
    minion.put(*talk(web(EXTERNAL)))
    until(lambda: minion.ask(EXTERNAL, port=TALK_PORT) == client.RESET)  # the endpoint refuses so far
    with minion.call(EXTERNAL, B, TALK_PORT) as call:
        minion.put(web(OTHER), *talk(web(OTHER)))
        assert minion.reaches(OTHER, A)
        assert minion.ask(EXTERNAL) == client.REFUSED
        assert EXTERNAL in routes(minion)
        assert call.say("still") == "still"
    until(lambda: EXTERNAL not in routes(minion))
    minion.put(web(), *talk(web()))
    until(lambda: OTHER not in routes(minion))
    assert daemon.status()["left_out"] == []


def test_addresses_that_nobody_claims_any_more_go_with_the_next_start(minion: Minion) -> None:
    record = service("web", VIP, "fd00:10::5", protocols=TCP, ipFamilyPolicy="RequireDualStack")
    record["spec"]["externalIPs"] = [EXTERNAL, EXTERNAL6]
    minion.put(record, endpoints("web", A, protocols=TCP), endpoints("web", A6, protocols=TCP))
    minion.daemon(*OPTIONS).ready().stop()
    assert all(address in routes(minion) for address in (EXTERNAL, EXTERNAL6))
    record["spec"]["externalIPs"] = [EXTERNAL6]
    minion.put(record)
    minion.daemon(*OPTIONS).ready()
    assert EXTERNAL not in routes(minion)
    assert minion.ask(EXTERNAL6) == A6


def test_the_route_of_an_external_address_that_somebody_removed_comes_back(minion: Minion) -> None:
    minion.put(web(EXTERNAL), endpoints("web", A, protocols=TCP))
    minion.daemon(*OPTIONS).ready()
    minion.run("ip", "route", "del", "local", EXTERNAL, "dev", "lo", "table", "local")
    assert minion.reaches(EXTERNAL, A)


def test_an_external_address_that_is_the_machines_own_gets_no_route(minion: Minion) -> None:
    minion.run("ip", "addr", "add", f"{EXTERNAL}/32", "dev", "lo")
    minion.put(web(EXTERNAL), endpoints("web", A, protocols=TCP))
    minion.daemon(*OPTIONS).ready()
    assert minion.ask(EXTERNAL) == A
    assert EXTERNAL not in routes(minion)


def test_source_ranges_change_under_connections_that_go_on(minion: Minion) -> None:
    pod = minion.pod()
    minion.put(balanced(f"{POD}/32"), *talk(balanced(f"{POD}/32")), endpoints("web", A, protocols=TCP))
    minion.daemon(*OPTIONS).ready()
    assert minion.ask(EXTERNAL) == client.SILENCE
    assert namespace.inside(pod, lambda: client.ask(EXTERNAL)) == A
    with minion.call(EXTERNAL, B, TALK_PORT, pod) as call:
        minion.put(balanced("192.0.2.0/25"), *talk(balanced("192.0.2.0/25")))
        assert minion.reaches(EXTERNAL, A)
        assert namespace.inside(pod, lambda: client.ask(EXTERNAL)) == client.SILENCE
        assert call.say("still") == "still"
    minion.put(balanced())
    until(lambda: namespace.inside(pod, lambda: client.ask(EXTERNAL)) == A)


def test_ranges_beyond_what_a_filter_holds_let_in_nobody_and_are_named(minion: Minion) -> None:
    minion.put(balanced("192.0.2.0/24"), endpoints("web", A, protocols=TCP))
    daemon = minion.daemon(*OPTIONS).ready()
    assert minion.ask(EXTERNAL) == A
    minion.put(balanced("192.0.2.0/24", *(f"10.{n // 200}.{n % 200}.0/25" for n in range(1100))))
    until(lambda: minion.ask(EXTERNAL) == client.SILENCE)
    (left,) = daemon.status()["left_out"]
    assert left["what"] == f"{EXTERNAL} tcp/80 (default/web tcp/80)"
    assert "source ranges need" in left["reason"]
    assert minion.ask(VIP) == A
    minion.put(balanced("192.0.2.0/24"))
    assert minion.reaches(EXTERNAL, A)
    assert daemon.status()["left_out"] == []


@pytest.mark.parametrize("way", ["with a default route", "without"])
def test_the_minion_itself_has_the_short_way_whatever_its_source_address(minion: Minion, way: str) -> None:
    """Without a way to the address its client has the address itself as source."""
    if way == "without":
        minion.run("ip", "route", "del", "default")
    elsewhere = endpoints("web", A)
    elsewhere["endpoints"][0]["nodeName"] = "m2"
    policy = {"type": "NodePort", "externalTrafficPolicy": "Local", "externalIPs": [EXTERNAL]}
    minion.put(service("web", VIP, **policy), elsewhere)
    pod = minion.pod()
    minion.daemon(*OPTIONS).ready()
    for protocol in ("tcp", "udp"):
        assert minion.ask(EXTERNAL, protocol) == A
        asking = partial(client.ask, EXTERNAL, protocol, patience_seconds=client.BRIEF_SECONDS)
        assert namespace.inside(pod, asking) == client.SILENCE
    both = endpoints("web", A, B)
    both["endpoints"][0]["nodeName"], both["endpoints"][1]["nodeName"] = "m2", "m1"
    minion.put(both)
    for protocol in ("tcp", "udp"):
        assert minion.reaches(EXTERNAL, A, B, protocol=protocol)
        assert {namespace.inside(pod, partial(client.ask, EXTERNAL, protocol)) for _ in range(8)} == {B}


def test_node_ports_follow_the_addresses_of_the_machine(minion: Minion) -> None:
    record = service("web", VIP, protocols=TCP, type="NodePort")
    record["spec"]["ports"][0]["nodePort"] = NODE_PORT
    minion.put(record, endpoints("web", B, protocols=TCP))
    daemon = minion.daemon("--mode=userspace", "--nodeport-addresses=198.51.100.0/24").ready()
    assert minion.ask(MINION, port=NODE_PORT) == client.REFUSED
    minion.run("ip", "addr", "add", "198.51.100.3/32", "dev", "lo")
    until(lambda: minion.ask("198.51.100.3", port=NODE_PORT) == B)
    assert "198.51.100.3" not in routes(minion)
    minion.run("ip", "addr", "del", "198.51.100.3/32", "dev", "lo")
    until(lambda: minion.ask("198.51.100.3", port=NODE_PORT) != B)
    minion.put(service("other", "10.0.0.6", protocols=TCP), endpoints("other", C, protocols=TCP))
    assert minion.reaches("10.0.0.6", C)
    assert daemon.status()["left_out"] == []


@pytest.mark.parametrize(("old", "new"), [("nftables", "userspace"), ("userspace", "nftables")])
def test_a_reload_in_another_mode_cuts_nobody_at_an_external_address_or_a_node_port(
    minion: Minion, old: str, new: str
) -> None:
    pod = minion.pod()
    places = {
        "here": (EXTERNAL, A, ""),
        "there": (EXTERNAL, B, pod),
        "port": (MINION, C, ""),
        "ports": (MINION, A, pod),
    }
    minion.put(web(EXTERNAL), endpoints("web", A, B, protocols=TCP))
    for number, (name, (address, endpoint, _)) in enumerate(places.items()):
        minion.put(*talking(name, number, endpoint, address == MINION))
    config = minion.root / "svcnet.toml"
    config.write_text(f'mode = "{old}"\n')
    daemon = minion.daemon(f"--config={config}", OPTIONS[1]).ready()
    hammers = [minion.hammer(EXTERNAL, where) for where in ("", pod)]
    with ExitStack() as clients:
        calls = [
            clients.enter_context(minion.call(address, endpoint, TALK_PORT + number, where))
            for number, (address, endpoint, where) in enumerate(places.values())
        ]
        for hammer in hammers:
            clients.enter_context(hammer)
        until(lambda: all(hammer.answers > 20 for hammer in hammers))
        assert [call.say("before") for call in calls] == ["before"] * len(calls)
        config.write_text(f'mode = "{new}"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda: daemon.status()["mode"] == new)
        daemon.ready()
        asked = [hammer.answers for hammer in hammers]
        until(lambda: all(hammer.answers > before + 50 for hammer, before in zip(hammers, asked, strict=True)))
        assert [call.say("after") for call in calls] == ["after"] * len(calls)
    daemon.until(lambda: bool(routes(minion)) == (new == "userspace"))
    daemon.until(lambda: ("svcnet" in minion.ruleset()) == (new == "nftables"))
    assert minion.reaches(EXTERNAL, A, B)


def talking(name: str, number: int, endpoint: str, by_node_port: bool) -> tuple[Written, Written]:
    """A service of one port, the same at its endpoint, with an external address or a node port."""
    port = {"port": TALK_PORT + number, "protocol": "TCP", "name": "tcp"}
    record = service(name, f"10.0.0.{10 + number}", protocols=TCP)
    record["spec"]["ports"] = [{**port, "nodePort": TALK_PORT + number} if by_node_port else port]
    record["spec"] |= {"type": "NodePort"} if by_node_port else {"externalIPs": [EXTERNAL]}
    return record, {**endpoints(name, endpoint, protocols=TCP), "ports": [port]}
