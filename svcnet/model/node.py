"""Minions and namespaces: Node (core/v1; v1beta1 calls it Minion) and Namespace."""

import msgspec

from svcnet.model.meta import Key, Meta, pair_get


class Node(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="Node"):
    """A minion: a machine that runs svcnet-proxy."""

    meta: Meta
    pod_cidrs: tuple[str, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    """(type, address): InternalIP, ExternalIP, Hostname (v1beta1 hostIP becomes InternalIP)."""
    ready: bool | None = None
    unschedulable: bool = False

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("Node", "", self.meta.name)

    @property
    def zone(self) -> str:
        """Label topology.kubernetes.io/zone, "" when absent."""
        return pair_get(self.meta.labels, "topology.kubernetes.io/zone")


class Namespace(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="Namespace"):
    """A namespace that exists without records in it."""

    meta: Meta

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("Namespace", "", self.meta.name)
