"""Whether the kernel drops packets for the interface that they come in by: rp_filter (RFC 3704). Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, Level, sysctl

STRICT, LOOSE = 1, 2


def examine(facts: Facts) -> Iterator[Finding]:
    """The greater of an interface's setting and that of `all` holds. Strict is in the way once it has dropped any."""
    if 4 not in facts.versions:
        return
    general = facts.setting("net/ipv4/conf/all/rp_filter")
    strict = [
        link.name
        for link in facts.links
        if link.is_up
        and not link.is_loopback
        and not link.bridge
        and max(general, facts.setting(f"net/ipv4/conf/{link.name}/rp_filter")) == STRICT
    ]
    if not strict:
        return
    drops = facts.reverse_path_drops
    told = f"{drops} packets were dropped by it" if drops else "it has dropped nothing yet"
    yield Finding(
        f"rp_filter is strict for {', '.join(strict)}: {told}",
        "A packet is dropped unless its answer would leave by the interface that it came in by, so connections"
        " hang where"
        " the ways there and back differ. Loose (2) drops only sources that can't be answered at all.",
        tuple(sysctl(f"net/ipv4/conf/{name}/rp_filter", str(LOOSE)) for name in strict),
        Level.FINDING if drops else Level.NOTE,
    )
