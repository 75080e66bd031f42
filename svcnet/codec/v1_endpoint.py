"""EndpointSlice (discovery.k8s.io/v1) and Endpoints (core/v1) → model.

Slices are most of what a store holds: the loops below are the hot path of a daemon's start.
Must not know: files, lines, other kinds.
"""

from socket import AF_INET, inet_pton
from sys import intern

from svcnet.codec import check
from svcnet.codec.wire import ObjectMeta, Reference, Wire, metadata, wire_name
from svcnet.model.endpoint import EndpointPort, Endpoints, EndpointSlice, SliceEndpoint, Subset

ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")


class WireEndpointPort(Wire, frozen=True, gc=False, rename=wire_name):
    """EndpointPort."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class WireConditions(Wire, frozen=True, gc=False, rename=wire_name):
    """EndpointConditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class WireHint(Wire, frozen=True, gc=False, rename=wire_name):
    """ForZone and ForNode."""

    name: str | None = None


class WireHints(Wire, frozen=True, gc=False, rename=wire_name):
    """EndpointHints."""

    for_zones: list[WireHint] | None = None
    for_nodes: list[WireHint] | None = None


class WireEndpoint(Wire, frozen=True, gc=False, rename=wire_name):
    """Endpoint."""

    addresses: list[str] | None = None
    conditions: WireConditions | None = None
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: Reference | None = None
    hints: WireHints | None = None


class WireSlice(Wire, frozen=True, gc=False, rename=wire_name):
    """EndpointSlice."""

    metadata: ObjectMeta | None = None
    address_type: str | None = None
    endpoints: list[WireEndpoint] | None = None
    ports: list[WireEndpointPort] | None = None


class WireAddress(Wire, frozen=True, gc=False, rename=wire_name):
    """EndpointAddress."""

    ip: str | None = None
    hostname: str | None = None
    node_name: str | None = None
    target_ref: Reference | None = None


class WireSubset(Wire, frozen=True, gc=False, rename=wire_name):
    """EndpointSubset."""

    addresses: list[WireAddress] | None = None
    not_ready_addresses: list[WireAddress] | None = None
    ports: list[WireEndpointPort] | None = None


class WireEndpoints(Wire, frozen=True, gc=False, rename=wire_name):
    """Endpoints."""

    metadata: ObjectMeta | None = None
    subsets: list[WireSubset] | None = None


_NO_CONDITIONS = WireConditions()


def build_slice(wire: WireSlice) -> EndpointSlice:
    """Return the model's EndpointSlice. Errors: FieldError."""
    meta = metadata(wire.metadata, "EndpointSlice")
    kind = check.one_of(wire.address_type, ADDRESS_TYPES, "", "addressType")
    if not kind:
        raise check.missing(" or ".join(ADDRESS_TYPES), "addressType")
    return EndpointSlice(
        meta,
        kind,
        tuple([_endpoint(entry, i, kind) for i, entry in enumerate(wire.endpoints or ())]),
        _ports(wire.ports, "ports"),
    )


def _endpoint(wire: WireEndpoint, i: int, kind: str) -> SliceEndpoint:
    conditions, hints, target = wire.conditions or _NO_CONDITIONS, wire.hints, wire.target_ref
    return SliceEndpoint(
        _addresses(wire.addresses, i, kind),
        conditions.ready,
        conditions.serving,
        conditions.terminating,
        check.label(wire.hostname, "a host name", "endpoints", i, "hostname") if wire.hostname else "",
        intern(wire.node_name) if wire.node_name else "",
        intern(wire.zone) if wire.zone else "",
        target.text() if target else "",
        _names(hints.for_zones) if hints and hints.for_zones else (),
        _names(hints.for_nodes) if hints and hints.for_nodes else (),
    )


def _names(hints: list[WireHint]) -> tuple[str, ...]:
    return tuple([intern(hint.name) for hint in hints if hint.name])


def _addresses(values: list[str] | None, i: int, kind: str) -> tuple[str, ...]:
    if not values:
        # Kubernetes requires one; an endpoint without is ignored by everyone, and so it is here.
        return ()
    if kind == "IPv4" and len(values) == 1:
        try:
            inet_pton(AF_INET, values[0])
        except (OSError, ValueError, TypeError):
            pass
        else:
            return (values[0],)
    if kind == "FQDN":
        return tuple([check.subdomain(v, "a host name", "endpoints", i, "addresses", k) for k, v in enumerate(values)])
    found = check.each(values, check.address, "endpoints", i, "addresses")
    for k, ip in enumerate(found):
        if (":" in ip) is not (kind == "IPv6"):
            raise check.FieldError(
                f"got {check.quote(ip)}, expected {kind}, as addressType says", "endpoints", i, "addresses", k
            )
    return found


def _ports(wires: list[WireEndpointPort] | None, *path: str | int) -> tuple[EndpointPort, ...]:
    if not wires:
        return ()
    return tuple(
        [
            EndpointPort(
                # 0 is none too, as kube-proxy reads it: the rest of the slice counts.
                check.port(wire.port, *path, i, "port") if wire.port else None,
                check.port_name(wire.name, *path, i, "name"),
                check.protocol(wire.protocol, *path, i, "protocol"),
                wire.app_protocol or "",
            )
            for i, wire in enumerate(wires)
        ]
    )


def build_endpoints(wire: WireEndpoints) -> Endpoints:
    """Return the model's Endpoints. Errors: FieldError."""
    return Endpoints(
        metadata(wire.metadata, "Endpoints"),
        tuple([_subset(entry, "subsets", i) for i, entry in enumerate(wire.subsets or ())]),
    )


def _subset(wire: WireSubset, *path: str | int) -> Subset:
    ready = [_subset_endpoint(a, None, *path, "addresses", i) for i, a in enumerate(wire.addresses or ())]
    rest = [
        _subset_endpoint(a, False, *path, "notReadyAddresses", i) for i, a in enumerate(wire.not_ready_addresses or ())
    ]
    return Subset(tuple(ready + rest), _ports(wire.ports, *path, "ports"))


def _subset_endpoint(wire: WireAddress, ready: bool | None, *path: str | int) -> SliceEndpoint:
    return SliceEndpoint(
        (check.address(wire.ip, *path, "ip"),),
        ready,
        hostname=check.optional_label(wire.hostname, "a host name", *path, "hostname"),
        node=intern(wire.node_name) if wire.node_name else "",
        target=wire.target_ref.text() if wire.target_ref else "",
    )
