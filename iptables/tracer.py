"""A packet's way through the rules, without a kernel: walks the statements of a FakeKernel's chains.

Owns: what each statement does to a packet. A statement that it does not know is an error, never a guess.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from svcnet.iptables.desired import packed
from svcnet.iptables.elements import address_key, number, slot_key, unnumber, untarget
from svcnet.iptables.fake import FakeKernel, FakeTable
from svcnet.iptables.nft_text import render_rule
from svcnet.iptables.ruleset import (
    ADDRESS_KEY,
    SERVICE_CIDR,
    SOURCE_RANGES,
    Chain,
    Choose,
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
    Pass,
    Protocols,
    Refuse,
    Remember,
    Replying,
    SetBits,
    Statement,
    Staying,
    TakeMark,
    Translate,
    Translated,
    TranslateTo,
    Within,
)
from svcnet.model.frontend import Frontend


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection. `outgoing`: made on this minion (hook output), else it came in."""

    source: str
    destination: str
    protocol: str
    port: int
    outgoing: bool = False
    scratch: int = 0
    mark: int = 0
    translated: bool = False

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.destination else 4


class Arrival(NamedTuple):
    """Where a connection may end. `masqueraded`: the endpoint sees an address of this minion as the source."""

    address: str
    port: int
    masqueraded: bool


@dataclass(frozen=True)
class Outcome:
    """`verdict` is translated, refused, dropped or passed; `arrivals` has each possible end with its share of 1."""

    verdict: str
    arrivals: dict[Arrival, float]
    steps: tuple[str, ...]


class End(NamedTuple):
    """One way through one hook's chains: what became of the packet, and how likely."""

    verdict: str
    packet: Packet
    share: float


class Fork(NamedTuple):
    """Packets that a rule goes on with, and how likely."""

    packets: list[tuple[Packet, float]]


class UnknownStatementError(Exception):
    """The tracer does not know what a statement does."""


def trace(kernel: FakeKernel, packet: Packet) -> Outcome:
    """Send one packet through NAT in its first hook, then through postrouting."""
    table = kernel.tables.get(packet.family)
    if table is None:
        return Outcome("passed", {}, ("no table",))
    steps: list[str] = []
    arrivals: Counter[Arrival] = Counter()
    verdicts: set[str] = set()
    for end in _hook(table, "output" if packet.outgoing else "prerouting", packet, steps):
        if end.verdict in {"refused", "dropped"}:
            verdicts.add(end.verdict)
            continue
        last = next(_hook(table, "postrouting", end.packet, steps))
        verdicts.add("dropped" if last.verdict == "dropped" else "translated" if end.packet.translated else "passed")
        where = Arrival(end.packet.destination, end.packet.port, last.verdict == "masqueraded")
        arrivals[where] += end.share  # type: ignore[assignment]  # Counter is typed for int; shares add up alike
    if len(verdicts) != 1:
        raise UnknownStatementError(f"one packet, several verdicts: {sorted(verdicts)}")
    verdict = verdicts.pop()
    return Outcome(verdict, dict(arrivals) if verdict == "translated" else {}, tuple(steps))


def _hook(table: FakeTable, hook: str, packet: Packet, steps: list[str]) -> Iterator[End]:
    """Run every base chain of a hook in order of priority; a random choice yields each possibility."""
    chains = sorted((c for c in table.chains.values() if c.hook and c.hook[1] == hook), key=lambda c: c.hook or ())
    chains.sort(key=lambda c: c.hook[2] if c.hook else 0)
    ends = [End("", packet, 1.0)]
    for chain in chains:
        ends = [
            after
            for end in ends
            for after in ([end] if end.verdict in {"refused", "dropped"} else _chain(table, chain, end, steps))
        ]
    yield from ends


def _chain(table: FakeTable, chain: Chain, end: End, steps: list[str], at: tuple[int, int] = (0, 0)) -> list[End]:
    """What becomes of a packet from rule at[0] on, statement at[1] on."""
    packet = end.packet
    for number_of, rule in list(enumerate(chain.rules))[at[0] :]:
        first = at[1] if number_of == at[0] else 0
        for position, statement in list(enumerate(rule))[first:]:
            result = _step(table, statement, packet)
            if result is None:
                break
            if isinstance(result, Packet):
                packet = result
                continue
            step = f"{chain.name}: {render_rule(rule, packet.family)}"
            if step not in steps:
                steps.append(step)
            here = End(end.verdict, packet, end.share)
            return _follow(table, chain, here, steps, result, (number_of, position + 1))
    return [End(end.verdict, packet, end.share)]


