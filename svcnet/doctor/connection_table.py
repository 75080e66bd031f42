"""Whether the kernel's connection table has room, and what it did when it had none. Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, Level, sysctl

FULL_SHARE = 0.8
"""From this share of nf_conntrack_max on there is too little room."""
_MAX, _COUNT = "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_count"
_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"


def examine(facts: Facts) -> Iterator[Finding]:
    """Counters only grow, so they are notes: what was mended yesterday is no fault of today."""
    most, count = facts.setting(_MAX), facts.setting(_COUNT)
    if most and count >= FULL_SHARE * most:
        yield Finding(
            f"the connection table holds {count} of {most} entries",
            "Once it is full the first packet of each new connection is dropped, so new connections hang while"
            " old ones go on."
            " Four times the room costs some 300 bytes of kernel memory for each entry in use.",
            (_room(facts, most),),
        )
    if facts.table_drops:
        yield Finding(
            f"{facts.table_drops} packets were dropped since boot as the connection table was full",
            "Connections that began at that moment hung. If the number grows, the table needs more room.",
            (_room(facts, most),) if most else (),
            Level.NOTE,
        )
    if facts.insert_failures:
        yield Finding(
            f"{facts.insert_failures} connections could not be entered in the connection table since boot",
            "Two packets of one client raced each other, as two DNS questions from one socket do, and one of"
            " them was dropped."
            " A resolver waits 5 s then; a few are harmless, and the option single-request-reopen in"
            " resolv.conf ends them.",
            (),
            Level.NOTE,
        )
    if _LIBERAL in facts.settings and not facts.setting(_LIBERAL):
        yield Finding(
            "net.netfilter.nf_conntrack_tcp_be_liberal is 0",
            "TCP segments outside the window that the kernel expects count as invalid and are not translated,"
            " which may reset"
            " long transfers over networks that delay packets. With 1 they are translated like all others.",
            (sysctl(_LIBERAL, "1"),),
            Level.NOTE,
        )


def _room(facts: Facts, most: int) -> str:
    """It is one number for all network namespaces, written in the first."""
    command = sysctl(_MAX, str(4 * most))
    return f"nsenter --net=/proc/1/ns/net {command}" if _MAX in facts.fixed else command
