"""Service of core/v1 (kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1) → model.

Must not know: files, lines, other kinds.
"""

from svcnet.codec import check
from svcnet.codec.wire import ObjectMeta, StringMap, Wire, metadata, string_pairs, wire_name
from svcnet.model.meta import pair_get
from svcnet.model.service import Ingress, Service, ServicePort

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
TRAFFIC_POLICIES = ("Cluster", "Local")
FAMILY_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
AFFINITIES = ("None", "ClientIP")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
DEFAULT_AFFINITY_SECONDS = 10800
MAX_AFFINITY_SECONDS = 86400
TOLERATES_NOT_READY = "service.alpha.kubernetes.io/tolerate-unready-endpoints"
"""What publishNotReadyAddresses was before it was a field; the DNS specification 1.1.0 (2.1) knows it by this name."""


class WirePort(Wire, frozen=True, gc=False, rename=wire_name):
    """ServicePort."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    target_port: int | str | None = None
    node_port: int | None = None
    app_protocol: str | None = None


class WireClientIP(Wire, frozen=True, gc=False, rename=wire_name):
    """ClientIPConfig."""

    timeout_seconds: int | None = None


class WireAffinity(Wire, frozen=True, gc=False, rename=wire_name):
    """SessionAffinityConfig."""

    client_ip: WireClientIP | None = None


class WireSpec(Wire, frozen=True, gc=False, rename=wire_name):
    """ServiceSpec."""

    ports: list[WirePort] | None = None
    selector: StringMap | None = None
    type: str | None = None
    cluster_ip: str | None = None
    cluster_ips: list[str] | None = None
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None
    external_ips: list[str] | None = None
    external_name: str | None = None
    external_traffic_policy: str | None = None
    internal_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    session_affinity: str | None = None
    session_affinity_config: WireAffinity | None = None
    publish_not_ready_addresses: bool | None = None
    load_balancer_ip: str | None = None
    load_balancer_class: str | None = None
    load_balancer_source_ranges: list[str] | None = None
    allocate_load_balancer_node_ports: bool | None = None
    traffic_distribution: str | None = None


class WireIngress(Wire, frozen=True, gc=False, rename=wire_name):
    """LoadBalancerIngress."""

    ip: str | None = None
    hostname: str | None = None
    ip_mode: str | None = None


class WireLoadBalancer(Wire, frozen=True, gc=False, rename=wire_name):
    """LoadBalancerStatus."""

    ingress: list[WireIngress] | None = None


class WireStatus(Wire, frozen=True, gc=False, rename=wire_name):
    """ServiceStatus."""

    load_balancer: WireLoadBalancer | None = None


class WireService(Wire, frozen=True, gc=False, rename=wire_name):
    """Service."""

    metadata: ObjectMeta | None = None
    spec: WireSpec | None = None
    status: WireStatus | None = None


_NO_SPEC = WireSpec()


def build(wire: WireService) -> Service:
    """Return the model's Service. Errors: FieldError."""
    meta, spec = metadata(wire.metadata, "Service"), wire.spec or _NO_SPEC
    kind = check.one_of(spec.type, TYPES, "ClusterIP", "spec", "type")
    addresses = cluster_ips(spec, kind)
    families = check.each(spec.ip_families, _family, "spec", "ipFamilies")
    _check_families(families, addresses)
    _check_required(spec, kind, addresses)
    return Service(
        meta=meta,
        ports=_ports(spec.ports),
        selector=string_pairs(spec.selector),
        type=kind,
        cluster_ips=addresses,
        ip_families=families,
        ip_family_policy=check.one_of(spec.ip_family_policy, FAMILY_POLICIES, "", "spec", "ipFamilyPolicy"),
        external_ips=check.each(spec.external_ips, check.address, "spec", "externalIPs"),
        external_name=spec.external_name or "",
        external_traffic_policy=check.one_of(
            spec.external_traffic_policy, TRAFFIC_POLICIES, "Cluster", "spec", "externalTrafficPolicy"
        ),
        internal_traffic_policy=check.one_of(
            spec.internal_traffic_policy, TRAFFIC_POLICIES, "Cluster", "spec", "internalTrafficPolicy"
        ),
        health_check_node_port=check.optional_port(spec.health_check_node_port, "spec", "healthCheckNodePort"),
        session_affinity=check.one_of(spec.session_affinity, AFFINITIES, "None", "spec", "sessionAffinity"),
        session_affinity_seconds=_affinity_seconds(spec.session_affinity_config),
        publish_not_ready_addresses=bool(spec.publish_not_ready_addresses)
        or pair_get(meta.annotations, TOLERATES_NOT_READY) == "true",
        load_balancer_ip=check.address(spec.load_balancer_ip, "spec", "loadBalancerIP")
        if spec.load_balancer_ip
        else "",
        load_balancer_class=spec.load_balancer_class or "",
        load_balancer_source_ranges=check.each(
            spec.load_balancer_source_ranges, check.cidr, "spec", "loadBalancerSourceRanges"
        ),
        allocate_load_balancer_node_ports=spec.allocate_load_balancer_node_ports is not False,
        traffic_distribution=check.one_of(spec.traffic_distribution, DISTRIBUTIONS, "", "spec", "trafficDistribution"),
        ingress=_ingress(wire.status),
    )


