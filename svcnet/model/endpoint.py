"""Endpoint records: EndpointSlice (discovery.k8s.io/v1) and the older Endpoints (core/v1), in one shape."""

import msgspec

from svcnet.model.meta import Key, Meta


class EndpointPort(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One port of a slice; its name joins it to the service port of the same name."""

    port: int | None = None
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""


class SliceEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of EndpointSlice.endpoints. None conditions keep what the record left out."""

    addresses: tuple[str, ...]
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None
    hostname: str = ""
    node: str = ""
    zone: str = ""
    target: str = ""
    """targetRef as Kind/NAMESPACE/NAME, "" when absent."""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()


class EndpointSlice(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="EndpointSlice"):
    """Endpoints of one service, of one address type, that share their ports."""

    meta: Meta
    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("EndpointSlice", self.meta.namespace, self.meta.name)

    @property
    def service(self) -> str:
        """Name of the service, from the label kubernetes.io/service-name; "" is ignored by everyone."""
        return next((v for k, v in self.meta.labels if k == "kubernetes.io/service-name"), "")


class Subset(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of Endpoints.subsets: every address serves every port. Not-ready addresses have ready=False."""

    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="Endpoints"):
    """Endpoints of the service of the same name (core/v1, and v1beta1's list of HOST:PORT)."""

    meta: Meta
    subsets: tuple[Subset, ...] = ()

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("Endpoints", self.meta.namespace, self.meta.name)
