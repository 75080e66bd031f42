"""Active health checks: who is asked when, when an endpoint is out, and what that does to what is served."""

from collections.abc import Iterator
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from svcnet.endpoints import Networks
from svcnet.health import FIRST_SECONDS, LEAST_SECONDS, Schedule, check_of
from svcnet.model.check import Check, Probe
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.event import Delete, Put, Verdict
from svcnet.model.meta import Key, Meta, pairs
from svcnet.model.pod import Pod, PodSpec
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import PortKey
from svcnet.tracker import Tracker

WEB, API = Key("Service", "default", "web"), Key("Service", "default", "api")
A, B = "10.1.0.2", "10.1.0.3"
CHECK = Check(interval_seconds=2, rise=2, fall=3)
PROBE = Probe(A, 8080, CHECK)


def middle() -> Iterator[float]:
    return repeat(0.5)


def answered(schedule: Schedule, *whys: str) -> list[list[Verdict]]:
    """What each answer changes, of the one check that there is."""
    found = []
    for why in whys:
        now = schedule.next_at()
        assert now is not None
        (probe,) = schedule.due(now)
        found.append(schedule.told(probe, why, now, middle()))
    return found


def asking(check: Check = CHECK) -> Schedule:
    schedule = Schedule()
    assert schedule.follow(WEB, frozenset({Probe(A, 8080, check)}), 0.0, middle()) == []
    return schedule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp", Check()),
        ("off", None),
        ("", None),
        ("http:/ready?x=1", Check("/ready?x=1")),
        ("tcp,interval=5s,timeout=250ms,rise=1,fall=4", Check("", 5, 0.25, 1, 4)),
        ("script:pg-ready,timeout=9s", Check(timeout_seconds=9, script="pg-ready")),
        ("tcp,panic=50", Check()),
        ("http:/,send-proxy=v2", Check("/", introduction="v2")),
    ],
)
def test_an_annotation_says_what_is_asked(text: str, expected: Check | None) -> None:
    assert check_of(text) == expected


def test_the_first_check_decides_alone_and_comes_at_once() -> None:
    schedule = asking()
    at = schedule.next_at()
    assert at is not None
    assert at <= FIRST_SECONDS
    assert answered(schedule, "refused") == [[Verdict(WEB, A, 8080, "refused")]]
    assert schedule.failing == 1


def test_after_that_an_endpoint_goes_after_fall_failures_in_a_row_and_is_back_after_rise_passes() -> None:
    schedule = asking()
    out, back = [Verdict(WEB, A, 8080, "c")], [Verdict(WEB, A, 8080, "")]
    assert answered(schedule, "", "x", "x", "", "a", "b", "c") == [[], [], [], [], [], [], out]
    assert answered(schedule, "d", "", "e", "", "") == [[], [], [], [], back]
    assert schedule.failing == 0


def test_checks_keep_their_interval_give_or_take_a_tenth() -> None:
    schedule = asking()
    first = schedule.next_at()
    assert first is not None
    answered(schedule, "")
    assert schedule.next_at() == pytest.approx(first + 2)
    (probe,) = schedule.due(first + 2)
    schedule.told(probe, "", 10.0, repeat(0.0))
    assert schedule.next_at() == pytest.approx(11.8)


def test_no_record_makes_a_minion_ask_without_pause() -> None:
    schedule = asking(Check(interval_seconds=1e-6))
    answered(schedule, "")
    now = schedule.next_at()
    assert now is not None
    assert now >= LEAST_SECONDS * 0.9


def test_nobody_is_asked_again_while_an_answer_is_awaited() -> None:
    schedule = asking()
    assert schedule.due(1.0) == [PROBE]
    assert schedule.next_at() is None
    assert schedule.due(100.0) == []


def test_services_that_ask_the_same_share_the_answers() -> None:
    schedule = asking()
    answered(schedule, "refused")
    assert schedule.follow(API, frozenset({PROBE}), 5.0, middle()) == [Verdict(API, A, 8080, "refused")]
    assert len(schedule) == 1
    changes = answered(schedule, "", "")[-1]
    assert changes == [Verdict(API, A, 8080, ""), Verdict(WEB, A, 8080, "")]


def test_another_way_of_asking_begins_anew_and_takes_back_what_the_old_one_said() -> None:
    schedule = asking()
    answered(schedule, "refused")
    other = Probe(A, 8080, Check("/ready"))
    assert schedule.follow(WEB, frozenset({other}), 5.0, middle()) == [Verdict(WEB, A, 8080, "")]
    assert schedule.due(10.0) == [other]
    assert schedule.failing == 0


