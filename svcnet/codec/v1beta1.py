"""The 2014 form, v1beta1 (Kubernetes 0.5: pkg/api/v1beta1/types.go) → model.

Metadata stands at the top of a record, pods and controllers hold a manifest inside desiredState.
Must not know: files, lines.
"""

import re
from sys import intern

from svcnet.codec import check
from svcnet.codec.v1_pod import WireContainer, containers, replicas
from svcnet.codec.v1_service import AFFINITIES
from svcnet.codec.wire import StringMap, Wire, record_name, record_namespace, string_pairs, wire_name
from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import EndpointPort, Endpoints, SliceEndpoint, Subset
from svcnet.model.meta import Meta
from svcnet.model.node import Node
from svcnet.model.pod import Pod, PodSpec
from svcnet.model.service import Service, ServicePort

PHASES = {
    "Waiting": "Pending",
    "Running": "Running",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
    "Pending": "Pending",
    "Unknown": "Unknown",
    # 2014 records don't say how it ended; Kubernetes' own conversion takes the worse.
    "Terminated": "Failed",
}
_HOST_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})", re.ASCII).fullmatch


class Old(Wire, frozen=True, gc=False, rename=wire_name):
    """TypeMeta and labels, at the top of every v1beta1 record."""

    id: str | None = None
    namespace: str | None = None
    uid: str | None = None
    creation_timestamp: str | None = None
    labels: StringMap | None = None
    annotations: StringMap | None = None


class OldService(Old, frozen=True, gc=False, rename=wire_name):
    """Service."""

    port: int | None = None
    container_port: int | str | None = None
    protocol: str | None = None
    selector: StringMap | None = None
    portal_ip: str | None = None
    public_ips: list[str] | None = None
    session_affinity: str | None = None
    create_external_load_balancer: bool | None = None


class OldManifest(Wire, frozen=True, gc=False, rename=wire_name):
    """ContainerManifest."""

    version: str | None = None
    id: str | None = None
    containers: list[WireContainer] | None = None


class OldState(Wire, frozen=True, gc=False, rename=wire_name):
    """PodState."""

    manifest: OldManifest | None = None
    status: str | None = None
    host: str | None = None
    host_ip: str | None = None
    pod_ip: str | None = None


class OldPod(Old, frozen=True, gc=False, rename=wire_name):
    """Pod."""

    desired_state: OldState | None = None
    current_state: OldState | None = None


class OldTemplate(Wire, frozen=True, gc=False, rename=wire_name):
    """PodTemplate."""

    desired_state: OldState | None = None
    labels: StringMap | None = None
    annotations: StringMap | None = None


class OldControllerState(Wire, frozen=True, gc=False, rename=wire_name):
    """ReplicationControllerState."""

    replicas: int | None = None
    replica_selector: StringMap | None = None
    pod_template: OldTemplate | None = None


class OldController(Old, frozen=True, gc=False, rename=wire_name):
    """ReplicationController."""

    desired_state: OldControllerState | None = None


class OldEndpoints(Old, frozen=True, gc=False, rename=wire_name):
    """Endpoints."""

    endpoints: list[str] | None = None
    protocol: str | None = None


class OldMinion(Old, frozen=True, gc=False, rename=wire_name):
    """Minion. podCIDR is ours: 2014 had no field for it."""

    host_ip: str | None = None
    pod_cidr: str | None = None


_NO_STATE = OldState()
_NO_MANIFEST = OldManifest()
_NO_CONTROLLER = OldControllerState()


def _meta(wire: Old, kind: str) -> Meta:
    return Meta(
        record_name(wire.id, kind, "id"),
        record_namespace(wire.namespace, kind, "namespace"),
        string_pairs(wire.labels),
        string_pairs(wire.annotations),
        wire.uid or "",
        wire.creation_timestamp or "",
    )


