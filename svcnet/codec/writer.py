"""Records → their v1 form (discovery.k8s.io/v1 for EndpointSlice), as dict, JSON or YAML.

Reading what is written here gives back every record that the reader gives. Fields at Kubernetes' default are left out.
Endpoints.subsets know only ready and not: an endpoint there with ready=True comes back with None, which means the same.
Must not know: files, v1beta1 (nothing is written in it).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from svcnet.codec.v1_service import DEFAULT_AFFINITY_SECONDS
from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import EndpointPort, Endpoints, EndpointSlice, SliceEndpoint, Subset
from svcnet.model.meta import Meta
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Container, Pod, PodSpec
from svcnet.model.record import Record
from svcnet.model.service import Ingress, Service, ServicePort

Fields = dict[str, Any]


def to_v1(record: Record) -> Fields:
    """Return the record as JSON-able values, `apiVersion` and `kind` first."""
    kind = record.key.kind
    version = "discovery.k8s.io/v1" if kind == "EndpointSlice" else "v1"
    fields: Fields = {"apiVersion": version, "kind": kind, "metadata": _meta(record.meta)}
    match record:
        case Service():
            fields.update(_service(record))
        case Pod():
            fields.update(_pod(record))
        case ReplicationController():
            fields["spec"] = _controller(record)
        case EndpointSlice():
            fields.update(_slice(record))
        case Endpoints():
            fields["subsets"] = [_subset(subset) for subset in record.subsets]
        case Node():
            fields.update(_node(record))
        case Namespace():
            pass
    return fields


def to_json(record: Record) -> bytes:
    """Return the record as indented JSON with a final newline; equal records give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(to_v1(record)), indent=2) + b"\n"


