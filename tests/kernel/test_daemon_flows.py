"""UDP flows by every address of a service, when what they lead to goes: sockets that go on, in both kernel modes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from svcnet.lab import namespace
from tests.harness.client import BRIEF_SECONDS, Conversation
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("iptables")]

MINION, MINION6, NODE_PORT = "192.0.2.1", "fd00:99::1", 30080
EXTERNAL, EXTERNAL6, BALANCER, BALANCER6 = "198.51.100.1", "2001:db8:2::1", "198.51.100.2", "2001:db8:2::2"
NOBODYS = "198.51.100.99"
ALLOWED = "--external-ips=198.51.100.0/24,2001:db8:2::/64"
MODES = ("nftables", "iptables")
AT = {
    4: ((MINION, NODE_PORT), (EXTERNAL, 80), (BALANCER, 80)),
    6: ((MINION6, NODE_PORT), (EXTERNAL6, 80), (BALANCER6, 80)),
}


def reachable(node_port: int = NODE_PORT, *, external: bool = True, **spec: object) -> Written:
    """The service at every kind of address, by UDP."""
    record = service("web", VIP, VIP6, protocols=("UDP",), ipFamilyPolicy="RequireDualStack")
    record["spec"]["ports"][0]["nodePort"] = node_port
    record["spec"] |= {"type": "LoadBalancer", **spec}
    if external:
        record["spec"]["externalIPs"] = [EXTERNAL, EXTERNAL6]
        record["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCER}, {"ip": BALANCER6}]}}
    return record


def ends(*addresses: str) -> Written:
    return endpoints("web", *addresses, protocols=("UDP",))


def placed(node_of: dict[str, str], **conditions: dict[str, bool]) -> Written:
    """Endpoints on minions, some with conditions."""
    record = ends(*node_of)
    for entry, (address, node) in zip(record["endpoints"], node_of.items(), strict=True):
        entry |= {"nodeName": node, "conditions": conditions.get(address.replace(".", "_"), {"ready": True})}
    return record


@contextmanager
def conversations(minion: Minion) -> Iterator[dict[tuple[str, int], Conversation]]:
    """One at every address, from the minion itself."""
    with ExitStack() as stack:
        yield {
            at: stack.enter_context(minion.inside(lambda at=at: Conversation(*at)))  # type: ignore[misc] # mypy can't infer defaults
            for family in AT.values()
            for at in family
        }


def all_say(talks: dict[tuple[str, int], Conversation], four: str, six: str) -> bool:
    expected = {at: six if ":" in at[0] else four for at in talks}
    seen: dict[tuple[str, int], str] = {}

    def settled() -> bool:
        seen.update({at: talk.say() for at, talk in talks.items()})
        return seen == expected

    return until(settled, lambda: str(seen))


def all_are_left_alone(talks: dict[tuple[str, int], Conversation]) -> bool:
    return all(until(talk.is_left_alone, lambda at=at: str(at)) for at, talk in talks.items())  # type: ignore[misc] # as above


@pytest.mark.parametrize("mode", MODES)
def test_flows_by_every_address_move_when_what_they_lead_to_goes(minion: Minion, mode: str) -> None:
    minion.put(reachable(), ends(A), ends(A6), service("other", "10.0.0.6"), endpoints("other", C))
    minion.daemon(f"--mode={mode}", ALLOWED).ready()
    with conversations(minion) as talks, minion.conversation("10.0.0.6") as stays:
        assert stays.say() == C
        flow = minion.flow(stays)
        assert all_say(talks, A, A6)
        minion.put(ends(B), ends(B6))  # the endpoint is another
        assert all_say(talks, B, B6)
        minion.put(ends())  # scaled to 0, one family after the other
        minion.remove(ends(A6))
        assert all_say(talks, "refused", "refused")
        minion.put(ends(A), ends(A6))
        assert all_say(talks, A, A6)
        minion.put(reachable(NODE_PORT + 1))  # the node port is another: nobody listens on the old one
        by_node_port = {at: talk for at, talk in talks.items() if at[1] == NODE_PORT}
        assert all_say(by_node_port, "refused", "refused")
        others = {at: talk for at, talk in talks.items() if at[1] != NODE_PORT}
        assert all_say(others, A, A6)
        minion.put(reachable(external=False))  # the external addresses go, the node port comes back
        assert all_are_left_alone(others)
        assert all_say(by_node_port, A, A6)
        minion.remove(reachable())
        assert all_say(by_node_port, "refused", "refused")
        minion.put(reachable())  # and what was open before there is a service moves to it
        assert all_say(talks, A, A6)
        assert stays.say() == C
        assert minion.flow(stays) == flow


@pytest.mark.parametrize("how", ["endpoints", "scaled to 0", "deleted"])
def test_flows_by_every_address_follow_what_changed_while_no_daemon_ran(minion: Minion, how: str) -> None:
    minion.put(reachable(), ends(A), ends(A6), service("other", "10.0.0.6"), endpoints("other", C))
    minion.daemon(ALLOWED).ready().kill()
    rule = f"ip daddr {MINION} udp dport 53 dnat to {C}:8080"
    foreign = f"table ip shop {{ chain c {{ type nat hook output priority -100; {rule}; }}; }}"
    assert minion.run("nft", foreign).returncode == 0
    with ExitStack() as stack:
        talks = stack.enter_context(conversations(minion))
        assert all_say(talks, A, A6)
        places = (("10.0.0.6", 80), (C, 8080), (MINION, 53), (NOBODYS, 80))
        strangers = [stack.enter_context(minion.inside(lambda at=at: Conversation(*at))) for at in places]  # type: ignore[misc] # as above
        assert [talk.say() for talk in strangers[:3]] == [C, C, C]
        assert strangers[3].is_left_alone()
        flows = [minion.flow(talk) for talk in strangers]
        if how == "deleted":
            minion.remove(reachable())
        else:
            minion.put(*((ends(B), ends(B6)) if how == "endpoints" else (ends(),)))
            if how == "scaled to 0":
                minion.remove(ends(A6))
        minion.daemon(ALLOWED).caught_up()
        if how == "deleted":
            by_node_port = {at: talk for at, talk in talks.items() if at[1] == NODE_PORT}
            assert all_say(by_node_port, "refused", "refused")
            assert all_are_left_alone({at: talk for at, talk in talks.items() if at[1] != NODE_PORT})
        else:
            assert all_say(talks, *((B, B6) if how == "endpoints" else ("refused", "refused")))
        # Neither another service's, nor one without a service, nor one that somebody else's rules translate.
        assert [minion.flow(talk) for talk in strangers] == flows


def test_flows_of_a_service_of_another_proxy_are_left_alone(minion: Minion) -> None:
    rule = f"ip daddr {VIP} udp dport 80 dnat to {C}:8080"
    other = f"table ip other {{ chain c {{ type nat hook output priority -110; {rule}; }}; }}"
    assert minion.run("nft", other).returncode == 0
    record = reachable()
    record["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    minion.put(record, ends(A))
    with minion.conversation(VIP) as talk:
        assert talk.say() == C
        flow = minion.flow(talk)
        daemon = minion.daemon(ALLOWED).caught_up()
        minion.put(ends(B))
        daemon.caught_up()
        assert talk.say() == C
        assert minion.flow(talk) == flow
    assert minion.ask(VIP, "udp") == C


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_that_becomes_local_moves_the_flows_of_those_whom_it_keeps_out(minion: Minion, mode: str) -> None:
    minion.put(reachable(), placed({A: "m1", B: "m2"}))
    minion.daemon(f"--mode={mode}", ALLOWED).ready()
    pod = minion.pod()
    with ExitStack() as stack:

        def talk(where: str, at: tuple[str, int], by: str) -> Conversation:
            """A conversation that leads to one of the two."""
            while True:
                made = namespace.inside(where, lambda: Conversation(*at))
                stack.enter_context(made)
                if made.say() == by:
                    return made

        at = (MINION, NODE_PORT)
        here, away = talk(pod, at, A), talk(pod, at, B)
        own, inside = talk(minion.name, at, B), talk(minion.name, (VIP, 80), B)
        flows = [minion.flow(t) for t in (here, own, inside)]
        minion.put(reachable(externalTrafficPolicy="Local"))
        until(lambda: away.say() == A)
        assert [here.say(), own.say(), inside.say()] == [A, B, B]
        assert [minion.flow(t) for t in (here, own, inside)] == flows
        minion.put(reachable(externalTrafficPolicy="Local", internalTrafficPolicy="Local"))
        until(lambda: inside.say() == A)
        assert [here.say(), own.say()] == [A, B]
        assert [minion.flow(t) for t in (here, own)] == flows[:2]


def test_a_flow_goes_on_to_an_endpoint_that_ends_for_as_long_as_it_serves(minion: Minion) -> None:
    minion.put(reachable(), placed({A: "m1"}))
    minion.daemon(ALLOWED).ready()
    ending = {"ready": False, "serving": True, "terminating": True}
    with minion.conversation(VIP) as talk:
        assert talk.say() == A
        flow = minion.flow(talk)
        minion.put(placed({A: "m1", B: "m1"}, **{A.replace(".", "_"): ending}))
        assert minion.reaches(VIP, B, protocol="udp")
        assert talk.say() == A
        assert minion.flow(talk) == flow
        minion.put(placed({A: "m1", B: "m1"}, **{A.replace(".", "_"): ending | {"serving": False}}))
        until(lambda: talk.say() == B)


def test_flows_of_an_address_that_the_machine_gave_up_go(minion: Minion) -> None:
    minion.put(reachable(), ends(A))
    minion.daemon("--nodeport-addresses=203.0.113.0/24").ready()
    minion.run("ip", "addr", "add", "203.0.113.3/32", "dev", "lo")
    with namespace.inside(minion.pod(), lambda: Conversation("203.0.113.3", NODE_PORT)) as talk:
        until(lambda: talk.say() == A)
        minion.run("ip", "addr", "del", "203.0.113.3/32", "dev", "lo")
        until(talk.is_left_alone)


@pytest.mark.parametrize("mode", MODES)
def test_an_open_tcp_connection_outlives_its_endpoint_and_its_service(minion: Minion, mode: str) -> None:
    ports = [{"name": "talk", "port": 8081, "protocol": "TCP"}]
    talk, here = service("talk", VIP, ports=ports), endpoints("talk", A) | {"ports": ports}
    minion.put(talk, here)
    daemon = minion.daemon(f"--mode={mode}").ready()
    with minion.call(VIP, A, 8081) as call:
        assert call.say("first") == "first"
        minion.put(endpoints("talk") | {"ports": ports})
        until(lambda: minion.ask(VIP, port=8081, patience_seconds=BRIEF_SECONDS) == "refused")
        assert call.say("second") == "second"
        minion.remove(talk)
        until(lambda: minion.ask(VIP, port=8081, patience_seconds=BRIEF_SECONDS) == "silence")
        assert call.say("third") == "third"
    assert daemon.status()["last_error"] == ""
