"""Where everything is: a LabSpec worked out to names, namespaces and addresses. Pure.

Owns: the address plan. Must not know how links are made (wiring) or that namespaces are files (namespace).

Minion i is the i-th address of the node network and has the i-th /24 (/64) of the cluster networks; address 1 of
that is the pods' gateway, pod j has address j + 1. The switch is the last usable address of the node network.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import combinations
from typing import NamedTuple

from svcnet.lab.spec import LabSpec
from svcnet.model.errors import ConfigError

Network = IPv4Network | IPv6Network

SWITCH = "switch"


class Address(NamedTuple):
    """One address with the length of its network's prefix; `str()` is what a client connects to."""

    ip: IPv4Address | IPv6Address
    prefix: int

    def __str__(self) -> str:
        """The address alone."""
        return str(self.ip)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.ip.version

    @property
    def host_bits(self) -> int:
        """The prefix length of this address alone: 32 or 128."""
        return self.ip.max_prefixlen

    @property
    def interface(self) -> str:
        """ADDRESS/PREFIX, as an interface gets it."""
        return f"{self.ip}/{self.prefix}"


class LabPod(NamedTuple):
    """A pod: `addresses` IPv4 first; `port` is the name of its veth's end in the minion."""

    name: str
    namespace: str
    minion: str
    port: str
    addresses: tuple[Address, ...]


class LabMinion(NamedTuple):
    """A minion: its own addresses, its pods' networks and gateways (one a family, IPv4 first), its pods."""

    name: str
    namespace: str
    addresses: tuple[Address, ...]
    pod_networks: tuple[Network, ...]
    gateways: tuple[Address, ...]
    pods: tuple[LabPod, ...]


class Topology(NamedTuple):
    """The whole lab: the switch (its namespace and addresses) and the minions."""

    spec: LabSpec
    switch: str
    switch_addresses: tuple[Address, ...]
    minions: tuple[LabMinion, ...]
    cluster_networks: tuple[Network, ...]

    @property
    def pods(self) -> tuple[LabPod, ...]:
        """Every pod, by minion."""
        return tuple(pod for minion in self.minions for pod in minion.pods)

    @property
    def namespaces(self) -> dict[str, str]:
        """Name of each member (`switch`, `m1`, `m1p1`, …) → its namespace, in the order in which they are made."""
        members = {SWITCH: self.switch}
        for minion in self.minions:
            members[minion.name] = minion.namespace
        for pod in self.pods:
            members[pod.name] = pod.namespace
        return members


def namespace_of(lab: str, member: str) -> str:
    """Return the name of a member's network namespace."""
    return f"svcnet-{lab}-{member}"


def is_pod(member: str) -> bool:
    """Whether this is a pod's name."""
    return re.fullmatch(r"m\d+p\d+", member) is not None


def networks(text: str, option: str, ipv6: bool) -> tuple[Network, ...]:
    """Parse `CIDR[,CIDR6]`: IPv4 first, then IPv6 when wanted; ConfigError names the option and the bad part."""
    found: dict[int, Network] = {}
    for part in text.split(","):
        try:
            network = ip_network(part.strip())
        except ValueError as error:
            raise ConfigError(f"{option}: {part.strip()!r}: {error}, expected CIDR[,CIDR6]") from error
        if network.version in found:
            raise ConfigError(f"{option}: {text}: two of one family, expected CIDR[,CIDR6]")
        found[network.version] = network
    if 4 not in found:
        raise ConfigError(f"{option}: {text}: expected an IPv4 network first")
    return tuple(found[family] for family in ((4, 6) if ipv6 else (4,)) if family in found)


def plan(spec: LabSpec) -> Topology:
    """Work the addresses out. ConfigError for networks that are too small, overlap, or lack a family."""
    spec.checked()
    nodes = networks(spec.node_cidr, "node CIDR", spec.ipv6)
    clusters = networks(spec.cluster_cidr, "--cluster-cidr", spec.ipv6)
    if spec.ipv6 and len(nodes) + len(clusters) < 4:
        raise ConfigError("--cluster-cidr: expected CIDR,CIDR6, or --no-ipv6")
    _apart(
        {
            "node CIDR": nodes,
            "--cluster-cidr": clusters,
            "--service-cidr": networks(spec.service_cidr, "--service-cidr", True),
        }
    )
    minions = tuple(_minion(spec, nodes, clusters, index) for index in range(1, spec.minions + 1))
    for network in nodes:
        if network.num_addresses < spec.minions + 3:
            raise ConfigError(f"node CIDR: {network} is too small for {spec.minions} minions")
    last = tuple(Address(network[-2], network.prefixlen) for network in nodes)
    return Topology(spec, namespace_of(spec.name, SWITCH), last, minions, clusters)


def _apart(groups: dict[str, tuple[Network, ...]]) -> None:
    for (one, ours), (other, theirs) in combinations(groups.items(), 2):
        for mine in ours:
            for its in theirs:
                if mine.version == its.version and mine.overlaps(its):
                    raise ConfigError(f"{one} {mine} overlaps {other} {its}")


def _minion(spec: LabSpec, nodes: tuple[Network, ...], clusters: tuple[Network, ...], index: int) -> LabMinion:
    name = f"m{index}"
    shares = tuple(_share(network, index) for network in clusters)
    pods = tuple(
        LabPod(
            name=f"{name}p{j}",
            namespace=namespace_of(spec.name, f"{name}p{j}"),
            minion=name,
            port=f"p{j}",
            addresses=tuple(Address(share[j + 1], share.prefixlen) for share in shares),
        )
        for j in range(1, spec.pods + 1)
    )
    return LabMinion(
        name=name,
        namespace=namespace_of(spec.name, name),
        addresses=tuple(Address(network[index], network.prefixlen) for network in nodes),
        pod_networks=shares,
        gateways=tuple(Address(share[1], share.prefixlen) for share in shares),
        pods=pods,
    )


def _share(network: Network, index: int) -> Network:
    """Return the index-th /24 (IPv4) or /64 (IPv6) of a cluster network; the 0th stays free."""
    length = 24 if network.version == 4 else 64
    step = 1 << (network.max_prefixlen - length)
    if network.num_addresses < step * (index + 1):
        raise ConfigError(f"--cluster-cidr: {network} is too small: minion {index} needs the {index}. /{length} of it")
    return ip_network((int(network.network_address) + index * step, length))