def to_yaml(record: Record) -> str:
    """Return the record as one YAML document, without the leading `---`."""
    import yaml  # noqa: PLC0415 - 15 ms that only `-o yaml` needs

    from svcnet.codec.yaml_text import plain  # noqa: PLC0415 - imports PyYAML

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # chosen at run time
        pass

    def string(dumper: Any, text: str) -> Any:
        # PyYAML leaves words bare that other readers take for numbers, such as 1e5.
        style = None if plain(text) is text else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, string)
    text: str = yaml.dump(to_v1(record), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _kept(**fields: Any) -> Fields:
    """Return the fields that say something: None, "", 0, False and empty collections are Kubernetes' zero values."""
    return {name: value for name, value in fields.items() if value}


def _meta(meta: Meta) -> Fields:
    return _kept(
        name=meta.name,
        namespace=meta.namespace,
        labels=dict(meta.labels),
        annotations=dict(meta.annotations),
        uid=meta.uid,
        creationTimestamp=meta.created,
    )


def _service(service: Service) -> Fields:
    affinity = None
    if service.session_affinity_seconds != DEFAULT_AFFINITY_SECONDS:
        affinity = {"clientIP": {"timeoutSeconds": service.session_affinity_seconds}}
    spec = _kept(
        type=service.type,
        clusterIP=service.cluster_ips[0] if service.cluster_ips else "",
        clusterIPs=list(service.cluster_ips),
        ipFamilies=list(service.ip_families),
        ipFamilyPolicy=service.ip_family_policy,
        ports=[_service_port(port) for port in service.ports],
        selector=dict(service.selector),
        externalIPs=list(service.external_ips),
        externalName=service.external_name,
        externalTrafficPolicy=_unless(service.external_traffic_policy, "Cluster"),
        internalTrafficPolicy=_unless(service.internal_traffic_policy, "Cluster"),
        healthCheckNodePort=service.health_check_node_port,
        sessionAffinity=_unless(service.session_affinity, "None"),
        sessionAffinityConfig=affinity,
        publishNotReadyAddresses=service.publish_not_ready_addresses,
        loadBalancerIP=service.load_balancer_ip,
        loadBalancerClass=service.load_balancer_class,
        loadBalancerSourceRanges=list(service.load_balancer_source_ranges),
        trafficDistribution=service.traffic_distribution,
    )
    if not service.allocate_load_balancer_node_ports:
        spec["allocateLoadBalancerNodePorts"] = False
    status = _kept(loadBalancer=_kept(ingress=[_ingress(entry) for entry in service.ingress]))
    return {"spec": spec, **_kept(status=status)}


def _unless(value: str, default: str) -> str:
    return "" if value == default else value


def _service_port(port: ServicePort) -> Fields:
    return _kept(
        name=port.name,
        protocol=port.protocol,
        port=port.port,
        targetPort=port.target_port,
        nodePort=port.node_port,
        appProtocol=port.app_protocol,
    )


def _ingress(entry: Ingress) -> Fields:
    return _kept(ip=entry.ip, hostname=entry.hostname, ipMode=_unless(entry.ip_mode, "VIP"))


def _pod(pod: Pod) -> Fields:
    metadata = _meta(pod.meta)
    if pod.deletion:
        metadata["deletionTimestamp"] = pod.deletion
    status = _kept(
        phase=pod.phase,
        reason=pod.reason,
        message=pod.message,
        hostIP=pod.host_ip,
        podIP=pod.ips[0] if pod.ips else "",
        podIPs=[{"ip": ip} for ip in pod.ips],
        conditions=_conditions(pod.ready),
    )
    return {"metadata": metadata, "spec": _pod_spec(pod.spec), **_kept(status=status)}


def _conditions(ready: bool | None) -> list[Fields]:
    return [] if ready is None else [{"type": "Ready", "status": "True" if ready else "False"}]


def _pod_spec(spec: PodSpec) -> Fields:
    return _kept(
        nodeName=spec.node,
        hostname=spec.hostname,
        subdomain=spec.subdomain,
        hostNetwork=spec.host_network,
        containers=[_container(container) for container in spec.containers],
    )


def _container(container: Container) -> Fields:
    return _kept(
        name=container.name,
        image=container.image,
        command=list(container.command),
        args=list(container.args),
        ports=[
            _kept(
                name=port.name,
                containerPort=port.container_port,
                hostPort=port.host_port,
                hostIP=port.host_ip,
                protocol=port.protocol,
            )
            for port in container.ports
        ],
        env=[{"name": name, "value": value} for name, value in container.env],
    )


def _controller(controller: ReplicationController) -> Fields:
    metadata = _kept(
        name=controller.template_name,
        labels=dict(controller.template_labels),
        annotations=dict(controller.template_annotations),
    )
    return {
        "replicas": controller.replicas,
        **_kept(selector=dict(controller.selector)),
        "template": {"metadata": metadata, "spec": _pod_spec(controller.template)},
    }


def _slice(record: EndpointSlice) -> Fields:
    return {
        "addressType": record.address_type,
        "endpoints": [_endpoint(entry) for entry in record.endpoints],
        "ports": _ports(record.ports),
    }


def _endpoint(entry: SliceEndpoint) -> Fields:
    states = {"ready": entry.ready, "serving": entry.serving, "terminating": entry.terminating}
    hints = _kept(
        forZones=[{"name": name} for name in entry.for_zones], forNodes=[{"name": name} for name in entry.for_nodes]
    )
    return {
        "addresses": list(entry.addresses),
        **_kept(
            conditions={name: state for name, state in states.items() if state is not None},
            hostname=entry.hostname,
            nodeName=entry.node,
            zone=entry.zone,
            targetRef=_reference(entry.target),
            hints=hints,
        ),
    }


def _reference(target: str) -> Fields:
    if not target:
        return {}
    kind, namespace, name = target.split("/", 2)
    return _kept(kind=kind, namespace=namespace, name=name)


def _ports(ports: Sequence[EndpointPort]) -> list[Fields]:
    return [
        {
            **_kept(name=port.name, port=port.port),
            "protocol": port.protocol,
            **_kept(appProtocol=port.app_protocol),
        }
        for port in ports
    ]


def _subset(subset: Subset) -> Fields:
    ready = [entry for entry in subset.endpoints if entry.ready is not False]
    rest = [entry for entry in subset.endpoints if entry.ready is False]
    return _kept(
        addresses=[_subset_address(entry) for entry in ready],
        notReadyAddresses=[_subset_address(entry) for entry in rest],
        ports=_ports(subset.ports),
    )


def _subset_address(entry: SliceEndpoint) -> Fields:
    return _kept(
        ip=entry.addresses[0], hostname=entry.hostname, nodeName=entry.node, targetRef=_reference(entry.target)
    )


def _node(node: Node) -> Fields:
    spec = _kept(
        podCIDR=node.pod_cidrs[0] if node.pod_cidrs else "",
        podCIDRs=list(node.pod_cidrs),
        unschedulable=node.unschedulable,
    )
    status = _kept(
        addresses=[{"type": kind, "address": address} for kind, address in node.addresses],
        conditions=_conditions(node.ready),
    )
    return _kept(spec=spec, status=status)
