"""Whether this machine passes packets on: net.ipv4.ip_forward and its kin. Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, sysctl

_ALL_4, _ALL_6 = "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"


def examine(facts: Facts) -> Iterator[Finding]:
    """IPv4 is decided by the interface a packet comes in by, IPv6 for the whole machine (ip-sysctl of Linux)."""
    if 4 in facts.versions:
        yield from _version_4(facts)
    if 6 in facts.versions and facts.setting(_ALL_6, 1) == 0:
        yield _version_6(facts)


def _version_4(facts: Facts) -> Iterator[Finding]:
    if facts.setting(_ALL_4, 1) == 0:
        yield Finding(
            "net.ipv4.ip_forward is 0",
            "The kernel passes no IPv4 packet from one interface to another, so pods and other machines that"
            " ask a virtual IP"
            " hang. Once it is 1, this machine routes for its pods.",
            (sysctl(_ALL_4, "1"),),
        )
        return
    off = [
        link.name
        for link in facts.links
        if link.is_up
        and not link.is_loopback
        and not link.bridge
        and facts.setting(f"net/ipv4/conf/{link.name}/forwarding", 1) == 0
    ]
    if off:
        yield Finding(
            f"forwarding is 0 for {', '.join(off)}, though net.ipv4.ip_forward is 1",
            "What comes in by such an interface is not passed on, so clients behind it hang when they ask a virtual IP."
            " Once it is 1 there too, they get through.",
            tuple(sysctl(f"net/ipv4/conf/{name}/forwarding", "1") for name in off),
        )


def _version_6(facts: Facts) -> Finding:
    keep = [
        sysctl(f"net/ipv6/conf/{name}/accept_ra", "2")
        for name in sorted(facts.advertised)
        if facts.setting(f"net/ipv6/conf/{name}/accept_ra") != 2
    ]
    aside = " The first command keeps the default route, which is learnt from a router." if keep else ""
    return Finding(
        "net.ipv6.conf.all.forwarding is 0",
        "The kernel passes no IPv6 packet from one interface to another, so pods and other machines that ask an IPv6"
        f" virtual IP hang. Once it is 1, this machine routes for its pods.{aside}",
        (*keep, sysctl(_ALL_6, "1")),
    )
