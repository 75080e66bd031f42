"""What every record carries: its kind, its name, its labels.

Labels and annotations are sorted tuples of pairs: immutable, hashable, and a selector match is a subset test.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

Pairs = tuple[tuple[str, str], ...]
"""A string map as sorted (key, value) pairs."""

CLUSTER_SCOPED = frozenset({"Node", "Namespace"})
"""Kinds without a namespace (Kubernetes: cluster-scoped)."""


def pairs(mapping: Mapping[str, str] | None) -> Pairs:
    """Return a string map as sorted pairs."""
    return tuple(sorted(mapping.items())) if mapping else ()


def pair_get(items: Pairs, key: str, default: str = "") -> str:
    """Look one key up in sorted pairs (linear: such maps are short)."""
    for name, value in items:
        if name == key:
            return value
    return default


def matches(selector: Pairs, labels: Iterable[tuple[str, str]]) -> bool:
    """Whether every pair of `selector` is among `labels`; an empty selector matches nothing (Service.spec.selector)."""
    return bool(selector) and set(selector) <= set(labels)


class Key(NamedTuple):
    """Which record: kind, namespace ("" for cluster-scoped kinds), name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Kind namespace/name, as error messages and plans show it."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Meta(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Kubernetes ObjectMeta, as far as services need it."""

    name: str
    namespace: str = ""
    labels: Pairs = ()
    annotations: Pairs = ()
    uid: str = ""
    created: str = ""
    """creationTimestamp, RFC 3339, as it came."""