def test_an_answer_about_an_endpoint_that_went_and_came_back_meanwhile_says_nothing() -> None:
    schedule = asking()
    assert schedule.due(1.0) == [PROBE]
    schedule.follow(WEB, frozenset(), 2.0, middle())
    assert schedule.next_at() is None
    schedule.follow(WEB, frozenset({PROBE}), 3.0, middle())
    assert schedule.told(PROBE, "refused", 3.1, middle()) == []
    assert schedule.due(4.0) == [PROBE]
    assert schedule.due(9.0) == []


@given(st.lists(st.sampled_from(["", "x"]), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_what_is_said_is_what_the_last_answers_in_a_row_say(whys: list[str], rise: int, fall: int) -> None:
    schedule = asking(Check(rise=rise, fall=fall))
    said, expected, streak = "", "", 0
    for number, (why, verdicts) in enumerate(zip(whys, answered(schedule, *whys), strict=True)):
        streak = streak + 1 if why != expected else 0
        if streak and (not number or streak >= (fall if why else rise)):
            expected, streak = why, 0
        for verdict in verdicts:
            said = verdict.why
        assert said == expected


# --- what the tracker makes of it


def web(health: str = "tcp", **more: object) -> Service:
    meta = Meta("web", "default", annotations=pairs({"svcnet.dev/health": health} if health else {}))
    base = Service(meta, (ServicePort(80, target_port=8080),), pairs({"app": "web"}), cluster_ips=("10.0.0.5",))
    return structs.replace(base, **more)


def pod(name: str, ip: str, node: str = "", health: str = "") -> Pod:
    meta = Meta(name, "default", pairs({"app": "web"}), pairs({"svcnet.dev/health": health} if health else {}))
    return Pod(meta, PodSpec(node=node), phase="Running", ips=(ip,), ready=True)


def tracker(*records: Record) -> Tracker:
    found = Tracker(Networks([]), "m1")
    found.fold([Put(record, 1) for record in records])
    return found


def served(t: Tracker) -> list[str]:
    return [e.address for e in t.snapshot.ports[PortKey("default", "web", "TCP", 80, 4)].endpoints]


def probed(t: Tracker) -> list[tuple[str, str]]:
    return [(p.address, p.check.path) for port in t.ports_of(WEB) for p in port.probes]


def test_a_minion_checks_its_own_endpoints_and_those_of_nobody() -> None:
    t = tracker(web(), pod("a", A, "m1"), pod("b", B), pod("c", "10.1.0.4", "m2"))
    assert probed(t) == [(A, ""), (B, "")]


def test_a_pod_s_own_annotation_comes_before_its_service_s() -> None:
    t = tracker(web(), pod("a", A, health="http:/ready"), pod("b", B, health="off"))
    assert probed(t) == [(A, "/ready")]
    t.fold([Put(web(health=""), 2)])
    assert probed(t) == [(A, "/ready")]


def test_a_pod_s_annotation_counts_for_a_slice_that_names_it() -> None:
    entry = SliceEndpoint((A,), target="Pod/default/a")
    meta = Meta("web-1", "default", pairs({"kubernetes.io/service-name": "web"}))
    t = tracker(
        web(), pod("a", A, health="http:/x"), EndpointSlice(meta, endpoints=(entry,), ports=(EndpointPort(8080),))
    )
    assert probed(t) == [(A, "/x")]


def test_what_another_minion_says_of_its_own_endpoints_counts_and_of_others_does_not() -> None:
    t = tracker(web(), pod("a", A, "m2"), pod("b", B, "m3"), pod("c", "10.1.0.4", "m1"))
    t.fold([Verdict(WEB, address, 8080, "HTTP 503", "m2") for address in (A, B, "10.1.0.4")])
    assert served(t) == [B, "10.1.0.4"]
    assert t.left_out()[0].reason == "its health check fails: HTTP 503, says m2"
    t.fold([Verdict(WEB, "10.1.0.4", 8080, "HTTP 503", "m1")])  # our own words, from the store: we know better
    assert served(t) == [B, "10.1.0.4"]
    t.fold([Put(web(publish_not_ready_addresses=True), 2)])
    assert A in served(t)
    t.fold([Put(web(), 3), Verdict(WEB, A, 8080, "", "m2")])
    assert served(t) == [A, B, "10.1.0.4"]


def test_a_minion_tells_others_of_its_own_endpoints_alone() -> None:
    t = tracker(web(), pod("a", A, "m1"), pod("b", B))
    assert [(p.address, p.own) for port in t.ports_of(WEB) for p in port.probes] == [(A, True), (B, False)]


def test_only_tcp_is_asked_and_not_where_readiness_is_not_wanted() -> None:
    udp = structs.replace(web(), ports=(ServicePort(53, protocol="UDP", target_port=53),))
    assert probed(tracker(udp, pod("a", A))) == []
    assert probed(tracker(web(publish_not_ready_addresses=True), pod("a", A))) == []


def test_an_endpoint_that_fails_is_out_says_why_and_comes_back() -> None:
    t = tracker(web(), pod("a", A), pod("b", B))
    delta = t.fold([Verdict(WEB, A, 8080, "connection refused")])
    assert served(t) == [B]
    assert len(delta.changed) == 1
    assert (
        "endpoint 10.1.0.2:8080 of Service default/web",
        "its health check fails: connection refused",
    ) in t.left_out()
    assert probed(t) == [(A, ""), (B, "")]
    t.fold([Verdict(WEB, A, 8080, "")])
    assert served(t) == [A, B]
    assert t.left_out() == ()


def test_when_all_fail_nobody_is_served() -> None:
    t = tracker(web(), pod("a", A))
    t.fold([Verdict(WEB, A, 8080, "no answer in time")])
    assert served(t) == []


@pytest.mark.parametrize(
    ("panic", "failing", "left"),
    [
        ("", [A], [B]),
        ("panic=0", [A, B], []),
        ("panic=1", [A], [B]),
        ("panic=1", [A, B], [A, B]),
        ("panic=50", [A], [B]),
        ("panic=51", [A], [A, B]),
        ("interval=1s,panic=100", [A], [A, B]),
        ("panic=100", [], [A, B]),
    ],
)
def test_when_less_than_a_share_pass_all_are_used_if_that_is_asked_for(
    panic: str, failing: list[str], left: list[str]
) -> None:
    t = tracker(web(",".join(filter(None, ["tcp", panic]))), pod("a", A), pod("b", B))
    t.fold([Verdict(WEB, address, 8080, "refused") for address in failing])
    assert served(t) == left
    reasons = [item.reason for item in t.left_out()]
    assert len(reasons) == len(failing), "who fails is named in any case"
    assert all(("(panic)" in reason) is (len(left) == 2) for reason in reasons)


def test_a_panic_is_over_when_enough_pass_and_those_that_the_records_call_not_ready_stay_out() -> None:
    names = {name: f"10.1.0.{number}" for number, name in enumerate("abcd", 2)}
    t = tracker(web("tcp,panic=50"), *(pod(name, ip) for name, ip in names.items()))
    t.fold([Put(structs.replace(pod("d", names["d"]), ready=False), 2)])
    t.fold([Verdict(WEB, names[name], 8080, "refused") for name in "ab"])
    assert served(t) == [names[name] for name in "abc"], "one of three is less than half"
    t.fold([Verdict(WEB, names["a"], 8080, "")])
    assert served(t) == [names["a"], names["c"]]


@pytest.mark.parametrize(
    ("health", "send_proxy", "said"),
    [
        ("tcp", "v1", "v1"),
        ("http:/", "v2", "v2"),
        ("tcp", "off", ""),
        ("tcp,send-proxy=off", "v2", ""),
        ("tcp,send-proxy=v1", "", "v1"),
    ],
)
def test_a_check_says_first_what_the_proxy_says_first_unless_told_otherwise(
    health: str, send_proxy: str, said: str
) -> None:
    annotations = {"svcnet.dev/health": health} | ({"svcnet.dev/send-proxy": send_proxy} if send_proxy else {})
    t = tracker(structs.replace(web(), meta=Meta("web", "default", annotations=pairs(annotations))), pod("a", A))
    assert [probe.check.introduction for port in t.ports_of(WEB) for probe in port.probes] == [said]


def test_a_verdict_outlives_other_changes_but_not_the_endpoint_or_the_wish() -> None:
    t = tracker(web(), pod("a", A), pod("b", B))
    t.fold([Verdict(WEB, A, 8080, "x")])
    t.fold([Put(pod("c", "10.1.0.4"), 2)])
    assert served(t) == [B, "10.1.0.4"]
    t.fold([Delete(Key("Pod", "default", "a"), 3)])
    t.fold([Put(pod("a", A), 4)])
    assert A in served(t)
    t.fold([Verdict(WEB, A, 8080, "x")])
    t.fold([Put(web(health=""), 5)])
    assert A in served(t)
    t.fold([Verdict(WEB, A, 8080, "x")])  # on its way when the wish went
    assert A in served(t)
    t.fold([Put(web(), 6), Verdict(WEB, A, 8080, "x"), Delete(WEB, 7)])
    t.fold([Put(web(), 8)])
    assert A in served(t)
