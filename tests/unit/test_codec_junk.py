"""Junk is refused, never raised, and never takes long; what is big and good is read."""

import json
import random
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svcnet.codec.reader import Decoded, read

ERROR = re.compile(r"f:\d+: .+", re.DOTALL)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SAMPLES: list[Any] = [
    {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "a", "labels": {"x": "y"}, "annotations": {"svcnet.dev/ttl": "5"}},
        "spec": {"ports": [{"port": 80, "targetPort": "a"}], "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    },
    {
        "kind": "Service",
        "apiVersion": "v1beta1",
        "id": "a",
        "port": 80,
        "labels": {"a": "b"},
        "publicIPs": ["192.0.2.1"],
    },
    {
        "kind": "ReplicationController",
        "apiVersion": "v1beta1",
        "id": "a",
        "desiredState": {"podTemplate": {"desiredState": {"manifest": {"containers": [{"name": "c", "env": []}]}}}},
    },
    {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "a"},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "hints": {"forZones": [{"name": "z"}]}}
        ],
        "ports": [{"port": 80}],
    },
    {
        "kind": "List",
        "apiVersion": "v1",
        "items": [{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}}],
    },
]


def check(found: Decoded) -> None:
    for error in found.errors:
        assert ERROR.fullmatch(str(error))
    assert found.records or found.errors or found.warnings


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=200))
@example(b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":"\\ud800"}}')
@example(b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":1,"name":"a"}}')
@example(b'{"kind":"Pod","apiVersion":"v1","metadata":{"name":1},"metadata":null}')
@example(b'{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"},"spec":{"ports":[{"port":1e999}]}}')
@example(
    b'{"kind":"Service","apiVersion":"v1","metadata":{"name":"a"},"spec":{"ports":[{"port":' + b"9" * 5000 + b"}]}}"
)
@example(b"kind: Pod\napiVersion: v1\nmetadata: {name: " + b"9" * 5000 + b"}")
@example(b"a: 0x\n")
@example(b"a: 0b2\n")
@example(b"a: _\n")
@example(b"a: ._\n")
@example(b"<<: 1\n")
@example(b"<<: [1]\n")
@example(b"*a : b\n")
@example(b"&a a: *a\n")
@example(b"%YAML 3.0\n---\n")
@example(b"%TAG ! x\n--- !y z\n")
@example(b"\x85")
@example(b"\xc2\x85a: b\xe2\x80\xa8c: d")
@example(b'"\\ud800"')
@example(b"[")
@example(b"{}")
@example(b"{} {} []")
@example(b"{,}")
def test_random_bytes_never_raise(data: bytes) -> None:
    check(read(data, "f"))
    check(read(b"{" + data, "f"))
    check(read(b'{"kind": "List", "apiVersion": "v1", "items": [' + data + b"]}", "f", strict=True))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="{}[]:,-?&*!|>%@`#'\" \n\tab01.~<=", max_size=40))
def test_random_punctuation_never_raises(text: str) -> None:
    check(read(text.encode(), "f"))
    check(read(b"kind: Pod\n" + text.encode(), "f"))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value inside."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [found for key, inner in pairs for found in [(value, key), *places(inner)]]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_any_value_at_any_place_never_raises(sample: Any, data: st.DataObject) -> None:
    record = json.loads(json.dumps(sample))
    container, key = data.draw(st.sampled_from(places(record)))
    container[key] = data.draw(JSON)
    text = json.dumps(record, indent=data.draw(st.sampled_from([None, 1])))
    from_json, from_yaml = read(text.encode(), "f", strict=True), read(b"--- # YAML\n" + text.encode(), "f")
    check(from_json)
    check(from_yaml)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_a_file_cut_anywhere_gives_no_record(sample: Any, data: st.DataObject) -> None:
    text = json.dumps(sample).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    found = read(text[:cut], "f")
    assert found.records == ()
    assert found.errors != ()


MEGABYTES = 50
SIZE = MEGABYTES * 10**6
MILLION_RANDOM_BYTES = random.Random(1).randbytes(10**6)
JUNK = {
    # What it is: the beginning, and what is repeated to the full size.
    "random bytes": (b"", MILLION_RANDOM_BYTES),
    "random bytes after a brace": (b"{", MILLION_RANDOM_BYTES),
    "brackets": (b"", b"["),
    "objects in objects": (b"", b'{"a":'),
    "a string without an end": (b'{"a":"', b'\\"'),
    "dashes": (b"", b"- "),
    "flow lists in YAML": (b"a: ", b"["),
    "keys of keys in YAML": (b"", b"? "),
    "blanks": (b"", b" "),
    "zero bytes": (b"", b"\0"),
    "quotes": (b"", b'"'),
    "one word": (b"", b"a"),
}


@pytest.mark.parametrize(("start", "more"), JUNK.values(), ids=JUNK.keys())
def test_fifty_megabytes_of_junk_are_refused_in_one_error(start: bytes, more: bytes) -> None:
    found = read(start + more * (SIZE // len(more)), "f")
    assert found.records == ()
    assert len(found.errors) == 1
    assert len(str(found.errors[0])) < 300


@pytest.mark.parametrize("depth", [90, 400, 10_000])
def test_deep_nesting_is_read_or_refused(depth: int) -> None:
    inside = "[" * depth + "]" * depth
    text = f'{{"kind": "Namespace", "apiVersion": "v1", "metadata": {{"name": "a"}}, "x": {inside}}}'
    for data in (text.encode(), b"--- #\n" + text.encode()):
        found = read(data, "f")
        assert len(found.records) + len(found.errors) == 1
        assert all("nested too deep" in str(error) for error in found.errors)
    if depth == 90:
        assert found.records


def test_nesting_to_the_very_limit_is_read_or_refused() -> None:
    limit = sys.getrecursionlimit()
    outcomes = set()
    for depth in range(limit - 150, limit + 5):
        inside = "[" * depth + "]" * depth
        text = f'{{"x": {inside}, "kind": "Namespace", "apiVersion": "v1", "metadata": {{"name": "A"}}, "y": {inside}}}'
        (error,) = read(text.encode(), "f", strict=True).errors
        outcomes.add("deep" if "nested too deep" in str(error) else "name")
    assert outcomes == {"deep", "name"}


def test_alias_bombs_are_refused() -> None:
    lines = ["a: &a [1,1,1,1,1,1,1,1,1]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    found = read("\n".join(lines).encode(), "f")
    assert [str(error) for error in found.errors] == ["f:6: column 8: aliases that expand to more than 100000 values"]


def test_a_list_of_fifty_megabytes_loads() -> None:
    padding = "x" * 100_000
    items = ",\n".join(
        json.dumps(
            {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": f"n{i}", "annotations": {"note": padding}}}
        )
        for i in range(10 * MEGABYTES)
    )
    data = f'{{"kind": "List", "apiVersion": "v1", "items": [\n{items}\n]}}'.encode()
    found = read(data, "f")
    assert len(data) > SIZE
    assert found.errors == ()
    assert [(entry.record.meta.name, entry.line) for entry in found.records] == [
        (f"n{i}", i + 2) for i in range(10 * MEGABYTES)
    ]
