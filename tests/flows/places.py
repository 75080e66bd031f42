"""Who is where: the names that rows use, and their addresses in both families.

Owns: the address plan of the flow tests. Must not know namespaces or records.
"""

from collections.abc import Mapping
from ipaddress import ip_address

SERVICE_CIDRS = {4: "10.0.0.0/16", 6: "fd00:10::/112"}
CLUSTER_CIDRS = {4: "10.244.0.0/16", 6: "fd00:244::/32"}
NODE = "m1"
"""The minion whose rules are under test."""

_TWINS = {
    "10.244.1.": "fd00:244:1::",
    "10.244.2.": "fd00:244:2::",
    "10.0.0.": "fd00:10::",
    "192.168.50.": "fd00:50::",
    "203.0.113.": "2001:db8:1::",
    "198.51.100.": "2001:db8:2::",
    "192.0.2.": "2001:db8:3::",
    "127.0.0.": "::",
    "169.254.169.": "fe80::",
}
"""An IPv4 address's IPv6 twin: another prefix, the same last number (as written)."""


def twin(address: str) -> str:
    """The IPv6 address that stands for the same host as an IPv4 one."""
    prefix, dot, last = address.rpartition(".")
    return str(ip_address(_TWINS[prefix + dot] + last))


EXTERNAL_CIDRS = {4: "198.51.100.64/26", 6: "2001:db8:2::80/121"}
"""What records may claim as external and load-balancer addresses."""
CROWD = tuple(range(129, 199))
"""Last numbers of the pods `crowd-1` … `crowd-70` on the other minion."""
CROWD_CIDRS = {4: "10.244.2.128/25", 6: "fd00:244:2::100/120"}

_PLACES = {
    "pod-a": "10.244.1.2",
    "pod-b": "10.244.1.3",
    "pod-c": "10.244.2.2",
    "pod-d": "10.244.2.3",
    "minion": "192.168.50.1",
    # A client that is not in the cluster.
    "outside": "203.0.113.9",
    # A server that is not in the cluster, behind the minion's default route.
    "stranger": "198.51.100.7",
    # An address of the service CIDR that no record has.
    "nobody": "10.0.0.250",
    # Addresses that records claim, and those that they may not; behind the default route the stranger has them all.
    "external-ip": "198.51.100.80",
    "keeping-ip": "198.51.100.81",
    "empty-ip": "198.51.100.82",
    "balancer": "198.51.100.90",
    "closed-balancer": "198.51.100.91",
    "open-balancer": "198.51.100.92",
    "keeping-balancer": "198.51.100.93",
    "empty-balancer": "198.51.100.94",
    "proxy-balancer": "198.51.100.95",
    "portless-balancer": "198.51.100.96",
    "udp-balancer": "198.51.100.97",
    **{f"crowd-{i}": f"10.244.2.{last}" for i, last in enumerate(CROWD, 1)},
}

PLACES: Mapping[int, Mapping[str, str]] = {4: _PLACES, 6: {name: twin(address) for name, address in _PLACES.items()}}
"""Family → name → address."""

NAMES = {address: name for places in PLACES.values() for name, address in places.items()}
"""Address → name."""

LISTENING = (53, 80, 81, 5353, 8053, 8080, 8081)
"""Ports on which every host answers, those of services too: what leaks to a host is answered, and so seen."""
