"""What the annotations of a Service mean to the userspace proxy."""

import json

import pytest

from svcnet.codec.annotations import RULES
from svcnet.model.level import Level
from svcnet.model.terms import USUAL, Eject, EndpointLimit, Locality, Terms
from svcnet.proxy.row import Backend, Choice, Reach, Rule, Service
from svcnet.terms import seconds, terms_of


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("250ms", 0.25), ("1h2m3s", 3723), ("1.5m", 90), ("20us", 2e-5), ("20µs", 2e-5)]
)
def test_durations_are_go_s(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "30", "s", "3 s", "-1s", "1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        seconds(text)


def asked(**annotations: str) -> Terms:
    return terms_of(tuple((f"svcnet.dev/{key.replace('_', '-')}", value) for key, value in annotations.items()))


def test_a_service_without_annotations_has_the_usual_terms() -> None:
    assert terms_of((("app", "tomcat"), ("example.org/hedge", "50ms"))) == USUAL


def test_each_annotation_is_one_term() -> None:
    assert asked(proxy="userspace", balance="leastconn") == Terms(userspace=True, balance="leastconn")
    assert asked(connect_timeouts="250ms,1s").connect_seconds == (0.25, 1)
    assert asked(idle_timeout="5m", half_closed_timeout="10s") == Terms(idle_seconds=300, half_closed_seconds=10)
    assert asked(drain="0s").drain_seconds == 0
    assert asked(max_connection_rate="50", udp_replies="2") == Terms(most_rate=50, udp_replies=2)
    assert asked(max_connections="100", send_proxy="v2") == Terms(most_connections=100, send_proxy="v2")
    assert asked(eject="failures=5,share=10") == Terms(eject=Eject(failures=5, share=10))
    assert asked(eject="base=1s,max=1m").eject == Eject(base_seconds=1, most_seconds=60)
    assert asked(max_connections_per_endpoint="7").endpoint_limit == EndpointLimit(7, 1000, 5.0)
    assert asked(max_connections_per_endpoint="7,timeout=1s,queue=0").endpoint_limit == EndpointLimit(7, 0, 1.0)
    assert asked(max_connections_per_endpoint="7,abort-on-close=on").endpoint_limit == EndpointLimit(
        7, abort_on_close=True
    )
    assert asked(max_connections_per_endpoint="7,abort-on-close=off").endpoint_limit == EndpointLimit(7)
    assert asked(hedge="50ms").hedge_seconds == 0.05
    assert asked(eject="off", hedge="off", send_proxy="off", locality="off") == Terms(eject=None)
    assert asked(locality="node").locality == Locality("node", 70)
    assert asked(locality="zone,share=100").locality == Locality("zone", 100)


def test_what_the_codec_would_refuse_counts_as_absent() -> None:
    assert asked(idle_timeout="soon", max_connections="10") == Terms(most_connections=10)


def test_only_the_proxy_takes_turns_and_counts_connections() -> None:
    needing = {
        name for name in ("random", "roundrobin", "leastconn", "source-hash") if asked(balance=name).needs_userspace
    }
    assert needing == {"roundrobin", "leastconn"}
    assert asked(proxy="userspace").needs_userspace
    assert asked(locality="zone").needs_userspace
    assert asked(send_proxy="off", accept_proxy="off") == USUAL


def test_every_annotation_of_a_service_that_is_the_proxy_s_has_a_term() -> None:
    values = {
        "proxy": "userspace",
        "balance": "leastconn",
        "connect-timeouts": "1s",
        "idle-timeout": "1s",
        "half-closed-timeout": "1s",
        "drain": "1s",
        "max-connections": "1",
        "max-connections-per-endpoint": "1",
        "send-proxy": "v1",
        "accept-proxy": "10.0.0.0/8",
        "eject": "off",
        "hedge": "1s",
        "slow-start": "1s",
        "locality": "zone",
        "max-connection-rate": "5",
        "udp-replies": "1",
    }
    others = {"ttl", "health"}  # of names, and of every mode
    assert {name for name, rule in RULES.items() if "Service" in rule.kinds} - others == set(values)
    for name, value in values.items():
        assert terms_of(((f"svcnet.dev/{name}", value),)) != USUAL


def test_terms_reach_the_workers_whole() -> None:
    terms = Terms("leastconn", (0.25, 0.5), 30, 5, 10, 100, "v2", Eject(5, 1, 60, 10), 0.05, userspace=True)._replace(
        accept_proxy=("10.0.0.0/8",), endpoint_limit=EndpointLimit(3, 2, 1.0), locality=Locality("node", 40)
    )
    levels = (Level((("10.1.0.5", 80),), 0.25),)
    for each in (terms, terms._replace(eject=None, endpoint_limit=None, locality=None), USUAL):
        service = Service("default/web", {Backend("10.1.0.5", 80): 1}, {}, Choice.TURN, 0, each, levels)
        told = json.loads(json.dumps(Rule(service, Reach.ALL).encoded()))
        assert Rule.decoded(told).service == service
