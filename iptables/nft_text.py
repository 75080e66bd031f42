"""The ruleset as nft text (nft 1.0.6 of Debian 12 and later).

Owns: the spelling of each statement. Knows no service: elements travel by netlink (elements.py), rules by nft.
"""

from collections.abc import Iterable
from hashlib import sha256

from svcnet.iptables.classes import FIRST_CODES, ServingClass, class_chain, fixed_codes
from svcnet.iptables.elements import Op, element_text
from svcnet.iptables.ruleset import (
    CHAINS,
    CLUSTER_CIDR,
    INNER,
    LOCAL_SCOPE,
    SERVICE_CIDR,
    TABLE,
    TABLES,
    Chain,
    Choose,
    Class,
    ClearScratch,
    Dispatch,
    Drop,
    Field,
    Forget,
    FromHere,
    Goto,
    Load,
    Mark,
    Masquerade,
    Parameters,
    Pass,
    Protocols,
    Refuse,
    Remember,
    Replying,
    Rule,
    SetBits,
    Statement,
    Staying,
    TakeMark,
    Translate,
    Translated,
    TranslateTo,
    Within,
    base_chains,
)

SCHEMA_PREFIX = "schema-"
EVER = "3650d"
"""How long "for ever" is: a note without a time could not get one when the service changes its mind."""
OWNER_BITS = 0xFFFF0000 | LOCAL_SCOPE
"""What of a member says whose it is: the service port's id and the scope."""
SAMPLE_CODES = (
    *(
        ServingClass(kind, 1, pick).code()
        for kind in (Class.CLUSTER, Class.INTERNAL_LOCAL, Class.EXTERNAL, Class.EXTERNAL_LOCAL)
        for pick in ("random", "hash", "affinity")
    ),
    *(ServingClass(kind, 1).code() for kind in (Class.PROXIED, Class.PROXIED_LOCAL)),
)
"""One of each shape: their text is part of the schema."""


def _ip(family: int) -> str:
    return "ip" if family == 4 else "ip6"


def _v6(family: int) -> str:
    return "" if family == 4 else "v6"


def _fields(fields: Iterable[Field], family: int) -> str:
    ip, client = _ip(family), "ip saddr" if family == 4 else "@nh,96,96"
    return " . ".join(f.value.replace("%s", ip).replace("%c", client) for f in fields)


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
        case Translate(table, slots, offset, hashed):
            slot = f"jhash {_ip(family)} saddr mod {slots} seed 0x1" if hashed else f"numgen random mod {slots}"
            return f"dnat {_ip(family)} to meta priority . {slot}{_offset(offset)} map @{table}"
        case Goto(chain):
            return f"goto {chain}"
        case Refuse(tcp):
            return "reject with tcp reset" if tcp else f"reject with icmp{_v6(family)} type port-unreachable"
        case Replying():
            return "ct direction reply"
        case Staying():
            return 'oifname "lo"'
        case Pass():
            return "accept"
        case Drop():
            return "drop"
        case ClearScratch():
            return "meta priority set 0:0"
        case Masquerade():
            return "masquerade fully-random"
        case FromHere():
            return "fib saddr type local"
        case Choose() | SetBits() | Remember() | Forget() | TranslateTo():
            return _sticky(s, family)


def _sticky(s: Choose | SetBits | Remember | Forget | TranslateTo, family: int) -> str:
    note = f"meta priority and {OWNER_BITS:#x} . {_fields((Field.CLIENT,), family)}"
    match s:
        case Choose(table, slots, offset):
            return f"meta priority set meta priority . numgen random mod {slots}{_offset(offset)} map @{table}"
        case SetBits(bits):
            return f"meta priority set meta priority or {bits:#x}"
        case Remember(table, seconds):
            timeout = f"{seconds}s" if seconds else EVER
            return f"update @{table} {{ {note} timeout {timeout} : meta priority }}"
        case Forget(table):
            return f"delete @{table} {{ {note} : meta priority }}"
        case TranslateTo(table):
            return f"dnat {_ip(family)} to meta priority map @{table}"


def _offset(offset: int) -> str:
    return f" offset {offset}" if offset else ""


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


def render_class_chains(parameters: Parameters, codes: Iterable[int]) -> list[str]:
    """nft lines that add the chains of these codes, and their entries in maps `chains` and `inner-chains`."""
    lines: list[str] = []
    for code in codes:
        chain = class_chain(parameters, code)
        lines += _render_chain(chain, _ip(parameters.family), parameters.family)
        lines += _render_codes(parameters, (CHAINS, INNER), code, chain.name)
    return lines


def _render_codes(parameters: Parameters, tables: Iterable[str], code: int, chain: str) -> list[str]:
    what = f"{code >> 16:x}:{code & 0xFFFF:x} : goto {chain}"
    return [f"add element {_ip(parameters.family)} {TABLE} {table} {{ {what} }}" for table in tables]


def render(parameters: Parameters, codes: Iterable[int] = FIRST_CODES) -> list[str]:
    """nft lines that make the whole table, without services. Chains come before the rules that name them."""
    ip = _ip(parameters.family)
    lines = [f"add table {ip} {TABLE}", f"add chain {ip} {TABLE} {schema_name(parameters)}"]
    return lines + _render_tables(parameters) + _render_chains(parameters, codes)


def _render_tables(parameters: Parameters) -> list[str]:
    ip = _ip(parameters.family)
    kind = "ipv4_addr" if parameters.family == 4 else "ipv6_addr"
    lines: list[str] = []
    for t in TABLES:
        what = "map" if t.data else "set"
        shape = f"typeof {_fields(t.key, parameters.family)}"
        if t.interval:
            shape = f"type {kind}; flags interval; auto-merge"
        elif t.data:
            shape += " : " + _fields(t.data, parameters.family)
        if t.options:
            shape += f"; {t.options}"
        lines.append(f"add {what} {ip} {TABLE} {t.name} {{ {shape}; }}")
    for name, cidrs in ((SERVICE_CIDR, parameters.service_cidrs), (CLUSTER_CIDR, parameters.cluster_cidrs)):
        if cidrs:
            lines.append(f"add element {ip} {TABLE} {name} {{ {', '.join(cidrs)} }}")
    return lines


def _render_chains(parameters: Parameters, codes: Iterable[int]) -> list[str]:
    ip = _ip(parameters.family)
    chains = base_chains(parameters)
    lines = [f"add chain {ip} {TABLE} {c.name}" for c in chains if not c.hook]
    for chain in chains:
        lines += _render_chain(chain, ip, parameters.family)
    lines += render_class_chains(parameters, codes)
    for table, inner in ((CHAINS, False), (INNER, True)):
        for code, name in fixed_codes(inner=inner):
            lines += _render_codes(parameters, (table,), code, name)
    return lines


def schema_name(parameters: Parameters) -> str:
    """Name of the empty chain that says which schema a table was made with; a table without it is replaced."""
    text = "\n".join(_render_tables(parameters) + _render_chains(parameters, SAMPLE_CODES))
    return SCHEMA_PREFIX + sha256(text.encode()).hexdigest()[:12]


def render_elements(ops: Iterable[Op]) -> list[str]:
    """Additions as nft lines: for the one commit that replaces a table of another schema."""
    return [f"add element {_ip(op.family)} {TABLE} {op.table} {{ {element_text(op)} }}" for op in ops]
