"""What the daemon says of itself, and what it needs besides the kernel. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, Level

PATIENCE_SECONDS = 10.0
"""A change that waits longer for the kernel is stuck; /healthz says so after 60 s."""


def daemon(facts: Facts) -> Iterator[Finding]:
    """Running, ready, in time, and the only one that writes its rules."""
    report = facts.report
    if report is None:
        yield Finding(
            facts.silence or "svcnet-proxy doesn't answer",
            "Rules that are in the kernel go on working, but no change of the records arrives, and names and"
            " env files stand"
            " still. Start it; what it finds in the kernel it keeps.",
            (facts.start,),
        )
        return
    yield from _sync(report)
    yield from _records(report)
    for name, state in sorted((report.get("parts") or {}).items()):
        if str(state).startswith("failed"):
            yield Finding(
                f"part {name}: {state}",
                "The daemon runs without this part and tries again by itself. What the reason names has to be"
                " made free or"
                " given another address.",
                ("svcnet status",),
            )


def _sync(report: Mapping[str, Any]) -> Iterator[Finding]:
    if not report.get("ready", True):
        yield Finding(
            "the daemon is not ready: its first sync is not applied",
            "Services are served as they were before its start, or not at all. It waits for the records or for"
            " the kernel;"
            " its status says which.",
            ("svcnet status",),
        )
    age, error = float(report.get("oldest_unapplied_seconds") or 0), report.get("last_error") or "no error"
    if age > PATIENCE_SECONDS:
        yield Finding(
            f"a change has waited {age:.0f} s for the kernel: {error}",
            "Connections go by the records of that time, so endpoints that went since then are still tried."
            " The daemon tries again by itself; the error says what stands in its way.",
            ("svcnet status",),
        )
    if drift := report.get("drift"):
        yield Finding(
            f"the kernel held something else than was written, {drift} times since the daemon's start",
            "Somebody else changes svcnet's rules, which are put right within seconds. Find who flushes or"
            " reloads the rules of"
            " this machine: a firewall's restart does.",
            (),
            Level.NOTE,
        )


def _records(report: Mapping[str, Any]) -> Iterator[Finding]:
    store = report.get("store") or {}
    if held := store.get("held"):
        yield Finding(
            f"a list is held: it lacks {held.get('missing')} of {held.get('known')} services",
            "So many services rarely go at once, so the daemon serves the last state until a person has looked."
            " If they are meant to be gone, let the list through.",
            ("svcnet release",),
        )
    if report.get("ready", True) and not store.get("connected", True):
        yield Finding(
            f"the records are away: {store.get('reason') or 'no reason given'}",
            "The last state serves, and no change arrives. Once the records can be read again the daemon goes"
            " on by itself.",
            ("svcnet status",),
        )
    if left_out := report.get("left_out") or ():
        first = left_out[0]
        yield Finding(
            f"{len(left_out)} records or addresses are not served, such as {first.get('what')}: {first.get('reason')}",
            "Everything else is served. The status lists them all with their reasons.",
            ("svcnet status",),
            Level.NOTE,
        )


def names(facts: Facts) -> Iterator[Finding]:
    """Programs of the machine ask the servers of resolv.conf; to leave it so is a choice, hence a note."""
    listening = {text for text in facts.dns_listen if text not in {"0.0.0.0", "::"}}  # noqa: S104 - compared, not bound
    mine = (
        listening | {str(home.address) for home in facts.homes} if len(listening) < len(facts.dns_listen) else listening
    )
    if facts.dns_listen and not any(str(server) in mine for server in facts.name_servers):
        address = min(mine) if mine else "127.0.0.1"
        yield Finding(
            f"/etc/resolv.conf doesn't name {address}",
            "Programs of this machine don't find services by name unless they ask there; virtual IPs and"
            " variables work."
            " As the first server svcnet answers for services and asks the others for the rest.",
            (f"cp /etc/resolv.conf /etc/resolv.conf.old; sed -i '1i nameserver {address}' /etc/resolv.conf",),
            Level.NOTE,
        )


def programs(facts: Facts) -> Iterator[Finding]:
    """What iptables mode calls."""
    if facts.mode == "iptables" and "ipset" not in facts.programs:
        yield Finding(
            "the program ipset is missing",
            "In iptables mode clients of services with session affinity are remembered in sets that it makes."
            " All other services work without.",
            ("apt-get install -y ipset",),
            Level.NOTE,
        )
