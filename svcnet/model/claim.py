"""What a service holds that nobody else may: virtual IPs and node ports."""

from collections.abc import Iterator

import msgspec

from svcnet.model.meta import Key

Resource = str | int
"""What is claimed: an address (canonical text) or a node port (number, whatever the protocol)."""


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one service holds."""

    addresses: tuple[str, ...] = ()
    """Canonical text, primary family first."""
    node_ports: tuple[tuple[str, int, int], ...] = ()
    """(protocol, port, node port)."""
    health_check_node_port: int = 0

    def resources(self) -> Iterator[Resource]:
        """Yield everything that nobody else may hold."""
        yield from self.addresses
        for _, _, node_port in self.node_ports:
            yield node_port
        if self.health_check_node_port:
            yield self.health_check_node_port

    def without(self, resource: Resource) -> "Claim":
        """Return this claim less one resource."""
        health = self.health_check_node_port
        return Claim(
            tuple(a for a in self.addresses if a != resource),
            tuple(p for p in self.node_ports if p[2] != resource),
            0 if health == resource else health,
        )


NOTHING = Claim()


def claim_id(key: Key) -> str:
    """NAMESPACE/NAME: under this a service's claim is kept."""
    return f"{key.namespace}/{key.name}"


def claim_key(name: str) -> Key:
    """Return the key of the service of a claim id."""
    namespace, _, service = name.partition("/")
    return Key("Service", namespace, service)
