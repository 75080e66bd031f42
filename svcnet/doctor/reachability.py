"""Whether the machine's own programs have a way to virtual IPs, and whether these hide something else. Pure."""

from collections.abc import Iterator
from ipaddress import ip_network

from svcnet.doctor.facts import Facts, Home, Way
from svcnet.doctor.finding import Finding
from svcnet.doctor.packet_filter import Network

OWN_PROTOCOL = 115
"""rtm_protocol of routes for virtual IPs (contract, Names in the kernel): the daemon passes over them."""
_CANDIDATES = ("10.0.0.0/16", "10.96.0.0/16", "10.112.0.0/16", "172.30.0.0/16", "192.168.224.0/19")
_CANDIDATES_6 = ("fd00:10::/112", "fd00:5e7::/112")


def routes(facts: Facts) -> Iterator[Finding]:
    """A kernel path translates what has a route already; userspace mode needs virtual IPs to be local."""
    for way in facts.ways:
        if facts.mode == "userspace":
            if way.kind != "local":
                yield _not_local(way)
        elif way.error:
            yield Finding(
                f"no route to {way.network}: {way.error}",
                "Programs on this machine get “network is unreachable” for every virtual IP, since the kernel"
                " looks for a route"
                " before it translates. Any route does, and no packet follows it: a default route, or this one.",
                _route(facts, way.network),
            )
        elif way.source is not None and way.source.is_loopback:
            yield Finding(
                f"the route to {way.network} (dev {way.device}) takes {way.source} as its source",
                "Programs on this machine ask virtual IPs from a loopback address, whose packets never leave"
                " the machine, so"
                " they hang for endpoints elsewhere. This route takes an address of the machine.",
                _route(facts, way.network, "replace"),
            )


def _not_local(way: Way) -> Finding:
    return Finding(
        f"addresses of {way.network} are not local",
        "In userspace mode the proxy's sockets are bound to the virtual IPs, and packets to them leave the"
        " machine or find no"
        " route without this one. The daemon makes it at its start and watches over it.",
        (f"ip route replace local {way.network} dev lo table local proto {OWN_PROTOCOL}",),
    )


def _route(facts: Facts, network: Network, verb: str = "add") -> tuple[str, ...]:
    """Not over lo where there is another: IPv6 takes that for a prohibition, IPv4 sends no ICMP error there."""
    up = {link.name: link.is_loopback for link in facts.links if link.is_up}
    mine = [h for h in facts.homes if h.address.version == network.version and h.is_global and h.address not in network]
    usable = sorted((h for h in mine if h.interface in up), key=lambda h: up[h.interface])
    outside = [name for name, is_loopback in up.items() if not is_loopback]
    if not usable:
        return ()
    home: Home = usable[0]
    device = home.interface
    made: tuple[str, ...] = ()
    if up[device]:
        device = outside[0] if outside else device if network.version == 4 else "svcnet0"
    if device == "svcnet0" and device not in up:
        made = ("ip link add svcnet0 type dummy", "ip link set svcnet0 up")
    return (*made, f"ip route {verb} {network} dev {device} src {home.address} proto {OWN_PROTOCOL}")


def overlaps(facts: Facts) -> Iterator[Finding]:
    """The daemon refuses to start with such a range."""
    for sentence in facts.overlaps:
        free = [_free(facts, network) for network in facts.service_cidr]
        yield Finding(
            sentence,
            "Virtual IPs would hide what the machine reaches there today, so the daemon refuses to start."
            " Give every minion of these records the same range that nothing uses.",
            (f"{facts.start} --service-cidr={','.join(free)}",) if all(free) else (),
        )


def _free(facts: Facts, network: Network) -> str:
    taken = (*facts.taken, *facts.cluster_cidr)
    texts: tuple[str, ...] = (str(network), *(_CANDIDATES if network.version == 4 else _CANDIDATES_6))
    for text in texts:
        candidate: Network = ip_network(text)
        rivals = [t for t in taken if t.version == candidate.version and t.prefixlen]
        if not any(t.overlaps(candidate) for t in rivals):
            return text
    return ""
