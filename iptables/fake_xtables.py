"""iptables' tables in memory: they take what iptables-restore takes, refuse what it refuses, and route packets.

Owns: the behaviour that tests stand on: all or nothing a table, chains that must exist, chains in use that can't go.
An option that we never write is an error. Knows nothing of services.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from copy import deepcopy
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import NamedTuple

from svcnet.iptables.saved import Saved, parse
from svcnet.iptables.service_text import SET_PREFIX
from svcnet.iptables.xtables import RuleMissingError
from svcnet.model.errors import KernelError

BUILT_IN = {"nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"), "filter": ("INPUT", "FORWARD", "OUTPUT")}
Rules = dict[str, list[str]]

_VERDICTS = {"DROP": "dropped", "REJECT": "refused"}


class Packet(NamedTuple):
    """The first of a connection."""

    destination: str
    protocol: str
    port: int
    source: str = ""
    """"": somewhere that no rule names."""
    outgoing: bool = False
    """Made on this machine."""


class End(NamedTuple):
    """Of a packet's way."""

    place: str
    masqueraded: bool = False


class FakeTables:
    """Both families of one namespace. `fail_after` restores, KernelError comes, once."""

    def __init__(self, variant: str = "nft") -> None:
        self.variant = variant
        self.tables: dict[int, dict[str, Rules]] = {
            family: {table: {chain: [] for chain in chains} for table, chains in BUILT_IN.items()} for family in (4, 6)
        }
        self.ipsets: dict[str, int] = {}
        self.clients: dict[str, set[str]] = {}
        """Of each ipset; a test that acts as the kernel notes one, which then stays."""
        self.wants: dict[str, str] = {}
        """What this kernel lacks."""
        self.lingering: set[str] = set()
        """Ipsets that rules which went still hold, as nft tables do for a moment."""
        self.most_sets = 65_534
        self.log: list[str] = []
        self.reads = 0
        self.others = 0
        """Changes of somebody else: a test that acts as one counts itself here."""
        self.fail_after: int | None = None

    def save(self, family: int) -> Saved:
        """What is in force, by way of the text that iptables-save prints."""
        self.reads += 1
        return parse("\n".join(self._lines(family)))

    def restore(self, family: int, text: str) -> None:
        """One table after the other, each as a whole or not at all."""
        if not text:
            return
        if self.fail_after is not None:
            if self.fail_after == 0:
                self.fail_after = None
                raise KernelError("told to fail")
            self.fail_after -= 1
        self.log.append(text)
        table, work = "", Rules()
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("*"):
                table, work = line[1:], deepcopy(self.tables[family][line[1:]])
            elif line == "COMMIT":
                _check_targets(work)
                self._check_sets(work)
                self.tables[family][table] = work
            elif not _carry_out(work, line):
                raise RuleMissingError(f"line {number} failed: {line}")

    def lacks(self, family: int) -> Mapping[str, str]:
        """The same for both families."""
        assert family in self.tables
        return self.wants

    def sets(self, family: int) -> frozenset[str]:
        """Ours of a family."""
        return frozenset(name for name in self.ipsets if name.startswith(f"{SET_PREFIX}{family}-"))

    def make_sets(self, family: int, names: Iterable[str]) -> None:
        """Make them. KernelError where there is no room."""
        for name in names:
            if len(self.ipsets) >= self.most_sets:
                raise KernelError("ipset: Kernel error received: maximal number of sets reached, cannot create more.")
            self.ipsets[name] = family
            self.clients.setdefault(name, set())

    def empty_sets(self, names: Iterable[str]) -> None:
        """Forget clients."""
        for name in names:
            self.clients[name].clear()

    def drop_sets(self, names: Iterable[str], seconds: float = 0.0) -> frozenset[str]:
        """Those stay that a rule names."""
        assert seconds >= 0
        mine = self.ipsets.keys() & set(names)
        left = mine & ({word for words in self._rules() for word in words} | self.lingering)
        for name in mine - left:
            del self.ipsets[name], self.clients[name]
        return frozenset(left)

    def watermark(self) -> Hashable:
        """Changes so far."""
        return len(self.log), self.others

    def visit(self, source: str, endpoint: str) -> None:
        """Let a client of a service with affinity have been led to an endpoint."""
        for rules in (r for tables in self.tables.values() for r in tables["nat"].values()):
            if any(rule.endswith(f"--to-destination {endpoint}") for rule in rules):
                for option, name in pairwise(" ".join(rules).split()):
                    if option == "--add-set":
                        self.clients[name].add(source)

    def reach(self, packet: Packet) -> frozenset[str]:
        """Where packets may end: endpoints, or `refused`, `dropped`, `passed`."""
        return frozenset(end.place for end in self.ends(packet))

    def ends(self, packet: Packet) -> frozenset[End]:
        """The same, with what becomes of their source; packets of others are forwarded."""
        tables = self.tables[6 if ":" in packet.destination else 4]
        found: set[End] = set()
        for end in self._walk(tables["nat"], "OUTPUT" if packet.outgoing else "PREROUTING", packet, marked=False):
            if end.place == "passed":
                found |= set(self._walk(tables["filter"], "OUTPUT" if packet.outgoing else "FORWARD", packet))
            else:
                found.add(end)
        return frozenset(found)

    def _walk(self, chains: Rules, chain: str, packet: Packet, *, marked: bool = False) -> Iterator[End]:
        """Every possible end of a packet in a chain; `passed` when it comes out of it again."""
        buckets = 0
        for rule in chains[chain]:
            words = rule.split()
            if not _matches(words, packet, self.clients):
                continue
            target = _target(rule)
            if target == "DNAT":
                yield End(words[words.index("--to-destination") + 1], marked)
            elif target in _VERDICTS:
                yield End(_VERDICTS[target])
            elif target in chains:
                inner = set(self._walk(chains, target, packet, marked=marked))
                out = {end for end in inner if end.place == "passed"}
                yield from inner - out
                if out and "-g" not in words:
                    marked = any(end.masqueraded for end in out)
                    continue
                yield from out
            elif target == "RETURN":
                yield End("passed", marked)
            elif target not in {"MARK", "MASQUERADE", "SET"}:
                raise KernelError(f"unknown target: {rule}")
            else:
                marked |= target == "MARK"
                continue
            if "--cluster-local-nodemask" in words:
                buckets |= int(words[words.index("--cluster-local-nodemask") + 1], 16)
                if buckets == 2 ** int(words[words.index("--cluster-total-nodes") + 1]) - 1:
                    return
            elif "--probability" not in words:
                return
        yield End("passed", marked)

    def _rules(self) -> Iterator[list[str]]:
        chains = (chain for family in self.tables.values() for table in family.values() for chain in table.values())
        yield from (rule.split() for chain in chains for rule in chain)

    def _check_sets(self, work: Rules) -> None:
        for words in (rule.split() for rules in work.values() for rule in rules):
            for option, name in pairwise(words):
                if option in {"--match-set", "--add-set"} and name not in self.ipsets:
                    raise KernelError(f"Set {name} doesn't exist.")

    def _lines(self, family: int) -> Iterator[str]:
        for table, chains in self.tables[family].items():
            yield f"*{table}"
            yield from (f":{chain} {'ACCEPT' if chain in BUILT_IN[table] else '-'} [0:0]" for chain in chains)
            yield from (f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules)
            yield "COMMIT"


