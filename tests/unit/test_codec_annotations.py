"""Annotations of our own are held against the contract's table."""

import json

import pytest

from svcnet.codec.annotations import RULES
from svcnet.codec.reader import Decoded, read

GOOD = {
    "proxy": ["userspace"],
    "balance": ["random", "roundrobin", "leastconn", "source-hash"],
    "weight": ["0", "1", "256"],
    "weights": ["10.1.0.5=3,10.1.0.6=0", "fd00::1=256"],
    "connect-timeouts": ["250ms,500ms,1s,2s", "1s"],
    "idle-timeout": ["30s", "1h30m", "1.5s"],
    "half-closed-timeout": ["30s"],
    "drain": ["0s", "10m"],
    "max-connections": ["1", "100000"],
    "max-connection-rate": ["1", "5000"],
    "udp-replies": ["1", "1000"],
    "max-connections-per-endpoint": ["1", "100,queue=1000,timeout=5s", "7,queue=0", "7,timeout=250ms"],
    "send-proxy": ["v1", "v2", "off"],
    "accept-proxy": ["off", "10.0.0.0/8", "192.0.2.1,2001:db8::/32"],
    "health": [
        "tcp",
        "off",
        "http:/",
        "http:/ready?x=1,interval=2s,timeout=1s,rise=2,fall=3",
        "tcp,fall=1",
        "script:pg-ready.sh,timeout=5s",
    ],
    "eject": ["off", "failures=3,base=5s,max=300s,share=50", "share=0"],
    "hedge": ["50ms", "off"],
    "slow-start": ["30s", "off"],
    "locality": ["node", "zone", "node,share=1", "zone,share=100", "off"],
    "ttl": ["0", "5", "3600"],
}
BAD = {
    "proxy": ["kernel", ""],
    "balance": ["rr", "Random"],
    "weight": ["-1", "257", "1.5", "", "٣"],
    "weights": ["", "10.1.0.5", "10.1.0.5=257", "10.1.0.05=1", "host=1", "10.1.0.5=1,"],
    "connect-timeouts": ["", "1", "1s,", "0s", "1s;2s"],
    "idle-timeout": ["0s", "30", "-1s", "for ever"],
    "half-closed-timeout": ["30 s"],
    "drain": ["x"],
    "max-connections": ["0", "many"],
    "max-connection-rate": ["0", "1.5", "10/s"],
    "udp-replies": ["0", "1001", ""],
    "max-connections-per-endpoint": [
        "",
        "0",
        "queue=1",
        "1,",
        "1,queue=-1",
        "1,timeout=0s",
        "1,queue=1,queue=2",
        "1,most=1",
    ],
    "send-proxy": ["v3"],
    "accept-proxy": ["", "10.0.0.1/8", "10.0.0.0/8,", "fe80::1%eth0", "everyone"],
    "health": [
        "",
        "http",
        "http:ready",
        "https:/x",
        "tcp,rise",
        "tcp,rise=0",
        "tcp,rise=1,rise=2",
        "tcp,speed=1s",
        "script:",
        "script:../sh",
        "script:/bin/sh",
        "script:.x",
        "script:a b",
        "script:sh:-c",
        "script:" + "x" * 65,
    ],
    "eject": ["", "on", "failures=0", "share=101", "base=5"],
    "hedge": ["0ms", "50"],
    "slow-start": ["0s", "30"],
    "locality": ["", "region", "zone,share=0", "node,share=101", "zone,share", "zone,share=1,share=2", "share=70"],
    "ttl": ["-1", "3601", "5s"],
}
CASES = [(name, kind, value) for name, rule in RULES.items() for kind in rule.kinds for value in GOOD[name]]
REFUSED = [(name, kind, value) for name, rule in RULES.items() for kind in rule.kinds for value in BAD[name]]


def annotated(kind: str, key: str, value: str) -> Decoded:
    record = {
        "kind": kind,
        "apiVersion": "discovery.k8s.io/v1" if kind == "EndpointSlice" else "v1",
        "metadata": {"name": "a", "annotations": {key: value}},
        "addressType": "IPv4",
        "spec": {"ports": [{"port": 80}]},
    }
    return read(json.dumps(record).encode(), "f")


@pytest.mark.parametrize(("name", "kind", "value"), CASES)
def test_values_that_the_contract_lists_are_accepted(name: str, kind: str, value: str) -> None:
    found = annotated(kind, f"svcnet.dev/{name}", value)
    assert (found.errors, found.warnings) == ((), ())
    assert found.records[0].record.meta.annotations == ((f"svcnet.dev/{name}", value),)


@pytest.mark.parametrize(("name", "kind", "value"), REFUSED)
def test_other_values_are_refused_with_key_and_expectation(name: str, kind: str, value: str) -> None:
    found = annotated(kind, f"svcnet.dev/{name}", value)
    assert found.records == ()
    expected = f'f:1: metadata.annotations[svcnet.dev/{name}]: got "{value}", expected {RULES[name].expected}'
    assert [str(error) for error in found.errors] == [expected]


def test_unknown_annotations_of_ours_are_warned_about() -> None:
    found = annotated("Service", "svcnet.dev/balnce", "random")
    assert len(found.records) == 1
    assert found.warnings == (
        'f:1: metadata.annotations: "svcnet.dev/balnce": unknown annotation, which has no effect',
    )


def test_annotations_on_a_kind_where_they_do_nothing_are_warned_about() -> None:
    found = annotated("Service", "svcnet.dev/weight", "1")
    assert found.warnings == (
        "f:1: metadata.annotations: svcnet.dev/weight: has no effect on Service, expected on Pod",
    )


def test_annotations_of_others_are_left_alone() -> None:
    found = annotated("Service", "example.org/weight", "heavy")
    assert (len(found.records), found.warnings) == (1, ())


def test_2014_services_and_templates_are_checked_at_their_own_place() -> None:
    service = '{"kind":"Service","apiVersion":"v1beta1","id":"a","port":80,\n"annotations":{"svcnet.dev/ttl":"x"}}'
    template = """
kind: ReplicationController
apiVersion: v1
metadata: {name: a}
spec:
  template:
    metadata:
      annotations:
        svcnet.dev/weight: "900"
"""
    assert [str(error) for error in read(service.encode(), "f").errors] == [
        'f:2: annotations[svcnet.dev/ttl]: got "x", expected seconds, 0..3600'
    ]
    assert [str(error) for error in read(template.encode(), "f").errors] == [
        'f:9: spec.template.metadata.annotations[svcnet.dev/weight]: got "900", expected a weight, 0..256'
    ]