def _follow(
    table: FakeTable, chain: Chain, end: End, steps: list[str], result: "str | Fork | list[End]", after: tuple[int, int]
) -> list[End]:
    if isinstance(result, str):
        return _chain(table, table.chains[result], end, steps)
    if isinstance(result, Fork):
        ways = (_chain(table, chain, End(end.verdict, p, end.share * n), steps, after) for p, n in result.packets)
        return [way for ends in ways for way in ends]
    return [End(e.verdict, e.packet, e.share * end.share) for e in result]


def _step(table: FakeTable, s: Statement, p: Packet) -> "Packet | Fork | str | list[End] | None":
    """None: no match, next rule. Packet, or several: go on in this rule. str: that chain. Ends: final."""
    match s:
        case Load(name, key):
            found = table.maps[name].get(_key(key, p))
            return None if found is None else replace(p, scratch=unnumber(found))
        case Dispatch(name):
            chain = table.maps[name].get(number(p.scratch))
            return None if chain is None else chain.decode()
        case Within(fields, name, negated):
            return p if _within(table, fields, name, p) != negated else None
        case Protocols(names):
            return p if p.protocol in names else None
        case Mark(bit):
            return replace(p, mark=p.mark | bit)
        case TakeMark(bit):
            return replace(p, mark=p.mark ^ bit) if p.mark & bit else None
        case Translated():
            return p if p.translated else None
        case Replying():
            return None  # what is traced opens a connection
        case Staying():  # nothing of the service CIDR is sent anywhere but to the userspace proxy of this minion
            return p if p.translated and _within(table, (Field.DADDR,), SERVICE_CIDR, p) else None
        case Pass():
            return [End("", p, 1.0)]
        case ClearScratch():
            return replace(p, scratch=0)
        case FromHere():
            return p if p.outgoing else None
        case SetBits(bits):
            return replace(p, scratch=p.scratch | bits)
        case Remember() | Forget():
            return p  # tracing changes nothing
        case Goto(name):
            return name
        case _:
            return _final(table, s, p)


def _final(table: FakeTable, s: Statement, p: Packet) -> "Fork | list[End] | None":
    match s:
        case Translate(name, slots, offset):
            # A hash is as likely to be any slot as a random number, over all clients.
            found = _slots(table, name, range(offset, offset + slots), p)
            return [End("", _sent(p, data), share) for data, share in found]
        case Choose(name, slots, offset):
            members = _slots(table, name, range(offset, offset + slots), p)
            return Fork([(replace(p, scratch=unnumber(member)), share) for member, share in members])
        case TranslateTo(name):
            target = table.maps[name].get(number(p.scratch))
            return None if target is None else [End("", _sent(p, target), 1.0)]
        case Refuse(tcp):
            return [End("refused", p, 1.0)] if not tcp or p.protocol == "tcp" else None
        case Drop():
            return [End("dropped", p, 1.0)]
        case Masquerade():
            return [End("masqueraded", p, 1.0)]
    raise UnknownStatementError(str(s))


def _slots(table: FakeTable, name: str, slots: range, p: Packet) -> list[tuple[bytes, float]]:
    """(data, share) of slots that are as likely as each other."""
    found = table.maps[name]
    for slot in slots:
        if slot_key(p.scratch, slot) not in found:
            raise UnknownStatementError(f"no slot {slot} of id {p.scratch}: a share of the connections is lost")
    counts = Counter(found[slot_key(p.scratch, slot)] for slot in slots)
    return [(data, count / len(slots)) for data, count in counts.items()]


def _sent(p: Packet, data: bytes) -> Packet:
    address, port = untarget(data)
    return replace(p, destination=address, port=port, translated=True)


def _key(fields: tuple[Field, ...], p: Packet) -> bytes:
    if fields[:3] == ADDRESS_KEY:
        return address_key(Frontend(p.family, p.destination, p.protocol, p.port)) + _key(fields[3:], p)
    source = packed(p.source)
    parts = {Field.SADDR: source, Field.DADDR: packed(p.destination), Field.SCRATCH: number(p.scratch)}
    parts[Field.CLIENT] = source[-12:]
    return b"".join(parts[field] for field in fields)


def _within(table: FakeTable, fields: tuple[Field, ...], name: str, p: Packet) -> bool:
    if name in table.networks:
        address = ip_address(p.source if fields[0] is Field.SADDR else p.destination)
        return any(address in ip_network(n) for n in table.networks[name])
    key = _key(fields, p)
    if name == SOURCE_RANGES:
        half = len(key)
        return any(first[:half] <= key <= first[half:] for first in table.maps[name])
    return key in table.maps[name]
