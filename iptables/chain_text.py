"""Rules of the iptables path as text, in the very form in which iptables-save prints them again. Pure.

Owns: the names of our chains and what is in each (docs/adr/0006-iptables.md). Knows neither programs nor what is in
force. A line is what follows `-A CHAIN `; it has no quotes: comments have no spaces, and
a program of BPF gets its own when it is written.
"""

import socket
from base64 import b32encode
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple

from svcnet.iptables.desired import SERVING, Treatment
from svcnet.iptables.prefix_tree import ROOT, WIDTH, Prefix
from svcnet.iptables.ruleset import Class, Parameters
from svcnet.model.frontend import Frontend

NAT, FILTER = "nat", "filter"
PREFIX = "SVCNET-"
SERVICES = PREFIX + "SERVICES"  # the root of the tree, in both tables
MASQ = PREFIX + "MASQ"  # whose source is not kept: sets the bit
POSTROUTING = PREFIX + "POSTROUTING"  # takes the bit, masquerades
FORWARD = PREFIX + "FILTER"  # what was not translated, in the filter table
GUARD = PREFIX + "GUARD"  # the same, of the service CIDR
REFUSE = PREFIX + "REFUSE"  # answers at once
JUMP_COMMENT = "svcnet/1"
"""On every jump of ours; the number is that of the layout."""
HAIRPIN = "hairpin"
"""What a kernel without xt_bpf lacks: to compare the two addresses of a packet."""
NAME_LENGTH = 28
"""Of a chain at most (XT_EXTENSION_MAXNAMELEN less its end)."""

Lines = tuple[str, ...]


class Chain(NamedTuple):
    """Where a chain is."""

    table: str
    name: str


Chains = dict[Chain, Lines]

JUMPS: Mapping[Chain, str] = {
    Chain(NAT, "PREROUTING"): SERVICES,
    Chain(NAT, "OUTPUT"): SERVICES,
    Chain(NAT, "POSTROUTING"): POSTROUTING,
    Chain(FILTER, "INPUT"): FORWARD,
    Chain(FILTER, "FORWARD"): FORWARD,
    Chain(FILTER, "OUTPUT"): FORWARD,
}
"""Built-in chain → where its first rule leads."""


def jump(target: str) -> str:
    """The one rule that we put in a built-in chain."""
    return f"-m comment --comment {JUMP_COMMENT} -j {target}"


def chain_name(text: str) -> str:
    """SVCNET-TEXT, or where that is too long a hash of it. No colon: nft could not read its own listing again."""
    name = PREFIX + text.replace(":", "_")
    return name if len(name) <= NAME_LENGTH else PREFIX + digest(text)


def address_name(address: str) -> str:
    """The chain of one address: its ports; in the filter table those that are not simply refused."""
    return chain_name(address)


def service_name(front: Frontend) -> str:
    """The chain of one frontend: its endpoints."""
    return chain_name(f"{front.address}.{front.protocol}.{front.port}")


def node_name(family: int, node: Prefix) -> str:
    """The chain of a node of the tree."""
    return SERVICES if node == ROOT else chain_name(f"{text_address(family, node.number)}/{node.length}")


def number(address: str) -> int:
    """An address as a number."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address))


def text_address(family: int, value: int) -> str:
    """A number as an address."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    return socket.inet_ntop(kind, value.to_bytes(WIDTH[family] // 8))


def hairpin_program(family: int) -> str:
    """A program of classic BPF, as xt_bpf takes it: 1 where the source of a packet is its destination."""
    words, source, width = (1, 12, 4) if family == 4 else (4, 8, 16)
    lines = []
    for word in range(words):
        at = source + 4 * word
        # A = word of the source; X = A; A = word of the destination; on if equal, else to the last line.
        lines += [f"32 0 0 {at}", "7 0 0 0", f"32 0 0 {at + width}", f"29 0 {4 * (words - word - 1) + 1} 0"]
    lines += ["6 0 0 1", "6 0 0 0"]
    return ",".join([str(len(lines)), *lines])


def hairpin_line(family: int) -> str:
    """Masquerade who reached itself, which would take itself for the client; over lo that works as it is."""
    match = f"-m conntrack --ctstate DNAT -m bpf --bytecode {hairpin_program(family)}"
    return f"! -o lo {match} -j MASQUERADE --random-fully"


