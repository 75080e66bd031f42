"""From a file in a directory to an answer through a virtual IP, by the real daemon in a real kernel."""

import json

import pytest

from tests.harness.files import endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.until import until

pytestmark = pytest.mark.kernel

WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")


def test_a_record_becomes_an_answer_over_tcp_and_udp_in_both_families(minion: Minion) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    daemon = minion.daemon().ready()
    for protocol in ("tcp", "udp"):
        assert minion.ask(VIP, protocol) == A
        assert minion.ask(VIP6, protocol) == A6
    assert minion.ask(VIP, port=81) == "refused"
    assert minion.ask("10.0.0.200") == "silence"

    # A changed file moves the next connection; more endpoints are all used; fewer too.
    minion.put(endpoints("web", B), endpoints("web", B6))
    for protocol in ("tcp", "udp"):
        assert minion.reaches(VIP, B, protocol=protocol)
        assert minion.reaches(VIP6, B6, protocol=protocol)
    minion.put(endpoints("web", A, B, C))
    assert minion.reaches(VIP, A, B, C)
    minion.put(endpoints("web", A, C))
    assert minion.reaches(VIP, A, C)
    minion.put(endpoints("web"))
    assert minion.reaches(VIP, "refused")
    assert minion.reaches(VIP, "refused", protocol="udp")

    minion.remove(WEB)
    assert minion.reaches(VIP, "silence")
    assert daemon.stop() == 0


def test_files_written_by_hand_get_virtual_ips_and_stay_as_they_are(minion: Minion) -> None:
    by_hand = minion.records / "mine.yaml"
    text = (
        "# mine, with a comment\n"
        "kind: Service\napiVersion: v1\nmetadata: {name: mine}\n"
        "spec: {ports: [{port: 80, name: tcp, protocol: TCP}], ipFamilyPolicy: PreferDualStack}\n"
        "---\nkind: Service\napiVersion: v1\nmetadata: {name: other}\nspec: {ports: [{port: 80}]}\n"
    )
    by_hand.write_text(text)
    minion.put(endpoints("mine", A), endpoints("mine", A6))
    minion.daemon().ready()
    listed = minion.svcnet("get", "services", "-o", "json", *minion.options()[:2])
    addresses = {s["metadata"]["name"]: s["spec"]["clusterIPs"] for s in json.loads(listed.stdout)["items"]}
    four, six = addresses["mine"]
    assert minion.ask(four) == A
    assert minion.ask(six) == A6
    assert minion.ask(addresses["other"][0]) == "refused"
    variables = minion.env / "default.env"
    until(lambda: variables.exists() and f"MINE_SERVICE_HOST={four}" in variables.read_text().replace('"', ""))

    # The address is the name's for as long as it lives, whatever else the file says of it.
    minion.put(endpoints("mine", B))
    assert minion.reaches(four, B)
    assert by_hand.read_text() == text


def test_a_udp_flow_moves_at_once_when_its_endpoint_goes_and_stays_where_it_stays(minion: Minion) -> None:
    other = service("other", "10.0.0.6")
    minion.put(WEB, endpoints("web", A), endpoints("web", A6), other, endpoints("other", C))
    daemon = minion.daemon().ready()
    with minion.conversation(VIP) as four, minion.conversation(VIP6) as six, minion.conversation("10.0.0.6") as stays:
        assert (four.say(), six.say(), stays.say()) == (A, A6, C)
        flow = minion.flow(stays)
        minion.put(endpoints("web", B), endpoints("web", B6))
        until(lambda: four.say() == B)
        until(lambda: six.say() == B6)
        minion.put(endpoints("web"))
        until(lambda: four.say() == "refused")
        minion.put(endpoints("web", A))
        until(lambda: four.say() == A)
        minion.remove(WEB)
        until(four.is_left_alone)
        until(six.is_left_alone)
        minion.put(WEB)
        until(lambda: four.say() == A)

        # The neighbour's flow was never touched: it is the same entry of the connection table.
        assert stays.say() == C
        assert minion.flow(stays) == flow

    # A flow to an endpoint that stays goes on there while others come and go.
    with minion.conversation(VIP) as stays:
        assert stays.say() == A
        flow = minion.flow(stays)
        for others in ((B, C), (C,), (), (B,)):
            minion.put(endpoints("web", A, *others))
            assert minion.reaches(VIP, A, *others)
            assert stays.say() == A
        assert minion.flow(stays) == flow
    assert "svcnet_" in daemon.get("/metrics")[1]


