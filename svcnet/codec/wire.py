"""What the wire forms of all records share.

Owns: the base of wire structs, ObjectMeta and string maps. Must not know: files, lines, which kinds there are.
Every field may be null or absent: Kubernetes' decoder takes both for the zero value. Unknown fields are ignored.
"""

from collections.abc import Mapping
from sys import intern

import msgspec

from svcnet.codec import check
from svcnet.model.meta import CLUSTER_SCOPED, Meta, Pairs

DEFAULT_NAMESPACE = "default"
_CAPITALS = {"ip": "IP", "ips": "IPs", "cidr": "CIDR", "cidrs": "CIDRs"}
LABEL_NAMED = {"Service": "a service name", "Namespace": "a namespace name"}
"""Kinds whose names must be DNS labels, since they become DNS names; others may be subdomains."""


def wire_name(field: str) -> str:
    """Return a field's name in JSON: cluster_ips is clusterIPs, ip_families is ipFamilies."""
    first, *rest = field.split("_")
    return first + "".join([_CAPITALS.get(word) or word.capitalize() for word in rest])


class Wire(msgspec.Struct, frozen=True, gc=False, rename=wire_name):
    """Base of wire structs. They live for one decode and hold no cycles, so the collector need not see them."""


StringMap = dict[str, str | None]


class ObjectMeta(Wire, frozen=True, gc=False, rename=wire_name):
    """metav1.ObjectMeta, as far as the model keeps it."""

    name: str | None = None
    namespace: str | None = None
    labels: StringMap | None = None
    annotations: StringMap | None = None
    uid: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


_NO_META = ObjectMeta()


class Reference(Wire, frozen=True, gc=False, rename=wire_name):
    """v1.ObjectReference."""

    kind: str | None = None
    namespace: str | None = None
    name: str | None = None

    def text(self) -> str:
        """Return Kind/NAMESPACE/NAME, as SliceEndpoint.target keeps it."""
        return f"{self.kind or ''}/{self.namespace or ''}/{self.name or ''}"


class Condition(Wire, frozen=True, gc=False, rename=wire_name):
    """PodCondition and NodeCondition."""

    type: str | None = None
    status: str | None = None


def ready_of(conditions: list[Condition] | None) -> bool | None:
    """Return the Ready condition: None when absent; "Unknown" counts as not ready, as endpoints controllers do."""
    for condition in conditions or ():
        if condition.type == "Ready":
            return condition.status == "True"
    return None


def string_pairs(mapping: Mapping[str, str | None] | None) -> Pairs:
    """Return a string map as sorted pairs; a null value is "" as in Go. Labels repeat endlessly: kept once."""
    if not mapping:
        return ()
    return tuple(sorted([(intern(key), intern(value) if value else "") for key, value in mapping.items()]))


def record_name(value: str | None, kind: str, *path: str | int) -> str:
    """Return the name of a record of this kind."""
    if (what := LABEL_NAMED.get(kind)) is not None:
        return check.label(value, what, *path)
    return check.subdomain(value, "a name", *path)


def record_namespace(value: str | None, kind: str, *path: str | int) -> str:
    """Return the namespace: `default` when absent, "" for kinds that have none."""
    if kind in CLUSTER_SCOPED:
        return ""
    return check.label(value, "a namespace", *path) if value else DEFAULT_NAMESPACE


def metadata(wire: ObjectMeta | None, kind: str) -> Meta:
    """Return the model's Meta from v1 metadata."""
    wire = wire or _NO_META
    return Meta(
        record_name(wire.name, kind, "metadata", "name"),
        record_namespace(wire.namespace, kind, "metadata", "namespace"),
        string_pairs(wire.labels),
        string_pairs(wire.annotations),
        wire.uid or "",
        wire.creation_timestamp or "",
    )
