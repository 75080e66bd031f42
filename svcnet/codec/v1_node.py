"""Node and Namespace of core/v1 → model.

Must not know: files, lines, other kinds.
"""

from svcnet.codec import check
from svcnet.codec.wire import Condition, ObjectMeta, Wire, metadata, ready_of, wire_name
from svcnet.model.node import Namespace, Node

IP_ADDRESS_TYPES = ("InternalIP", "ExternalIP")
NAME_ADDRESS_TYPES = ("Hostname", "InternalDNS", "ExternalDNS")


class WireNodeSpec(Wire, frozen=True, gc=False, rename=wire_name):
    """NodeSpec."""

    pod_cidr: str | None = None
    pod_cidrs: list[str] | None = None
    unschedulable: bool | None = None


class WireNodeAddress(Wire, frozen=True, gc=False, rename=wire_name):
    """NodeAddress."""

    type: str | None = None
    address: str | None = None


class WireNodeStatus(Wire, frozen=True, gc=False, rename=wire_name):
    """NodeStatus."""

    addresses: list[WireNodeAddress] | None = None
    conditions: list[Condition] | None = None


class WireNode(Wire, frozen=True, gc=False, rename=wire_name):
    """Node."""

    metadata: ObjectMeta | None = None
    spec: WireNodeSpec | None = None
    status: WireNodeStatus | None = None


class WireNamespace(Wire, frozen=True, gc=False, rename=wire_name):
    """Namespace."""

    metadata: ObjectMeta | None = None


_NO_SPEC = WireNodeSpec()
_NO_STATUS = WireNodeStatus()


def build_node(wire: WireNode) -> Node:
    """Return the model's Node. Errors: FieldError."""
    meta = metadata(wire.metadata, "Node")
    spec, status = wire.spec or _NO_SPEC, wire.status or _NO_STATUS
    cidrs = check.each(spec.pod_cidrs, check.cidr, "spec", "podCIDRs")
    if not cidrs and spec.pod_cidr:
        cidrs = (check.cidr(spec.pod_cidr, "spec", "podCIDR"),)
    return Node(
        meta,
        cidrs,
        tuple([_address(entry, i) for i, entry in enumerate(status.addresses or ())]),
        ready_of(status.conditions),
        bool(spec.unschedulable),
    )


def _address(wire: WireNodeAddress, i: int) -> tuple[str, str]:
    path = ("status", "addresses", i)
    kind = check.one_of(wire.type, IP_ADDRESS_TYPES + NAME_ADDRESS_TYPES, "", *path, "type")
    if not kind:
        raise check.missing("InternalIP, ExternalIP or Hostname", *path, "type")
    if kind in IP_ADDRESS_TYPES:
        return kind, check.address(wire.address, *path, "address")
    return kind, check.subdomain(wire.address, "a host name", *path, "address")


def build_namespace(wire: WireNamespace) -> Namespace:
    """Return the model's Namespace. Errors: FieldError."""
    return Namespace(metadata(wire.metadata, "Namespace"))