@pytest.mark.parametrize("how", ["its endpoint", "all endpoints", "the service"])
def test_a_udp_flow_follows_what_changed_while_no_daemon_ran(minion: Minion, how: str) -> None:
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    minion.daemon().ready().kill()
    with minion.conversation(VIP) as four, minion.conversation(VIP6) as six:
        assert (four.say(), six.say()) == (A, A6)
        if how == "its endpoint":
            minion.put(endpoints("web", B), endpoints("web", B6))
        elif how == "all endpoints":
            minion.put(endpoints("web"))
            minion.remove(endpoints("web", A6))
        else:
            minion.remove(WEB)
        minion.daemon().ready()
        if how == "the service":
            assert four.is_left_alone()
            assert six.is_left_alone()
        else:
            expected = {"its endpoint": (B, B6), "all endpoints": ("refused",) * 2}[how]
            assert (four.say(), six.say()) == expected


def test_plan_counts_what_is_left_out_when_it_is_much(minion: Minion) -> None:
    web = service("web", VIP)
    web["spec"]["externalIPs"] = [f"203.0.113.{n}" for n in range(1, 201)]
    minion.put(web, endpoints("web", A))
    said = minion.svcnet("plan", *minion.options()).stderr.splitlines()
    assert said[0] == "left out: external IP 203.0.113.1 of Service default/web: not in --external-ips"
    assert len(said) == 21
    assert said[-1] == "left out: 180 more"


def test_plan_prints_what_a_start_would_do_and_does_nothing(minion: Minion) -> None:
    def planned() -> list[str]:
        done = minion.svcnet("plan", *minion.options())
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    minion.put(service("web", VIP), endpoints("web", A), service("old", "10.0.0.6"))
    empty = minion.ruleset()
    assert [line[0] for line in planned()[:-1]] == list("++++")
    assert planned()[-1] == "4 to create, 0 to update, 0 to delete"
    assert minion.ruleset() == empty

    minion.daemon().ready().stop()
    before = minion.ruleset()
    assert planned() == ["0 to create, 0 to update, 0 to delete"]
    minion.remove(service("old", "10.0.0.6"))
    minion.put(endpoints("web", B), service("new", "10.0.0.7", protocols=["TCP"]))
    lines = planned()
    assert lines[-1] == "1 to create, 2 to update, 2 to delete"
    assert sorted(line[0] for line in lines[:-1]) == sorted("+~~--")
    changed = next(line for line in lines if line.startswith(f"~ {VIP} tcp/80"))
    assert changed.index(A) < changed.index(B)
    assert minion.ruleset() == before

    # What it announced is what happens, and then nothing is left to do.
    minion.daemon().ready()
    assert minion.plan() == "0 to create, 0 to update, 0 to delete"
    assert minion.ask(VIP) == B


def test_status_wait_returns_when_all_that_was_written_is_applied(minion: Minion) -> None:
    minion.put(*(service(f"s{i}", f"10.0.1.{i}") for i in range(1, 100)), service("web", VIP), endpoints("web", A))
    absent = minion.svcnet("status")
    assert absent.returncode == 1
    assert "127.0.0.1:10256" in absent.stderr
    assert minion.svcnet("status", "--wait", "--timeout", "0.01").returncode == 4

    daemon = minion.daemon()
    done = minion.svcnet("status", "--wait", "--timeout", "300")
    assert (done.returncode, done.stderr) == (0, "")
    assert minion.ask(VIP) == A
    assert "in sync" in done.stdout
    assert "100 services" in done.stdout
    report = json.loads(minion.svcnet("status", "-o", "json").stdout)
    assert report["revision_applied"] == report["revision_seen"]
    assert (report["node"], report["mode"], report["services"]) == ("m1", "nftables", 100)
    assert daemon.get("/healthz")[0] == 200


def test_a_daemon_that_was_killed_before_it_cleaned_flows_leaves_that_to_the_next_start(minion: Minion) -> None:
    """The rules are as they should be already, so the plan of the next start is empty: it has to look at the flows."""
    minion.put(WEB, endpoints("web", A), endpoints("web", A6), service("other", "10.0.0.6"), endpoints("other", C))
    minion.daemon().ready().kill()
    with minion.conversation(VIP) as four, minion.conversation(VIP6) as six, minion.conversation("10.0.0.6") as stays:
        assert (four.say(), six.say(), stays.say()) == (A, A6, C)
        flow = minion.flow(stays)
        minion.put(endpoints("web", B))
        minion.remove(endpoints("web", A6))
        assert minion.program() == 0
        assert minion.plan() == "0 to create, 0 to update, 0 to delete"
        assert (four.say(), six.say(), stays.say()) == (A, A6, C)
        minion.daemon().ready()
        assert (four.say(), six.say(), stays.say()) == (B, "refused", C)
        assert minion.flow(stays) == flow
