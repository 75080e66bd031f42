"""Whether rules of others translate virtual IPs, and whether iptables' two kinds of tables are mixed. Pure."""

import shlex
from collections.abc import Iterator

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, Level
from svcnet.doctor.packet_filter import Found, Packet, Table, base_chains, translating

SHOWN = 8
"""Rules named one by one; of more, the first."""
_KUBE, _KUBE_TABLE = "KUBE-", "kube-proxy"
_SCAFFOLD = frozenset({"nat", "filter", "mangle", "raw", "security"})


def foreign(facts: Facts) -> Iterator[Finding]:
    """NAT of others that meets a connection to a virtual IP. What stands behind a jump to ours never does."""
    kube, others = list[tuple[Table, Found]](), list[tuple[Table, Found]]()
    for version in facts.versions:
        service = (facts.of_version(version),)
        packet = Packet(version, "new", destinations=service, wanted=service, local=facts.mode == "userspace")
        for table, chain in base_chains(facts.tables, version, "nat", ("prerouting", "output")):
            for found in translating(table, chain, packet):
                if (table, found) not in (rules := kube if found.chain.startswith(_KUBE) else others):
                    rules.append((table, found))
    if kube:
        yield Finding(
            f"kube-proxy's rules translate addresses of the service CIDR ({len(kube)} rules)",
            "Two programs translate the same addresses, and which rule comes first decides where a connection goes."
            " If kube-proxy doesn't run here any more, its own command takes the rules away; otherwise give"
            " svcnet another --service-cidr.",
            ("kube-proxy --cleanup",),
        )
    for table, found in others[:SHOWN]:
        yield _translated(table, found, len(others))
    if any(table.program == "nft" and table.name == _KUBE_TABLE for table in facts.tables):
        yield Finding(
            "there is a table kube-proxy in nftables",
            "Kubernetes' services are translated by it, which disturbs svcnet only where both have the same addresses."
            " Their ranges must be apart; if kube-proxy doesn't run here any more, this takes its table away.",
            ("kube-proxy --cleanup",),
            Level.NOTE,
        )


def _translated(table: Table, found: Found, count: int) -> Finding:
    more = f" ({count} such rules, the first {SHOWN} are shown)" if count > SHOWN else ""
    where = f"{table.program} {table.family + ' ' if table.program == 'nft' else ''}{table.name} {found.chain}"
    return Finding(
        f"{where}: the rule `{found.rule.text}` may translate virtual IPs{more}",
        "A connection to a virtual IP that meets this rule first goes where the rule says, and not to the service."
        " Let the rule name destinations outside the service CIDR, or delete it.",
        (_delete(table, found),),
    )


def _delete(table: Table, found: Found) -> str:
    if table.program == "nft":
        chain = shlex.quote(found.chain)
        return f"nft delete rule {table.family} {table.name} {chain} handle {found.rule.handle}"
    return f"{table.program} -t {table.name} -D {found.chain} {found.rule.text}"


def mixed(facts: Facts) -> Iterator[Finding]:
    """Rules in legacy tables and in those of nft at once, of one IP version."""
    for command in ("iptables", "ip6tables"):
        held = {kind: _held(facts, f"{command}-{kind}") for kind in ("legacy", "nft")}
        if all(held.values()):
            rules = " and ".join(f"{number} in {kind} tables" for kind, number in held.items())
            yield Finding(
                f"{command} has rules in both kinds of tables: {rules}",
                "Packets pass both, and a person who lists one of them sees half, such as an ACCEPT here and"
                " not the DROP there."
                " These commands move the legacy rules to the nft tables; programs that write legacy rules"
                " must be told too.",
                _move(facts, command),
            )


def _held(facts: Facts, program: str) -> int:
    """Rules, and policies that are not ACCEPT; ours count."""
    tables = [table for table in facts.tables if table.program == program]
    rules = sum(len(chain.rules) for table in tables for chain in table.chains.values())
    policies = sum(chain.policy == "drop" for table in tables for chain in table.chains.values())
    return rules + policies + (program in facts.own_chains)


def _move(facts: Facts, command: str) -> tuple[str, ...]:
    legacy = f"{command}-legacy"
    names = [t.name for t in facts.tables if t.program == legacy and t.name in _SCAFFOLD]
    policies = [
        f"{legacy} -t {table.name} -P {chain.name} ACCEPT"
        for table in facts.tables
        if table.program == legacy
        for chain in table.chains.values()
        if chain.policy == "drop"
    ]
    flush = [f"{legacy} -t {name} {flag}" for name in names for flag in ("-F", "-X")]
    return (f"{legacy}-save | {command}-nft-restore --noflush", *policies, *flush)
