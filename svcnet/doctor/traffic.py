"""Whether the kernel tells what the metrics of traffic are made of. Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, Level, sysctl

ACCT, EVENTS = "net/netfilter/nf_conntrack_acct", "net/netfilter/nf_conntrack_events"


def examine(facts: Facts) -> Iterator[Finding]:
    """Notes: no connection hangs by a number that nobody knows."""
    if EVENTS in facts.settings and not facts.setting(EVENTS):
        yield Finding(
            "net.netfilter.nf_conntrack_events is 0",
            "The kernel tells nobody when connections begin and end, so /metrics counts no traffic by service."
            " With 2 it tells those who ask.",
            (sysctl(EVENTS, "2"),),
            Level.NOTE,
        )
    if ACCT in facts.settings and not facts.setting(ACCT):
        yield Finding(
            "net.netfilter.nf_conntrack_acct is 0",
            "The kernel counts no bytes of connections, so /metrics has connections by service and no bytes."
            " With 1 it does, for connections that begin afterwards.",
            (sysctl(ACCT, "1"),),
            Level.NOTE,
        )