def fixed_chains(parameters: Parameters, lacks: Collection[str] = frozenset()) -> Chains:
    """The chains that no service changes."""
    bit = f"{1 << parameters.masquerade_bit:#x}"
    mark = f"-j MARK --set-xmark {bit}/{bit}"
    if parameters.masquerade_all:
        masq: Lines = (mark,)
    elif parameters.cluster_cidrs:
        masq = (*(f"-s {cidr} -j RETURN" for cidr in parameters.cluster_cidrs), mark)
    else:
        masq = ()
    cidrs = parameters.service_cidrs
    return {
        Chain(NAT, MASQ): masq,
        Chain(NAT, POSTROUTING): (
            *(() if HAIRPIN in lacks else (hairpin_line(parameters.family),)),
            f"-m mark ! --mark {bit}/{bit} -j RETURN",
            f"-j MARK --set-xmark {bit}/0x0",
            "-j MASQUERADE --random-fully",
        ),
        # What comes here was not translated, or is of no connection that conntrack knows.
        Chain(FILTER, FORWARD): (
            *(f"-d {cidr} -g {GUARD}" for cidr in cidrs),
            f"-m conntrack --ctstate NEW -j {SERVICES}",
        ),
        Chain(FILTER, GUARD): (
            "-m conntrack --ctstate INVALID -j DROP",
            # To a client of this minion that has a virtual IP itself: where userspace mode comes or goes.
            "-m conntrack --ctdir REPLY -j RETURN",
            # To its listeners, of which the last clients still make use.
            "-m conntrack --ctstate ESTABLISHED -m addrtype --dst-type LOCAL -j RETURN",
            # To the userspace proxy's own address, for who asked for a service; nobody else gets there.
            "-m conntrack --ctstate DNAT -m addrtype --dst-type LOCAL -j RETURN",
            f"-j {SERVICES}",
            "-j DROP",
        ),
        Chain(FILTER, REFUSE): (
            "-p tcp -j REJECT --reject-with tcp-reset",
            f"-j REJECT --reject-with {'icmp' if parameters.family == 4 else 'icmp6'}-port-unreachable",
        ),
    }


def address_lines(fronts: Mapping[Frontend, Treatment]) -> Lines:
    """The ports of one address. Those that lead nowhere are listed too: the filter table refuses or drops them."""
    return tuple(
        f"{port_match(front)} -m comment --comment {_label(treatment)} "
        + (f"-g {service_name(front)}" if treatment.kind in SERVING else "-j RETURN")
        for front, treatment in sorted(fronts.items(), key=_by_front)
    )


def filter_lines(fronts: Mapping[Frontend, Treatment]) -> Lines:
    """What the filter table says of one address that is more than "refuse it all"; () if that is all, or nothing is.

    Packets that nat translated have another destination by now: only what nat left alone comes here.
    """
    lines: list[str] = []
    whole = is_virtual(fronts)
    for front, treatment in sorted(fronts.items(), key=_by_front):
        where = f"-d {front.address}/{WIDTH[front.family]} {port_match(front)}"
        refused = treatment.kind is Class.REFUSE
        if treatment.ranges:
            lines += [f"-s {r} {where} -g {REFUSE}" for r in treatment.ranges if refused]
            lines.append(f"{where} -j DROP")
        elif _is_silent(treatment):
            lines.append(f"{where} -j DROP")
        elif refused and not whole:
            lines.append(f"{where} -g {REFUSE}")
    if lines and whole:
        lines.append(f"-j {REFUSE}")
    return tuple(lines)


def is_virtual(fronts: Mapping[Frontend, Treatment]) -> bool:
    """Whether an address is a virtual IP: all that is not translated is refused, undefined ports too."""
    return any(treatment.virtual for treatment in fronts.values())


def port_match(front: Frontend) -> str:
    """The protocol and port of a frontend, as a match."""
    return f"-p {front.protocol} -m {front.protocol} --dport {front.port}"


def node_line(family: int, child: Prefix, target: str) -> str:
    """One branch of the tree."""
    return f"-d {text_address(family, child.number)}/{child.length} -g {target}"


def restore_text(
    changes: Mapping[Chain, Lines | None],
    edits: Mapping[str, Iterable[str]],
    checks: Iterable[Chain] = (),
    tables: Iterable[str] = (NAT, FILTER),
) -> str:
    """Input of `iptables-restore --noflush`: chains to make or rewrite, and to delete (None).

    `edits` are whole lines by table (jumps put in, taken out). `checks`: built-in chains of which ours must be there,
    or nothing of the table is changed. `tables` in the order in which they change.
    """
    parts: list[str] = []
    for table in tables:
        mine = {chain.name: lines for chain, lines in changes.items() if chain.table == table}
        more = list(edits.get(table, ()))
        if not mine and not more:
            continue
        parts.append(f"*{table}")
        parts += [f"-C {chain.name} {jump(JUMPS[chain])}" for chain in checks if chain.table == table]
        parts += [f":{name} - [0:0]" for name in mine]
        parts += [f"-A {name} {_quoted(line)}" for name, lines in mine.items() for line in lines or ()]
        parts += more
        parts += [f"-X {name}" for name, lines in mine.items() if lines is None]
        parts.append("COMMIT")
    return "\n".join([*parts, ""]) if parts else ""


def _quoted(line: str) -> str:
    if "--bytecode" not in line:
        return line
    before, program = line.split("--bytecode ")
    program, after = program.split(" -j ")
    return f'{before}--bytecode "{program}" -j {after}'


def digest(text: str) -> str:
    """Sixteen characters that stand for a text too long for a name."""
    return b32encode(sha256(text.encode()).digest()[:10]).decode()


def _is_silent(treatment: Treatment) -> bool:
    """EXTERNAL_LOCAL without endpoints here: what its chain did not translate came from outside."""
    kind = treatment.kind
    return kind is Class.DROP or (kind is Class.EXTERNAL_LOCAL and not treatment.local)


def _by_front(item: tuple[Frontend, Treatment]) -> Frontend:
    return item[0]


def _label(treatment: Treatment) -> str:
    owner = treatment.owner
    name = f"{owner.namespace}/{owner.service}" if owner else "unknown"
    return name if treatment.kind is Class.CLUSTER else f"{name},{treatment.kind.name.lower()}"
