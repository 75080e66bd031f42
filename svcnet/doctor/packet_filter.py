"""Rules of any packet filter in one form, and what becomes of a packet in them as far as that can be told.

Owns: the form that iptables' and nft's listings are read into, and the walk. What a rule
asks that isn't understood makes its answer unknown, never a guess.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

Network = IPv4Network | IPv6Network
NEST = 32
"""Deepest jumps that are followed; the kernel allows 16."""
OWN_CHAIN, OWN_TABLE = "SVCNET-", "svcnet"


class Verdict(StrEnum):
    """What a rule does to a packet that it matches."""

    NONE = "none"
    ACCEPT = "accept"
    DROP = "drop"
    TRANSLATE = "translate"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"


class Ask(StrEnum):
    """What a rule may ask of a packet."""

    SOURCE = "source"
    DESTINATION = "destination"
    WANTED = "wanted"
    """The address that the connection's first packet was sent to (conntrack's original destination)."""
    STATE = "state"
    """Values: conntrack's states in small letters, and "dnat" for a translated destination."""
    PROTOCOL = "protocol"
    """Values: tcp, udp, … in small letters."""
    LOCAL = "local"
    """Whether the destination is an address of this machine."""
    OTHER = "other"


NETWORKS = frozenset({Ask.SOURCE, Ask.DESTINATION, Ask.WANTED})
"""Questions whose values are networks."""


class Question(NamedTuple):
    """One question; it holds if any value does."""

    ask: Ask
    values: tuple[Any, ...] = ()
    """Networks, or words."""
    negated: bool = False


class Rule(NamedTuple):
    """One rule: all answers are yes → verdict."""

    questions: tuple[Question, ...]
    verdict: Verdict
    target: str = ""
    """Chain of a jump."""
    text: str = ""
    """As its program prints it."""
    handle: int = 0
    """nft's name of it."""


class Chain(NamedTuple):
    """Rules in order. `hook` and `kind` ("filter", "nat", …) only of a base chain."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    kind: str = ""
    policy: Verdict = Verdict.RETURN


class Table(NamedTuple):
    """One table of one family of rules."""

    program: str
    """`nft`, or `iptables-legacy`, `ip6tables-nft` …: who edits it."""
    family: str
    """nft's: ip, ip6, inet."""
    name: str
    chains: Mapping[str, Chain]

    def serves(self, version: int) -> bool:
        """Whether packets of this IP version come here."""
        return self.family in {"inet", "ip" if version == 4 else "ip6"}

    @property
    def is_own(self) -> bool:
        """Whether svcnet made all of it."""
        return self.name == OWN_TABLE


class Packet(NamedTuple):
    """What is known of the packets in question; () is unknown."""

    version: int
    state: str
    sources: tuple[Network, ...] = ()
    destinations: tuple[Network, ...] = ()
    wanted: tuple[Network, ...] = ()
    translated: bool = False
    local: bool = False
    protocol: str = ""


class Fate(NamedTuple):
    """What becomes of the packets: ACCEPT, DROP, or RETURN at the end of a chain that is no base chain."""

    verdict: Verdict
    rule: Rule | None = None
    """That decides it; None: the policy."""
    place: int | None = None
    """Place in the first chain, from 0, of the rule that leads to it; None: behind the last."""
    doubtful: bool = False
    """Some of the packets may have been accepted before."""


def answer(question: Question, packet: Packet) -> bool | None:
    """Whether it holds for all packets (True), for none (False), or that can't be told."""
    networks = question.values if question.ask in NETWORKS else ()
    if networks and all(network.version != packet.version for network in networks):
        return False  # it asks for the other IP version, whichever way
    found = _plain_answer(question, packet)
    return found if found is None or not question.negated else not found


def _plain_answer(question: Question, packet: Packet) -> bool | None:
    if question.ask is Ask.STATE:
        return packet.state in question.values or (packet.translated and "dnat" in question.values)
    if question.ask is Ask.PROTOCOL:
        return packet.protocol in question.values if packet.protocol else None
    if question.ask is Ask.LOCAL:
        return packet.local
    known = {Ask.SOURCE: packet.sources, Ask.DESTINATION: packet.destinations, Ask.WANTED: packet.wanted}.get(
        question.ask
    )
    if known is None:
        return None
    asked = [value for value in question.values if value.version == packet.version]
    if any(value.prefixlen == 0 for value in asked):
        return True
    if not known:
        return None
    if all(any(network.subnet_of(value) for value in asked) for network in known):
        return True
    return None if any(network.overlaps(value) for network in known for value in asked) else False


def matches(rule: Rule, packet: Packet) -> bool | None:
    """Whether all packets (True), none (False), or some unknown share match a rule."""
    answers = [answer(question, packet) for question in rule.questions]
    if False in answers:
        return False
    return None if None in answers else True


def fate(table: Table, chain: Chain, packet: Packet, depth: int = 0) -> Fate:
    """Walk a chain. A packet is stopped only by a rule that surely matches, or by the policy."""
    doubtful = False
    for index, rule in enumerate(chain.rules):
        hit = matches(rule, packet)
        if hit is False or rule.verdict in {Verdict.NONE, Verdict.TRANSLATE}:
            continue
        if rule.verdict in {Verdict.JUMP, Verdict.GOTO}:
            below = table.chains.get(rule.target)
            if below is None or depth >= NEST or rule.target.startswith(OWN_CHAIN):
                continue
            end = fate(table, below, packet, depth + 1)
            doubtful |= end.doubtful or (hit is None and end.verdict is Verdict.ACCEPT)
            if hit and end.verdict is not Verdict.RETURN:
                return Fate(end.verdict, end.rule, index, doubtful)
            if hit and rule.verdict is Verdict.GOTO:
                return Fate(chain.policy, None, index, doubtful)
        elif hit:
            return Fate(rule.verdict, rule, index, doubtful)
        elif rule.verdict is Verdict.ACCEPT:
            doubtful = True
    return Fate(chain.policy, None, None, doubtful)


class Found(NamedTuple):
    """A rule and the chain that it stands in."""

    chain: str
    rule: Rule


def translating(table: Table, chain: Chain, packet: Packet, depth: int = 0) -> Iterator[Found]:
    """The rules that translate, or may translate, some of the packets before rules of ours do."""
    for rule in chain.rules:
        hit = matches(rule, packet)
        if hit is False:
            continue
        if rule.target.startswith(OWN_CHAIN):
            return
        if rule.verdict is Verdict.TRANSLATE:
            yield Found(chain.name, rule)
        elif rule.verdict in {Verdict.JUMP, Verdict.GOTO} and depth < NEST and rule.target in table.chains:
            yield from translating(table, table.chains[rule.target], packet, depth + 1)
        if hit and rule.verdict not in {Verdict.NONE, Verdict.JUMP}:
            return


def base_chains(
    tables: Iterable[Table], version: int, kind: str, hooks: Iterable[str]
) -> Iterator[tuple[Table, Chain]]:
    """The chains of others that packets of a version meet at these hooks."""
    wanted = set(hooks)
    for table in tables:
        if table.serves(version) and not table.is_own:
            for chain in table.chains.values():
                if chain.hook in wanted and chain.kind == kind:
                    yield table, chain
