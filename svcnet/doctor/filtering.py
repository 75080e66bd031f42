"""Whether a packet filter of others stops the packets of services: FORWARD with policy DROP, and its like. Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import KERNEL_MODES, Facts
from svcnet.doctor.finding import Finding
from svcnet.doctor.packet_filter import Chain, Fate, Network, Packet, Table, Verdict, base_chains, fate

_PROTOCOLS = ("tcp", "udp")
_KERNEL_HOOKS, _PROXY_HOOKS = ("forward", "output"), ("input",)


def examine(facts: Facts) -> Iterator[Finding]:
    """Every chain at those hooks is asked by itself: a packet that one accepts still meets the others."""
    kernel = facts.mode in KERNEL_MODES
    hooks = (*(_KERNEL_HOOKS if kernel else ()), *(_PROXY_HOOKS if not kernel or _has_workers(facts) else ()))
    for version in facts.versions:
        service = facts.of_version(version)
        for table, chain in base_chains(facts.tables, version, "filter", hooks):
            ends = [fate(table, chain, packet) for packet in _packets(facts, version, chain.hook, kernel=kernel)]
            dropped = [end for end in ends if end.verdict is Verdict.DROP]
            if dropped:
                first = min(dropped, key=lambda end: len(chain.rules) if end.place is None else end.place)
                yield _finding(table, chain, first, service, kernel=kernel)


def _has_workers(facts: Facts) -> bool:
    """Whether services of a kernel mode go through the userspace proxy: their rules lead to addresses of here."""
    return any(part.startswith("proxy worker") for part in (facts.report or {}).get("parts", {}))


def _packets(facts: Facts, version: int, hook: str, *, kernel: bool) -> Iterator[Packet]:
    """The first packet to a virtual IP as this hook sees it, and where answers pass it too, an answer."""
    service = (facts.of_version(version),)
    pods = tuple(network for network in facts.cluster_cidr if network.version == version)
    if hook == "input" and kernel:
        first = Packet(version, "new", wanted=service, translated=True, local=True)
    elif hook == "input":
        first = Packet(version, "new", destinations=service, wanted=service, local=True)
    else:
        first = Packet(version, "new", destinations=pods, wanted=service, translated=True)
    answer = first._replace(state="established", sources=first.destinations, destinations=())
    for packet in (first, answer) if hook == "forward" else (first,):
        yield from (packet._replace(protocol=protocol) for protocol in _PROTOCOLS)


def _finding(table: Table, chain: Chain, end: Fate, service: Network, *, kernel: bool) -> Finding:
    who = {"forward": "pods and other machines", "output": "programs of this machine", "input": "clients"}[chain.hook]
    where = f"{table.program} {'' if table.program != 'nft' else f'{table.family} {table.name} '}{chain.name}"
    cause = f"the rule `{end.rule.text}`" if end.rule else "policy DROP"
    some = ", but for what other rules accept" if end.doubtful else ""
    return Finding(
        f"{where}: {cause} drops the packets of services{some}",
        f"What {who} send to a virtual IP in {service} ends here without an answer, so they hang."
        " The rule that mends it accepts connections to virtual IPs, with their answers, and nothing else.",
        (_accept(table, chain, end, service, kernel=kernel),),
    )


def _accept(table: Table, chain: Chain, end: Fate, service: Network, *, kernel: bool) -> str:
    """At the end where the policy decides, so that rules of others that must come first still do."""
    if table.program != "nft":
        match = f"-m conntrack --ctorigdst {service}" if kernel else f"-d {service}"
        place = f"-A {chain.name}" if end.place is None else f"-I {chain.name} {end.place + 1}"
        return f"{table.program} {place} {match} -j ACCEPT"
    ip = "ip" if service.version == 4 else "ip6"
    match = f"ct original {ip} daddr {service}" if kernel else f"{ip} daddr {service}"
    where = f"{table.family} {table.name} {chain.name}"
    if end.place is None:
        return f"nft add rule {where} {match} accept"
    return f"nft insert rule {where} handle {chain.rules[end.place].handle} {match} accept"
