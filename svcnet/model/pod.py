"""Pod records (Kubernetes core/v1 Pod), as far as services and the lab need them."""

import msgspec

from svcnet.model.meta import Key, Meta, Pairs


class ContainerPort(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One entry of containers[].ports."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = ""


class Container(msgspec.Struct, frozen=True, omit_defaults=True):
    """One container of a pod."""

    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    env: Pairs = ()


class PodSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pod runs and where; also the template of a ReplicationController."""

    containers: tuple[Container, ...] = ()
    node: str = ""
    hostname: str = ""
    subdomain: str = ""
    host_network: bool = False


class Pod(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="Pod"):
    """A running thing with an address. `ips` are canonical text, primary first."""

    meta: Meta
    spec: PodSpec = PodSpec()
    phase: str = ""
    """Pending, Running, Succeeded, Failed, Unknown; "" when the record has no status."""
    ips: tuple[str, ...] = ()
    host_ip: str = ""
    ready: bool | None = None
    """The Ready condition; None when the record has none."""
    deletion: str = ""
    """deletionTimestamp: set means terminating."""
    reason: str = ""
    """status.reason: one word for why it is in this phase."""
    message: str = ""
    """status.message: the same as a sentence."""

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("Pod", self.meta.namespace, self.meta.name)

    @property
    def is_ready(self) -> bool:
        """Whether it serves: has an address, runs, and its Ready condition (if any) holds."""
        if not self.ips or self.deletion or self.phase not in ("", "Running"):
            return False
        return self.ready is not False
