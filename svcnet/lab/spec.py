"""What a lab shall be: one frozen value, written to disk before anything is made.

Owns: names, defaults and their check. Must not know addresses, namespaces or processes.
"""

import re
from typing import Literal

import msgspec

from svcnet.model.errors import ConfigError
from svcnet.model.meta import Pairs

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
"""A lab's name: it becomes part of namespace names and a directory."""

LARGEST = 200
"""Most minions, and most pods a minion: each has one /24 of pod addresses."""

TOPOLOGIES = ("routed", "bridge")

STATUS_PORT = 10256
"""Where each proxy answers /readyz, on its minion's loopback."""

POD_PORT = 8080
"""Where each pod answers, HTTP and UDP."""


class LabSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A lab, before addresses. CIDRs are canonical text, IPv4 first, a second one for IPv6 after a comma."""

    name: str = "lab"
    minions: int = 3
    pods: int = 3
    """Pods of each minion."""
    topology: Literal["routed", "bridge"] = "routed"
    """routed: a veth and a /32 route a pod. bridge: cbr0 in each minion, hairpin ports."""
    labels: Pairs = (("name", "tomcatCluster"),)
    """On every Pod record; the default is what the 2014 service selects."""
    ipv6: bool = True
    """Also give every minion and pod an fd00: address."""
    node_cidr: str = "172.20.0.0/16,fd00:20::/64"
    cluster_cidr: str = "10.1.0.0/16,fd00:1::/48"
    service_cidr: str = "10.0.0.0/16"
    images: Pairs = ()
    """Image → command that stands in for it, besides those that the lab knows."""
    records: str = ""
    """URL of the record store (`dir:PATH`, …), "" for a store of the lab's own, deleted with it."""
    etcd_port: int = 0
    """Where the lab's own etcd is found on this machine's loopback; 0: the lab has none."""
    opener: str = ""
    """`module:function`, an Opener: how the keeper, a process of its own, opens the store; "" leaves records alone."""
    daemon: tuple[str, ...] | None = None
    """The program started in each minion, before its options; None starts none."""
    mode: str = ""
    """`--mode` of the daemon; "" leaves it to the daemon."""
    daemon_options: tuple[str, ...] = ()
    """Further options of the daemon, after ours, so that they win."""

    def checked(self) -> "LabSpec":
        """Return self, or raise ConfigError that names the field and what was expected."""
        if not NAME.match(self.name):
            raise ConfigError(f"--name: {self.name!r}, expected up to 32 lower-case letters, digits and inner dashes")
        if not 1 <= self.minions <= LARGEST:
            raise ConfigError(f"--minions: {self.minions}, expected 1 to {LARGEST}")
        if not 0 <= self.pods <= LARGEST:
            raise ConfigError(f"--pods: {self.pods}, expected 0 to {LARGEST}")
        if self.topology not in TOPOLOGIES:
            raise ConfigError(f"--topology: {self.topology!r}, expected {' or '.join(TOPOLOGIES)}")
        if self.etcd_port and self.records:
            raise ConfigError("--store etcd and --records: both are given, expected one")
        return self
