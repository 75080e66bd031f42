"""The ruleset as nft text (nft 1.0.6 of Debian 12 and later).

Owns: the spelling of each statement. Knows no service: elements travel by netlink (elements.py), rules by nft.
"""

from collections.abc import Iterable
from hashlib import sha256

from svcnet.iptables.elements import Op, frontend, unnumber, unpacked, unslot, untarget
from svcnet.iptables.ruleset import (
    CHAINS,
    CLASSES,
    CLUSTER_CIDR,
    ENDPOINTS,
    FIRST_COUNTS,
    SERVICE_CIDR,
    SERVICES,
    TABLE,
    TABLES,
    Chain,
    Class,
    ClearScratch,
    Dispatch,
    Drop,
    Field,
    Goto,
    Load,
    Mark,
    Masquerade,
    Parameters,
    Pass,
    Protocols,
    Refuse,
    Replying,
    Rule,
    Statement,
    TakeMark,
    Translate,
    Translated,
    Within,
    base_chains,
    class_chain,
    fixed_codes,
)

SCHEMA_PREFIX = "schema-"


def _v6(family: int) -> str:
    return "" if family == 4 else "v6"


def _fields(fields: Iterable[Field], family: int) -> str:
    ip = "ip" if family == 4 else "ip6"
    return " . ".join(f.value.replace("%s", ip) for f in fields)


def _statement(s: Statement, family: int) -> str:
    match s:
        case Load(table, key):
            return f"meta priority set {_fields(key, family)} map @{table}"
        case Dispatch(table):
            return f"meta priority vmap @{table}"
        case Within(fields, table, negated):
            return f"{_fields(fields, family)} {'!= ' if negated else ''}@{table}"
        case Protocols(names):
            return "meta l4proto " + (names[0] if len(names) == 1 else f"{{ {', '.join(names)} }}")
        case Mark(bit):
            return f"meta mark set meta mark or {bit:#x}"
        case TakeMark(bit):
            return f"meta mark and {bit:#x} == {bit:#x} meta mark set meta mark xor {bit:#x}"
        case Translated():
            return "ct status dnat"
        case Translate(table, slots, offset):
            slot = f"numgen random mod {slots}" + (f" offset {offset}" if offset else "")
            return f"dnat {'ip' if family == 4 else 'ip6'} to meta priority . {slot} map @{table}"
        case Goto(chain):
            return f"goto {chain}"
        case Refuse(tcp):
            return "reject with tcp reset" if tcp else f"reject with icmp{_v6(family)} type port-unreachable"
        case Replying():
            return "ct direction reply"
        case Pass():
            return "accept"
        case Drop():
            return "drop"
        case ClearScratch():
            return "meta priority set 0:0"
        case Masquerade():
            return "masquerade fully-random"


def render_rule(rule: Rule, family: int) -> str:
    """A rule as nft text."""
    return " ".join(_statement(s, family) for s in rule)


def _render_chain(chain: Chain, ip: str, family: int) -> list[str]:
    hook = ""
    if chain.hook:
        kind, where, priority = chain.hook
        hook = f" {{ type {kind} hook {where} priority {priority}; policy accept; }}"
    lines = [f"add chain {ip} {TABLE} {chain.name}{hook}"]
    return lines + [f"add rule {ip} {TABLE} {chain.name} {render_rule(r, family)}" for r in chain.rules]


def render_class_chains(parameters: Parameters, slots: Iterable[int]) -> list[str]:
    """nft lines that add the class chains for these numbers of slots, and their entries in map `chains`."""
    ip = "ip" if parameters.family == 4 else "ip6"
    lines: list[str] = []
    for n in slots:
        lines += _render_chain(class_chain(parameters, n), ip, parameters.family)
        lines.append(f"add element {ip} {TABLE} {CHAINS} {{ {Class.CLUSTER.value:x}:{n:x} : goto cluster-{n} }}")
    return lines


def render(parameters: Parameters, slots: Iterable[int] = FIRST_COUNTS) -> list[str]:
    """nft lines that make the whole table, without services. Chains come before the rules that name them."""
    ip = "ip" if parameters.family == 4 else "ip6"
    lines = [f"add table {ip} {TABLE}", f"add chain {ip} {TABLE} {schema_name(parameters)}"]
    return lines + _render_tables(parameters) + _render_chains(parameters, slots)


def _render_tables(parameters: Parameters) -> list[str]:
    ip = "ip" if parameters.family == 4 else "ip6"
    kind = "ipv4_addr" if parameters.family == 4 else "ipv6_addr"
    lines: list[str] = []
    for t in TABLES:
        what = "map" if t.data else "set"
        shape = f"typeof {_fields(t.key, parameters.family)}"
        if t.interval:
            shape = f"type {kind}; flags interval; auto-merge"
        elif t.data:
            shape += " : " + _fields(t.data, parameters.family)
        lines.append(f"add {what} {ip} {TABLE} {t.name} {{ {shape}; }}")
    for name, cidrs in ((SERVICE_CIDR, parameters.service_cidrs), (CLUSTER_CIDR, parameters.cluster_cidrs)):
        if cidrs:
            lines.append(f"add element {ip} {TABLE} {name} {{ {', '.join(cidrs)} }}")
    return lines


def _render_chains(parameters: Parameters, slots: Iterable[int]) -> list[str]:
    ip = "ip" if parameters.family == 4 else "ip6"
    chains = base_chains(parameters)
    lines = [f"add chain {ip} {TABLE} {c.name}" for c in chains if not c.hook]
    for chain in chains:
        lines += _render_chain(chain, ip, parameters.family)
    lines += render_class_chains(parameters, slots)
    for code, name in fixed_codes():
        lines.append(f"add element {ip} {TABLE} {CHAINS} {{ {code >> 16:x}:{code & 0xFFFF:x} : goto {name} }}")
    return lines


def schema_name(parameters: Parameters) -> str:
    """Name of the empty chain that says which schema a table was made with; a table without it is replaced."""
    text = "\n".join(_render_tables(parameters) + _render_chains(parameters, (1,)))
    return SCHEMA_PREFIX + sha256(text.encode()).hexdigest()[:12]


def render_elements(ops: Iterable[Op]) -> list[str]:
    """Additions as nft lines: for the one commit that replaces a table of another schema."""
    return [f"add element {'ip' if op.family == 4 else 'ip6'} {TABLE} {op.table} {{ {_element(op)} }}" for op in ops]


def _element(op: Op) -> str:
    if op.table in {SERVICES, CLASSES}:
        front, value = frontend(op.family, op.key), unnumber(op.data)
        return f"{front.address} . {front.protocol} . {front.port} : {value >> 16:x}:{value & 0xFFFF:x}"
    if op.table == ENDPOINTS:
        (port_id, slot), (address, port) = unslot(op.key), untarget(op.data)
        return f"{port_id >> 16:x}:{port_id & 0xFFFF:x} . {slot} : {address} . {port}"
    size = 4 if op.family == 4 else 16
    return " . ".join(unpacked(op.key[i : i + size]) for i in range(0, len(op.key), size))