def _carry_out(work: Rules, line: str) -> bool:
    """One line; False when it can't be."""
    if line.startswith(":"):
        work[line[1:].partition(" ")[0]] = []
        return True
    command, _, rest = line.partition(" ")
    chain, _, rule = rest.partition(" ")
    rule = rule.replace('"', "")
    if chain not in work:
        return False
    match command:
        case "-A":
            work[chain].append(rule)
        case "-I":
            work[chain].insert(int(rule.split()[0]) - 1, rule.partition(" ")[2])
        case "-C":
            return rule in work[chain]
        case "-D":
            if rule not in work[chain]:
                return False
            work[chain].remove(rule)
        case "-X":
            used = any(_target(r) == chain for rules in work.values() for r in rules)
            if work[chain] or used:
                return False
            del work[chain]
        case _:
            return False
    return True


def _check_targets(work: Rules) -> None:
    for rules in work.values():
        for rule in rules:
            target = _target(rule)
            if target.startswith("SVCNET-") and target not in work:
                raise RuleMissingError(f"goto '{target}' is not a chain")


def _target(rule: str) -> str:
    words = rule.split()
    place = next((i for i, word in enumerate(words) if word in {"-j", "-g"}), None)
    return "" if place is None else words[place + 1]


def _matches(words: list[str], packet: Packet, clients: Mapping[str, set[str]]) -> bool:
    """Whether a packet of a new connection from somewhere else matches; chance always may."""
    for option, value in pairwise(words):
        match option:
            case "-d" if ip_address(packet.destination) not in ip_network(value):
                return False
            case "-p" if value != packet.protocol:
                return False
            case "--dport" if int(value) != packet.port:
                return False
            case "--ctstate" if value != "NEW":
                return False
            case "-s" if not packet.source or ip_address(packet.source) not in ip_network(value):
                return False
            case "--src-type" if not packet.outgoing:
                return False
            case "--match-set" if packet.source not in clients[value]:
                return False
            case "--ctdir":
                return False
            case _:
                continue
    return True