def _check_required(spec: WireSpec, kind: str, addresses: tuple[str, ...]) -> None:
    if kind == "ExternalName":
        name = (spec.external_name or "").removesuffix(".")
        check.subdomain(name, "a host name, since type is ExternalName", "spec", "externalName")
    if not spec.ports and kind != "ExternalName" and addresses != ("None",):
        raise check.missing("at least one port", "spec", "ports")


def cluster_ips(spec: WireSpec, kind: str) -> tuple[str, ...]:
    """Return clusterIPs, or clusterIP alone where the record predates the list; () for ExternalName."""
    if kind == "ExternalName":
        return ()
    many = [ip for ip in spec.cluster_ips or () if ip]
    if spec.cluster_ip and many and spec.cluster_ip != many[0]:
        raise check.FieldError(
            f"got {check.quote(spec.cluster_ip)}, expected the first of clusterIPs, {check.quote(many[0])}",
            "spec",
            "clusterIP",
        )
    if not many:
        if not spec.cluster_ip:
            return ()
        return ("None",) if spec.cluster_ip == "None" else (check.address(spec.cluster_ip, "spec", "clusterIP"),)
    if many == ["None"]:
        return ("None",)
    found = check.each(many, check.address, "spec", "clusterIPs")
    if len({check.family(ip) for ip in found}) < len(found):
        raise check.FieldError("two addresses of one family, expected at most one a family", "spec", "clusterIPs")
    return found


def _family(value: str | None, *path: str | int) -> str:
    if not value:
        raise check.missing("IPv4 or IPv6", *path)
    return check.one_of(value, check.FAMILIES, "", *path)


def _check_families(families: tuple[str, ...], addresses: tuple[str, ...]) -> None:
    if len(set(families)) < len(families):
        raise check.FieldError("one family twice, expected each at most once", "spec", "ipFamilies")
    if not families or addresses == ("None",):
        return
    for i, ip in enumerate(addresses):
        if i >= len(families) or families[i] != check.family(ip):
            raise check.FieldError(
                f"got {', '.join(families)}, expected the families of clusterIPs {', '.join(addresses)} in their order",
                "spec",
                "ipFamilies",
            )


def _ports(wires: list[WirePort] | None) -> tuple[ServicePort, ...]:
    if not wires:
        return ()
    if len(wires) == 1:
        return (_port(wires[0], 0),)
    found = tuple([_port(wire, i) for i, wire in enumerate(wires)])
    seen: set[object] = set()
    for i, entry in enumerate(found):
        if not entry.name:
            raise check.missing("a name, since the service has several ports", "spec", "ports", i, "name")
        if entry.name in seen:
            raise check.FieldError(
                f"got {check.quote(entry.name)} twice, expected another name", "spec", "ports", i, "name"
            )
        if (entry.protocol, entry.port) in seen:
            raise check.FieldError(
                f"got {entry.port} {entry.protocol} twice, expected each port once a protocol",
                "spec",
                "ports",
                i,
                "port",
            )
        seen |= {entry.name, (entry.protocol, entry.port)}
    return found


def _port(wire: WirePort, i: int) -> ServicePort:
    return ServicePort(
        check.port(wire.port, "spec", "ports", i, "port"),
        check.port_name(wire.name, "spec", "ports", i, "name"),
        check.protocol(wire.protocol, "spec", "ports", i, "protocol"),
        check.target_port(wire.target_port, "spec", "ports", i, "targetPort"),
        check.optional_port(wire.node_port, "spec", "ports", i, "nodePort"),
        wire.app_protocol or "",
    )


def _affinity_seconds(config: WireAffinity | None) -> int:
    if config is None or config.client_ip is None or config.client_ip.timeout_seconds is None:
        return DEFAULT_AFFINITY_SECONDS
    seconds = config.client_ip.timeout_seconds
    if not 0 <= seconds <= MAX_AFFINITY_SECONDS:
        # Kubernetes refuses 0; here it asks for affinity without an end, which users asked for (issue 122388).
        raise check.FieldError(
            f"got {seconds}, expected 1..{MAX_AFFINITY_SECONDS} seconds, or 0 for ever",
            "spec",
            "sessionAffinityConfig",
            "clientIP",
            "timeoutSeconds",
        )
    return seconds


def _ingress(status: WireStatus | None) -> tuple[Ingress, ...]:
    if status is None or status.load_balancer is None or not status.load_balancer.ingress:
        return ()
    path = ("status", "loadBalancer", "ingress")
    return tuple(
        [
            Ingress(
                check.address(wire.ip, *path, i, "ip") if wire.ip else "",
                wire.hostname or "",
                check.one_of(wire.ip_mode, ("VIP", "Proxy"), "VIP", *path, i, "ipMode"),
            )
            for i, wire in enumerate(status.load_balancer.ingress)
        ]
    )
