"""Pod and ReplicationController of core/v1 → model.

Must not know: files, lines, other kinds.
"""

from collections.abc import Sequence
from sys import intern

from svcnet.codec import check
from svcnet.codec.wire import Condition, ObjectMeta, StringMap, Wire, metadata, ready_of, string_pairs, wire_name
from svcnet.model.controller import ReplicationController
from svcnet.model.meta import Pairs
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec

PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


class WireContainerPort(Wire, frozen=True, gc=False, rename=wire_name):
    """ContainerPort."""

    container_port: int | None = None
    name: str | None = None
    protocol: str | None = None
    host_port: int | None = None
    host_ip: str | None = None


class WireEnv(Wire, frozen=True, gc=False, rename=wire_name):
    """EnvVar; valueFrom needs an API server and is left out."""

    name: str | None = None
    value: str | None = None


class WireContainer(Wire, frozen=True, gc=False, rename=wire_name):
    """Container."""

    name: str | None = None
    image: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    ports: list[WireContainerPort] | None = None
    env: list[WireEnv] | None = None


class WirePodSpec(Wire, frozen=True, gc=False, rename=wire_name):
    """PodSpec."""

    containers: list[WireContainer] | None = None
    node_name: str | None = None
    hostname: str | None = None
    subdomain: str | None = None
    host_network: bool | None = None


class WirePodIP(Wire, frozen=True, gc=False, rename=wire_name):
    """PodIP."""

    ip: str | None = None


class WirePodStatus(Wire, frozen=True, gc=False, rename=wire_name):
    """PodStatus."""

    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    pod_ip: str | None = None
    pod_ips: list[WirePodIP] | None = None
    host_ip: str | None = None
    conditions: list[Condition] | None = None


class WirePod(Wire, frozen=True, gc=False, rename=wire_name):
    """Pod."""

    metadata: ObjectMeta | None = None
    spec: WirePodSpec | None = None
    status: WirePodStatus | None = None


class WireTemplate(Wire, frozen=True, gc=False, rename=wire_name):
    """PodTemplateSpec."""

    metadata: ObjectMeta | None = None
    spec: WirePodSpec | None = None


class WireControllerSpec(Wire, frozen=True, gc=False, rename=wire_name):
    """ReplicationControllerSpec."""

    replicas: int | None = None
    selector: StringMap | None = None
    template: WireTemplate | None = None


class WireController(Wire, frozen=True, gc=False, rename=wire_name):
    """ReplicationController."""

    metadata: ObjectMeta | None = None
    spec: WireControllerSpec | None = None


_NO_STATUS = WirePodStatus()
_NO_CONTROLLER = WireControllerSpec()


def build_pod(wire: WirePod) -> Pod:
    """Return the model's Pod. Errors: FieldError."""
    status = wire.status or _NO_STATUS
    return Pod(
        meta=metadata(wire.metadata, "Pod"),
        spec=pod_spec(wire.spec, "spec"),
        phase=check.one_of(status.phase, PHASES, "", "status", "phase"),
        ips=_pod_ips(status),
        host_ip=check.address(status.host_ip, "status", "hostIP") if status.host_ip else "",
        ready=ready_of(status.conditions),
        deletion=(wire.metadata and wire.metadata.deletion_timestamp) or "",
        reason=status.reason or "",
        message=status.message or "",
    )


def _pod_ips(status: WirePodStatus) -> tuple[str, ...]:
    many = [entry.ip for entry in status.pod_ips or ()]
    if not many:
        return (check.address(status.pod_ip, "status", "podIP"),) if status.pod_ip else ()
    found = tuple([check.address(ip, "status", "podIPs", i, "ip") for i, ip in enumerate(many)])
    if status.pod_ip and check.address(status.pod_ip, "status", "podIP") != found[0]:
        raise check.FieldError(
            f"got {check.quote(status.pod_ip)}, expected the first of podIPs, {check.quote(found[0])}",
            "status",
            "podIP",
        )
    return found


def pod_spec(wire: WirePodSpec | None, *path: str | int) -> PodSpec:
    """Return the model's PodSpec; `path` is where it stands in the record."""
    if wire is None:
        return PodSpec()
    return PodSpec(
        containers(wire.containers, *path, "containers"),
        intern(wire.node_name) if wire.node_name else "",
        check.optional_label(wire.hostname, "a host name", *path, "hostname"),
        check.optional_label(wire.subdomain, "a subdomain", *path, "subdomain"),
        bool(wire.host_network),
    )


def containers(wires: Sequence[WireContainer] | None, *path: str | int) -> tuple[Container, ...]:
    """Return the containers of a v1 pod or of a v1beta1 manifest: both spell them alike."""
    return tuple([_container(wire, *path, i) for i, wire in enumerate(wires or ())])


def _container(wire: WireContainer, *path: str | int) -> Container:
    return Container(
        check.label(wire.name, "a container name", *path, "name"),
        wire.image or "",
        tuple(wire.command or ()),
        tuple(wire.args or ()),
        tuple([_container_port(port, *path, "ports", i) for i, port in enumerate(wire.ports or ())]),
        _env(wire.env, *path, "env"),
    )


def _container_port(wire: WireContainerPort, *path: str | int) -> ContainerPort:
    return ContainerPort(
        check.port(wire.container_port, *path, "containerPort"),
        check.container_port_name(wire.name, *path, "name"),
        check.protocol(wire.protocol, *path, "protocol"),
        check.optional_port(wire.host_port, *path, "hostPort"),
        check.address(wire.host_ip, *path, "hostIP") if wire.host_ip else "",
    )


def _env(wires: Sequence[WireEnv] | None, *path: str | int) -> Pairs:
    found: dict[str, str | None] = {}
    for i, wire in enumerate(wires or ()):
        if not wire.name or "=" in wire.name or "\0" in wire.name:
            raise check.FieldError(
                f"got {check.show(wire.name)}, expected a variable's name without =", *path, i, "name"
            )
        found[wire.name] = wire.value
    return string_pairs(found)


def build_controller(wire: WireController) -> ReplicationController:
    """Return the model's ReplicationController. Errors: FieldError."""
    spec = wire.spec or _NO_CONTROLLER
    template = spec.template
    inner = template and template.metadata
    labels = string_pairs(inner.labels) if inner else ()
    return ReplicationController(
        meta=metadata(wire.metadata, "ReplicationController"),
        replicas=replicas(spec.replicas, "spec", "replicas"),
        # Kubernetes: an empty selector defaults to the template's labels.
        selector=string_pairs(spec.selector) or labels,
        template_labels=labels,
        template_annotations=string_pairs(inner.annotations) if inner else (),
        template_name=(inner and inner.name) or "",
        template=pod_spec(template.spec, "spec", "template", "spec") if template else PodSpec(),
    )


def replicas(value: int | None, *path: str | int) -> int:
    """Return how many pods are wanted; 1 when absent, as in Kubernetes."""
    if value is not None and value < 0:
        raise check.FieldError(f"got {value}, expected 0 or more", *path)
    return 1 if value is None else value
