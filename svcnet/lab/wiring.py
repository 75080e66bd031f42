"""How the members are wired: lines for `ip -batch` and kernel settings, one list a namespace. Pure.

Owns: links, addresses, routes, sysctls. Must not run anything.

Links are brought up before they get addresses, and IPv6 addresses skip duplicate detection (`nodad`), so that nothing
has to be waited for. Interfaces make no link-local address of their own; those that forward get a fixed one, because a
router asks for its neighbours from it.
"""

from svcnet.lab.topology import Address, LabMinion, LabPod, Topology

CBR = "cbr0"
"""The pods' bridge in a minion, by the name that Kubernetes gave it in 2014."""

ROUTER = "fe80::1"
"""Link-local address of whoever forwards, on every link where it is the only one that does."""

BRIDGE_NF = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
"""Bridged packets pass netfilter: without it a connection from a pod to a virtual IP whose endpoint is on the same
bridge hangs, because the answer goes straight back over the bridge, untranslated."""


def switch_lines(topology: Topology) -> list[str]:
    """Return what the switch needs: a bridge, a port for each minion's eth0, routes to all pods."""
    lines = ["link set lo up", "link add br0 type bridge mcast_snooping 0", "link set br0 addrgenmode none up"]
    lines += [_address(a, "br0") for a in topology.switch_addresses]
    lines += [f"addr add {ROUTER}/64 dev br0 nodad"] * topology.spec.ipv6
    for minion in topology.minions:
        lines += [
            f"link add {minion.name} type veth peer name eth0 netns {minion.namespace}",
            f"link set {minion.name} master br0 addrgenmode none up",
        ]
        lines += _pod_network_routes(minion)
    return lines


def minion_lines(topology: Topology, minion: LabMinion) -> list[str]:
    """Return what a minion needs: eth0, the default route, the other minions' pods, its own pods' ends."""
    lines = ["link set lo up", "link set eth0 addrgenmode none up"]
    lines += [_address(a, "eth0") for a in minion.addresses]
    lines += [f"addr add fe80::{minion.name.removeprefix('m')}:1/64 dev eth0 nodad"] * topology.spec.ipv6
    lines += [f"route add {_everything(a)} via {a} dev eth0" for a in topology.switch_addresses]
    for other in topology.minions:
        if other is not minion:
            lines += _pod_network_routes(other)
    return lines + (_routed_ports if topology.spec.topology == "routed" else _bridged_ports)(topology, minion)


def port_lines(topology: Topology, minion: LabMinion, pod: LabPod) -> list[str]:
    """Return what a minion needs for one more pod: the pod's veth, and the way to its addresses."""
    lines = [f"link add {pod.port} type veth peer name eth0 netns {pod.namespace}"]
    if topology.spec.topology == "bridge":
        return [
            *lines,
            f"link set {pod.port} master {CBR} addrgenmode none up",
            # A pod that is given itself as endpoint gets its packet back through the port that it came from.
            f"link set {pod.port} type bridge_slave hairpin on",
        ]
    lines.append(f"link set {pod.port} addrgenmode none up")
    lines += [f"addr add {ROUTER}/64 dev {pod.port} nodad"] * topology.spec.ipv6
    lines += [f"route add {a} dev {pod.port} src {own}" for a, own in zip(pod.addresses, minion.addresses, strict=True)]
    return lines


def pod_lines(topology: Topology, minion: LabMinion, pod: LabPod) -> list[str]:
    """Return what a pod needs: eth0 with its addresses, and the minion as the way to everything."""
    routed = topology.spec.topology == "routed"
    lines = ["link set lo up", "link set eth0 addrgenmode none up"]
    lines += [_address(a._replace(prefix=a.host_bits) if routed else a, "eth0") for a in pod.addresses]
    for gateway in minion.gateways:
        # Neighbour discovery, unlike ARP, answers only for addresses of the very interface that is asked.
        via = ROUTER if routed and gateway.family == 6 else gateway
        # onlink: in the routed topology the gateway is on no network of the pod's /32.
        lines.append(f"route add {_everything(gateway)} via {via} dev eth0 onlink")
    return lines


def settings(topology: Topology, member: str) -> list[tuple[str, str]]:
    """Return (path below /proc/sys, value) that a member must have; all of these are per namespace."""
    wanted = []
    if topology.spec.ipv6:
        wanted += [(f"net/ipv6/conf/{which}/disable_ipv6", "0") for which in ("all", "default", "lo")]
    if any(minion.name == member for minion in topology.minions):
        wanted.append(("net/ipv4/ip_forward", "1"))
        if topology.spec.ipv6:
            wanted.append(("net/ipv6/conf/all/forwarding", "1"))
    return wanted


def bridge_settings(topology: Topology, member: str) -> list[tuple[str, str]]:
    """Return like `settings` those that exist only where br_netfilter is loaded.

    The switch is a plain switch whatever the topology.
    """
    if any(minion.name == member for minion in topology.minions):
        return [(path, "1") for path in BRIDGE_NF] if topology.spec.topology == "bridge" else []
    return [(path, "0") for path in BRIDGE_NF] if topology.namespaces.get(member) == topology.switch else []


def _routed_ports(topology: Topology, minion: LabMinion) -> list[str]:
    # The IPv4 gateway sits on lo: the kernel answers ARP for it on every pod's veth.
    lines = [_address(g._replace(prefix=g.host_bits), "lo") for g in minion.gateways]
    return lines + [line for pod in minion.pods for line in port_lines(topology, minion, pod)]


def _bridged_ports(topology: Topology, minion: LabMinion) -> list[str]:
    lines = [f"link add {CBR} type bridge mcast_snooping 0", f"link set {CBR} addrgenmode none up"]
    lines += [_address(g, CBR) for g in minion.gateways]
    lines += [f"addr add {ROUTER}/64 dev {CBR} nodad"] * topology.spec.ipv6
    return lines + [line for pod in minion.pods for line in port_lines(topology, minion, pod)]


def _address(address: Address, device: str) -> str:
    return f"addr add {address.interface} dev {device}" + (" nodad" if address.family == 6 else "")


def _everything(address: Address) -> str:
    return "0.0.0.0/0" if address.family == 4 else "::/0"


def _pod_network_routes(minion: LabMinion) -> list[str]:
    pairs = zip(minion.pod_networks, minion.addresses, strict=True)
    return [f"route add {network} via {address}" for network, address in pairs]
