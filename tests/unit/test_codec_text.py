"""Several records in one text: lists, documents, aliases; and what YAML's plain words mean."""

import pytest

from svcnet.codec.reader import read
from svcnet.model.record import Record
from svcnet.model.service import Service


def only(text: str) -> Record:
    found = read(text.encode(), "r")
    assert (found.errors, found.warnings) == ((), ())
    assert len(found.records) == 1
    return found.records[0].record


MANY_JSON = """
{"kind": "List", "apiVersion": "v1", "metadata": {"items": [1]}, "items": [
  {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "a"}},

  {"kind": "Service", "apiVersion": "v1beta1", "id": "s",
   "port": 80}, {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "c"}}
]}
{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "d"}}"""
MANY_YAML = """\
# first
---
kind: List
apiVersion: v1
items:
- kind: Namespace
  apiVersion: v1
  metadata: {name: a}
- kind: Service
  apiVersion: v1beta1
  id: s
  port: 80
- {kind: Namespace, apiVersion: v1, metadata: {name: c}}
---
---
kind: Namespace
apiVersion: v1
metadata: {name: d}
"""


@pytest.mark.parametrize(("text", "lines"), [(MANY_JSON, [3, 5, 6, 8]), (MANY_YAML, [6, 9, 13, 16])])
def test_lists_and_documents_in_order_with_their_lines(text: str, lines: list[int]) -> None:
    found = read(text.encode(), "many")
    assert found.errors == ()
    assert [entry.record.meta.name for entry in found.records] == ["a", "s", "c", "d"]
    assert [entry.line for entry in found.records] == lines


@pytest.mark.parametrize(
    ("kind", "version", "item"),
    [
        ("ServiceList", "v1beta1", '{"id": "x", "port": 80}'),
        ("MinionList", "v1beta1", '{"id": "x"}'),
        ("PodList", "v1", '{"metadata": {"name": "x"}}'),
        ("EndpointSliceList", "discovery.k8s.io/v1", '{"metadata": {"name": "x"}, "addressType": "IPv4"}'),
    ],
)
def test_entries_of_a_list_of_one_kind_need_not_repeat_it(kind: str, version: str, item: str) -> None:
    record = only(f'{{"kind": "{kind}", "apiVersion": "{version}", "items": [{item}]}}')
    assert record.meta.name == "x"


def test_byte_order_mark_and_non_ascii_are_read() -> None:
    text = '\ufeff{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": {"k": "é"}}}'
    assert only(text).meta.labels == (("k", "é"),)
    assert only("\ufeff# é\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n").meta.name == "a"


def test_yaml_aliases_and_merges() -> None:
    record = only("""
kind: Service
apiVersion: v1
metadata: {name: a, labels: &common {app: web, tier: front}}
spec: {selector: {<<: *common, tier: back}, ports: [{port: 80}]}
""")
    assert isinstance(record, Service)
    assert record.selector == (("app", "web"), ("tier", "back"))


def test_a_yaml_list_may_come_by_alias_or_merge() -> None:
    text = """
x: {y: {items: &entries [{kind: Namespace, apiVersion: v1, metadata: {name: a}}]}}
kind: List
apiVersion: v1
"""
    for more in ("items: *entries\n", "<<: {items: *entries}\n"):
        assert only(text + more).meta.name == "a"


def test_yaml_keys_are_strings_and_so_are_quoted_words() -> None:
    record = only("""
kind: Namespace
apiVersion: v1
metadata: {name: "12", labels: {on: "yes", 1: '2', date: 2014-07-25, ratio: 1:30, version: !!str 1.0, none: "null"}}
""")
    assert dict(record.meta.labels) == {
        "on": "yes",
        "1": "2",
        "date": "2014-07-25",
        "ratio": "1:30",
        "version": "1.0",
        "none": "null",
    }
