"""What was read of a machine, its daemon and the options in force. Values alone; who reads them is elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from svcnet.doctor.packet_filter import Network, Table

Address = IPv4Address | IPv6Address

KERNEL_MODES = frozenset({"nftables", "iptables"})
RULES, ROUTES = "rules", "routes"
"""What may be unread."""


class Link(NamedTuple):
    """An interface of this network namespace."""

    name: str
    kind: str = ""
    """`veth`, `bridge`, …; "" for hardware."""
    bridge: str = ""
    """That it is a port of."""
    hairpin: bool = False
    is_up: bool = True
    is_loopback: bool = False
    is_far: bool = False
    """Its other end is in another network namespace."""
    calls_netfilter: frozenset[int] = frozenset()
    """IP versions whose bridged packets a bridge shows to netfilter by an option of its own."""


class Home(NamedTuple):
    """An address of this machine."""

    address: Address
    interface: str
    is_global: bool = True


class Way(NamedTuple):
    """What the kernel answers when it is asked for the route to a virtual IP."""

    network: Network
    kind: str = "unicast"
    device: str = ""
    source: Address | None = None
    error: str = ""
    """Why there is none."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of it. What couldn't be read is missing, and named in `unread`."""

    mode: str
    """nftables, iptables, userspace or none."""
    service_cidr: tuple[Network, ...]
    cluster_cidr: tuple[Network, ...] = ()
    masquerade_all: bool = False
    dns_listen: tuple[str, ...] = ()
    """Addresses; () is off."""
    start: str = "svcnet-proxy"
    """The command that starts the daemon with the options in force."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Path below /proc/sys → value; absent: this kernel has none."""
    fixed: frozenset[str] = frozenset()
    """Settings that can't be written in this network namespace."""
    links: tuple[Link, ...] = ()
    homes: tuple[Home, ...] = ()
    advertised: frozenset[str] = frozenset()
    """Interfaces that lead to an IPv6 default route learnt from a router."""
    ways: tuple[Way, ...] = ()
    overlaps: tuple[str, ...] = ()
    """Sentences of svcnet.overlap."""
    taken: tuple[Network, ...] = ()
    """Networks that the machine reaches."""
    tables: tuple[Table, ...] = ()
    """Of others; svcnet's own nftables table is left out."""
    own_chains: frozenset[str] = frozenset()
    """Programs (`iptables-legacy`) whose tables hold chains of ours."""
    name_servers: tuple[Address, ...] = ()
    reverse_path_drops: int = 0
    table_drops: int = 0
    """Connections that the full connection table refused since boot."""
    insert_failures: int = 0
    programs: frozenset[str] = frozenset()
    """Of those that doctor asks for, the ones that are installed."""
    report: Mapping[str, Any] | None = None
    """/status of the daemon."""
    silence: str = ""
    """Why it didn't answer."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """RULES or ROUTES → what is missing to read them."""

    def setting(self, name: str, default: int = 0) -> int:
        """A setting that is a number."""
        text = self.settings.get(name, "")
        return int(text) if text.lstrip("-").isdigit() else default

    @property
    def versions(self) -> tuple[int, ...]:
        """IP versions that virtual IPs are of."""
        return tuple(network.version for network in self.service_cidr)

    def of_version(self, version: int) -> Network:
        """The service CIDR of a version."""
        return next(network for network in self.service_cidr if network.version == version)
