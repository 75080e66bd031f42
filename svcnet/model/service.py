"""Service records (Kubernetes core/v1 Service)."""

import msgspec

from svcnet.model.meta import Key, Meta, Pairs


class ServicePort(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of Service.spec.ports."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0
    """Number or name of the container's port; 0 means `port` (Kubernetes' default)."""
    node_port: int = 0
    app_protocol: str = ""


class Ingress(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of Service.status.loadBalancer.ingress."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = "VIP"


class Service(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="Service"):
    """A stable virtual IP (or name) for a changing set of endpoints. Addresses are canonical text."""

    meta: Meta
    ports: tuple[ServicePort, ...] = ()
    selector: Pairs = ()
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    """Virtual IPs, at most one a family, primary first; ("None",) is headless; () is not yet claimed."""
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""
    external_ips: tuple[str, ...] = ()
    external_name: str = ""
    external_traffic_policy: str = "Cluster"
    internal_traffic_policy: str = "Cluster"
    health_check_node_port: int = 0
    session_affinity: str = "None"
    session_affinity_seconds: int = 10800
    """sessionAffinityConfig.clientIP.timeoutSeconds."""
    publish_not_ready_addresses: bool = False
    load_balancer_ip: str = ""
    load_balancer_class: str = ""
    load_balancer_source_ranges: tuple[str, ...] = ()
    allocate_load_balancer_node_ports: bool = True
    traffic_distribution: str = ""
    ingress: tuple[Ingress, ...] = ()

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("Service", self.meta.namespace, self.meta.name)

    @property
    def headless(self) -> bool:
        """clusterIP "None": no virtual IP, DNS only."""
        return self.cluster_ips[:1] == ("None",)

    @property
    def served_ports(self) -> tuple[ServicePort, ...]:
        """Its ports; of a headless one without any, number 0: its endpoints have names, and no port (DNS only)."""
        return self.ports or ((ServicePort(0),) if self.headless else ())

    @property
    def wants_address(self) -> bool:
        """Whether a virtual IP belongs to it: neither headless nor an ExternalName."""
        return self.type != "ExternalName" and not self.headless
