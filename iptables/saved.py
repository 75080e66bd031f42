"""What iptables-save prints → our chains as they are in force, and the frontends that they serve. Pure.

Owns: reading back, at start and after an error. A line that is not exactly as we write it is rewritten, so a
misunderstanding here costs one more rewrite and never a wrong rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from svcnet.iptables.chain_text import FILTER, JUMPS, NAT, PREFIX, SERVICES, Chain, jump
from svcnet.iptables.desired import SERVING, Desired, Target, Treatment
from svcnet.iptables.layout import Layout
from svcnet.iptables.prefix_tree import WIDTH
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend


@dataclass
class Saved:
    """One family. Lines without quotes: our comments have no spaces."""

    chains: dict[Chain, tuple[str, ...]] = field(default_factory=dict)
    """Ours."""
    jumps: dict[Chain, list[str]] = field(default_factory=dict)
    """Built-in chain → its rules that lead to us, whole and as printed."""
    in_front: set[Chain] = field(default_factory=set)
    """Built-in chains whose first rule, and no other, is ours and as it should be."""
    foreign: int = 0
    """Rules that are not ours."""

    @property
    def whole(self) -> bool:
        """Whether packets come to us at all."""
        return self.in_front == JUMPS.keys()


def parse(text: str) -> Saved:
    """Read the output of iptables-save, of any tables."""
    saved = Saved()
    lines: dict[Chain, list[str]] = {}
    first: dict[Chain, str] = {}
    table = ""
    for raw in text.splitlines():
        if raw.startswith("*"):
            table = raw[1:].strip()
        elif raw.startswith(":" + PREFIX):
            lines[Chain(table, raw[1:].split(" ", 1)[0])] = []
        elif raw.startswith("-A "):
            name, _, rule = raw[3:].partition(" ")
            chain = Chain(table, name)
            if name.startswith(PREFIX):
                lines.setdefault(chain, []).append(rule.replace('"', ""))
                continue
            first.setdefault(chain, rule.replace('"', ""))
            if _target(rule).startswith(PREFIX):
                saved.jumps.setdefault(chain, []).append(rule)
            else:
                saved.foreign += 1
    saved.chains = {chain: tuple(rules) for chain, rules in lines.items()}
    saved.in_front = {
        chain
        for chain, target in JUMPS.items()
        if first.get(chain) == jump(target) and len(saved.jumps.get(chain, ())) == 1
    }
    return saved


def current(family: int, saved: Saved, desired: Mapping[Frontend, Treatment], layout: Layout) -> Desired:
    """The frontends that work; `layout` holds the wanted ones.

    What is written exactly as we would is as wanted; of the rest the plan says what can be read: kind and endpoints.
    """
    if not saved.whole:
        return {}
    found: Desired = {}
    filtered = {address for _, address in _leaves(family, saved, FILTER)}
    for chain, address in _leaves(family, saved, NAT):
        as_wanted = all(saved.chains.get(c) == lines for c, lines in layout.at(address).items())
        for line in saved.chains.get(Chain(NAT, chain), ()):
            words = line.split()
            front = Frontend(family, address, _after(words, "-p"), int(_after(words, "--dport") or 0))
            wanted = desired.get(front)
            if wanted is not None:
                reached = address in filtered or not _is_filtered(wanted)
                if reached and as_wanted and all(saved.chains.get(c) == lines for c, lines in layout.of(front)):
                    found[front] = wanted
                    continue
            kind = _kind(_after(words, "--comment"))
            targets = _targets(saved, _after(words, "-g")) if kind in SERVING else ()
            there = Treatment(kind, wanted.owner if wanted else None, targets)
            if there != wanted and (targets or kind not in SERVING):
                found[front] = there
    return found


def _is_filtered(treatment: Treatment) -> bool:
    return treatment.virtual or treatment.kind not in SERVING or bool(treatment.ranges)


def _leaves(family: int, saved: Saved, table: str) -> set[tuple[str, str]]:
    """(chain, address) of every branch of the tree that ends at an address, as far as the root leads there."""
    whole = f"/{WIDTH[family]}"
    found: set[tuple[str, str]] = set()
    nodes, seen = [SERVICES], {SERVICES}
    while nodes:
        for line in saved.chains.get(Chain(table, nodes.pop()), ()):
            words = line.split()
            prefix, target = _after(words, "-d"), _after(words, "-g")
            if not prefix or not target:
                continue
            if prefix.endswith(whole):
                found.add((target, prefix.removesuffix(whole)))
            elif target not in seen:
                seen.add(target)
                nodes.append(target)
    return found


def _targets(saved: Saved, chain: str) -> tuple[Target, ...]:
    """The endpoints of a frontend's chain."""
    targets: list[Target] = []
    for line in saved.chains.get(Chain(NAT, chain), ()):
        words = line.split()
        to, own = _after(words, "--to-destination"), _after(words, "-g")
        weight = int(_after(words, "--comment").removeprefix("weight=") or 1)
        if own:
            inner = saved.chains.get(Chain(NAT, own), ())
            to = _after(inner[-1].split(), "--to-destination") if inner else ""
        if to:
            host, _, port = to.rpartition(":")
            targets.append(Target(host.strip("[]"), int(port), weight, hairpin=bool(own)))
    return tuple(targets)


def _kind(label: str) -> Class:
    suffix = label.partition(",")[2]
    return Class[suffix.upper()] if suffix.upper() in Class.__members__ else Class.CLUSTER


def _after(words: list[str], option: str) -> str:
    """The word after an option, or ""."""
    return words[words.index(option) + 1] if option in words[:-1] else ""


def _target(rule: str) -> str:
    words = rule.split()
    return _after(words, "-j") or _after(words, "-g")