def build_service(wire: OldService) -> Service:
    """Return the model's Service. Errors: FieldError."""
    meta = _meta(wire, "Service")
    addresses: tuple[str, ...] = ()
    if wire.portal_ip:
        addresses = ("None",) if wire.portal_ip == "None" else (check.address(wire.portal_ip, "portalIP"),)
    port = ServicePort(
        check.port(wire.port, "port"),
        protocol=check.protocol(wire.protocol, "protocol"),
        target_port=check.target_port(wire.container_port, "containerPort"),
    )
    return Service(
        meta=meta,
        ports=(port,),
        selector=string_pairs(wire.selector),
        type="LoadBalancer" if wire.create_external_load_balancer else "ClusterIP",
        cluster_ips=addresses,
        external_ips=check.each(wire.public_ips, check.address, "publicIPs"),
        session_affinity=check.one_of(wire.session_affinity, AFFINITIES, "None", "sessionAffinity"),
    )


def _manifest(state: OldState | None, *path: str | int) -> PodSpec:
    if state is None or state.manifest is None:
        return PodSpec()
    return PodSpec(containers(state.manifest.containers, *path, "manifest", "containers"))


def build_pod(wire: OldPod) -> Pod:
    """Return the model's Pod. Errors: FieldError."""
    meta = _meta(wire, "Pod")
    desired, current = wire.desired_state or _NO_STATE, wire.current_state or _NO_STATE
    node = current.host or desired.host or ""
    if current.status and current.status not in PHASES:
        raise check.FieldError(
            f"got {check.quote(current.status)}, expected {' or '.join(PHASES)}", "currentState", "status"
        )
    return Pod(
        meta=meta,
        spec=PodSpec(_manifest(desired, "desiredState").containers, intern(node)),
        phase=PHASES[current.status] if current.status else "",
        ips=(check.address(current.pod_ip, "currentState", "podIP"),) if current.pod_ip else (),
        host_ip=check.address(current.host_ip, "currentState", "hostIP") if current.host_ip else "",
    )


def build_controller(wire: OldController) -> ReplicationController:
    """Return the model's ReplicationController. Errors: FieldError."""
    state = wire.desired_state or _NO_CONTROLLER
    template = state.pod_template or OldTemplate()
    inner = template.desired_state or _NO_STATE
    labels = string_pairs(template.labels)
    return ReplicationController(
        meta=_meta(wire, "ReplicationController"),
        replicas=replicas(state.replicas, "desiredState", "replicas"),
        selector=string_pairs(state.replica_selector) or labels,
        template_labels=labels,
        template_annotations=string_pairs(template.annotations),
        template_name=(inner.manifest or _NO_MANIFEST).id or "",
        template=_manifest(inner, "desiredState", "podTemplate", "desiredState"),
    )


def build_endpoints(wire: OldEndpoints) -> Endpoints:
    """Return the model's Endpoints: one subset a port, in the order of first mention. Errors: FieldError."""
    meta = _meta(wire, "Endpoints")
    protocol = check.protocol(wire.protocol, "protocol")
    by_port: dict[int, list[SliceEndpoint]] = {}
    for i, text in enumerate(wire.endpoints or ()):
        found = _HOST_PORT(text)
        if found is None:
            raise check.FieldError(f"got {check.quote(text)}, expected ADDRESS:PORT", "endpoints", i)
        ip = check.address(found[1] or found[2], "endpoints", i)
        by_port.setdefault(check.port(int(found[3]), "endpoints", i), []).append(SliceEndpoint((ip,)))
    return Endpoints(
        meta,
        tuple([Subset(tuple(some), (EndpointPort(port, "", protocol),)) for port, some in by_port.items()]),
    )


def build_minion(wire: OldMinion) -> Node:
    """Return the model's Node. Errors: FieldError."""
    return Node(
        _meta(wire, "Node"),
        (check.cidr(wire.pod_cidr, "podCIDR"),) if wire.pod_cidr else (),
        (("InternalIP", check.address(wire.host_ip, "hostIP")),) if wire.host_ip else (),
    )
