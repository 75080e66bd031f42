"""Services of every kind at once, and what others have on the machine: for tests of starts, switches and ends.

Owns: the records, the foreign rules, and the reading of all that a cleanup must leave as it was.
"""

import re

from tests.harness.client import BRIEF_SECONDS
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, Minion

MINION, MINION6 = "192.0.2.1", "fd00:99::1"
EXTERNAL, EXTERNAL6 = "198.51.100.1", "2001:db8:2::1"
ALLOWED = "--external-ips=198.51.100.0/24,2001:db8:2::/64"
CLUSTER = "--cluster-cidr=192.0.2.128/30,fd00:98::/64"
VARIANTS = ("legacy", "nft")
FOREIGN = """
table inet shop {
    set guests {
        type ipv4_addr
        elements = { 10.0.0.5, 192.0.2.7 }
    }
    chain in {
        type filter hook input priority 0; policy accept;
        ip saddr @guests accept
    }
}
table ip svcnet_not {
    map services {
        type ipv4_addr : inet_service
        elements = { 10.0.0.5 : 80 }
    }
}
"""


def records() -> list[Written]:
    """All kinds; `web` is at every kind of address."""
    ranges: Written = {"loadBalancerSourceRanges": ["192.0.2.0/24", "203.0.113.0/24", "fd00:99::/64"]}
    local: Written = {"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    sticky: Written = {"sessionAffinity": "ClientIP"}
    kinds: dict[str, Written] = {
        "local": local,
        "sticky": sticky,
        "sticky-local": {**sticky, **local},
        "for-ever": {**sticky, "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}},
        "ranged": ranges,
        "ranged-local": {**ranges, **local},
        "hashed": {},
        "empty": {},
    }
    found = [_balanced("web", 0, VIP, VIP6), endpoints("web", A, B), endpoints("web", A6, B6)]
    for n, (name, spec) in enumerate(kinds.items(), 1):
        found.append(_balanced(name, n, f"10.0.0.{20 + n}", f"fd00:10::{20 + n}", **spec))
        if name != "empty":
            found += [_here(endpoints(name, A, B)), _here(endpoints(name, A6, B6))]
    hashed = next(r for r in found if r["metadata"]["name"] == "hashed")
    hashed["metadata"]["annotations"] = {"svcnet.dev/balance": "source-hash"}
    return found


def use(minion: Minion) -> None:
    """Connect once to every address, so that clients are noted."""
    for n in range(1, 9):
        for address in (f"10.0.0.{20 + n}", f"fd00:10::{20 + n}"):
            for protocol in ("tcp", "udp"):
                minion.ask(address, protocol, patience_seconds=BRIEF_SECONDS)
        minion.ask(MINION, port=30080 + 2 * n, patience_seconds=BRIEF_SECONDS)


def furnish(minion: Minion, variant: str) -> None:
    """Put rules, chains, sets and tables of somebody else on the machine, with iptables of one variant."""
    (minion.root / "foreign").write_text(FOREIGN)
    commands = ["nft -f foreign", "ipset create shop-guests hash:ip", "ipset add shop-guests 192.0.2.7"]
    for program in (f"iptables-{variant}", f"ip6tables-{variant}"):
        for table, chain in (
            ("nat", "PREROUTING"),
            ("nat", "POSTROUTING"),
            ("filter", "FORWARD"),
            ("mangle", "OUTPUT"),
        ):
            commands += [f"{program} -t {table} -N SHOP-{chain}", f"{program} -t {table} -A {chain} -j SHOP-{chain}"]
            commands.append(f"{program} -t {table} -A SHOP-{chain} -p tcp --dport 25 -j RETURN")
    commands.append(f"iptables-{variant} -A FORWARD -m set --match-set shop-guests src -j ACCEPT")
    for command in commands:
        done = minion.run("sh", "-c", f"cd {minion.root} && {command}")
        assert done.returncode == 0, (command, done.stderr)


def everything(minion: Minion) -> dict[str, str]:
    """All that the kernel holds of packet rules, sets and routes, as its programs list it, without counters."""
    programs = [f"{program}-{variant}-save" for program in ("iptables", "ip6tables") for variant in VARIANTS]
    listed = {command: minion.run(*command.split()).stdout for command in (*programs, *_LISTS)}
    # Counters and dates move by themselves. Built-in chains that iptables' programs make stay, without a rule.
    by_itself = r"^#.*\n|\[\d+:\d+\]|\n\tchain [A-Z]+ \{\n\t\ttype .* policy accept;\n\t\}\n"
    return {command: re.sub(by_itself, "", text, flags=re.MULTILINE) for command, text in listed.items()}


_LISTS = ("nft -s list ruleset", "ipset save", "ip -4 route show table all", "ip -6 rule", "ip -4 rule")


def _balanced(name: str, number: int, *virtual_ips: str, **spec: object) -> Written:
    record = service(name, *virtual_ips, ipFamilyPolicy="RequireDualStack")
    for i, port in enumerate(record["spec"]["ports"]):
        port["nodePort"] = 30080 + 2 * number + i
    last = number + 1
    record["spec"] |= {"type": "LoadBalancer", "externalIPs": [f"198.51.100.{last}", f"2001:db8:2::{last}"], **spec}
    ingress = [{"ip": f"198.51.100.{100 + last}"}, {"ip": f"2001:db8:2::{100 + last}"}]
    return record | {"status": {"loadBalancer": {"ingress": ingress}}}


def _here(record: Written) -> Written:
    for entry in record["endpoints"]:
        entry["nodeName"] = "m1"
    return record
