"""Frontends → our chains of one family, and which of them a change touches. Our own record of what was written.

Owns: which chain and which ipset exists. Knows neither the kernel nor programs. A change costs what it touches,
whatever else there is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from types import MappingProxyType
from typing import NamedTuple

from svcnet.iptables.chain_text import (
    FILTER,
    NAT,
    REFUSE,
    Chain,
    Chains,
    Lines,
    address_lines,
    address_name,
    filter_lines,
    fixed_chains,
    is_virtual,
    node_line,
    node_name,
    number,
    text_address,
)
from svcnet.iptables.desired import SERVING, Desired, Treatment
from svcnet.iptables.prefix_tree import ROOT, WIDTH, Prefix, PrefixTree
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.service_text import Rendering, rendering
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.plan import Change, diff

FIRST_BITS = {4: 16, 6: 112}
"""Where the tree begins, unless a service CIDR is wider: services may have addresses outside of it."""

MOST_SETS = 30_000
"""Ipsets of a family: a network namespace has room for 65,534, those of others included."""

Edit = dict[Chain, Lines | None]
"""Chains to rewrite, and to delete (None)."""


class Branch(NamedTuple):
    """How the tree of the filter table leads to an address: to lines of its own, to a refusal of it all, or not."""

    own: bool = False
    refused: bool = False


class Writing(NamedTuple):
    """What a plan writes: chains, and the ipsets that must be there before and may go after."""

    edit: Edit
    needed: frozenset[str] = frozenset()
    unneeded: frozenset[str] = frozenset()


class Layout:
    """All of our chains of one family, empty at first."""

    def __init__(self, parameters: Parameters, lacks: Mapping[str, str] = MappingProxyType({})) -> None:
        """`lacks`: what this kernel and these programs can't do (`Tables.lacks`)."""
        self.parameters = parameters
        self._lacks = lacks
        self.family = parameters.family
        lengths = [ip_network(cidr).prefixlen for cidr in parameters.service_cidrs]
        self._tree = PrefixTree(self.family, min([*lengths, FIRST_BITS[self.family]]))
        self._addresses: dict[str, dict[Frontend, Treatment]] = {}
        self._sets: Counter[str] = Counter()
        self._by_chance: dict[Frontend, LeftOut] = {}
        """Frontends that are served in another way than asked for."""

    @property
    def sets(self) -> frozenset[str]:
        """The ipsets that our chains name."""
        return frozenset(self._sets)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is asked for and not done, by service port; may be called while another thread applies changes."""
        return tuple(dict.fromkeys(self._by_chance.copy().values()))

    def everything(self, desired: Desired) -> Chains:
        """Fill an empty layout; every chain there is."""
        mine = {front: t for front, t in desired.items() if front.family == self.family}
        edit = self._node(ROOT) | self.apply(diff({}, mine).changes()).edit
        return fixed_chains(self.parameters, self._lacks) | {
            chain: lines for chain, lines in edit.items() if lines is not None
        }

    def of(self, front: Frontend) -> Iterator[tuple[Chain, Lines]]:
        """What makes one frontend work besides its address's chains."""
        yield from self._rendering(front, self._addresses[front.address][front]).chains.items()

    def at(self, address: str) -> Chains:
        """An address's chains in both tables; none for one that nobody holds. O(its ports)."""
        edit = self._address(address, Branch())
        return {chain: lines for chain, lines in edit.items() if lines is not None}

    def apply(self, changes: Iterable[Change[Frontend, Treatment]]) -> Writing:
        """Take changes of this family in; what differs then."""
        edit: Edit = {}
        nodes: set[Prefix] = set()
        branches: dict[str, Branch] = {}
        touched: dict[str, bool] = {}
        for front, before, after in changes:
            branches.setdefault(front.address, self._branch(front.address))
            old = self._rendering(front, before)
            new = self._renew(front, after, old, touched)
            edit |= dict.fromkeys(old.chains)
            edit |= new.chains
            nodes |= self._enter(front, after)
        for address, branch in branches.items():
            edit |= self._address(address, branch)
            if self._branch(address) != branch:
                nodes.add(self._tree.parent(number(address)))
        for node in nodes:
            edit |= self._node(node)
        needed = frozenset(name for name, was in touched.items() if not was and name in self._sets)
        return Writing(edit, needed, frozenset(name for name, was in touched.items() if was and name not in self._sets))

    def _rendering(self, front: Frontend, treatment: Treatment | None) -> Rendering:
        if treatment is None:
            return Rendering({})
        lacks = {*self._lacks, treatment.pick.kind} if front in self._by_chance else self._lacks.keys()
        return rendering(front, treatment, self.parameters, lacks)

    def _renew(self, front: Frontend, after: Treatment | None, old: Rendering, touched: dict[str, bool]) -> Rendering:
        """Render a frontend as its service wants it, or else by chance; `touched`: ipset → whether it was there."""
        self._by_chance.pop(front, None)
        new = self._rendering(front, after)
        touched |= {name: name in self._sets for name in old.sets | new.sets if name not in touched}
        for name in old.sets:
            self._sets[name] -= 1
            if not self._sets[name]:
                del self._sets[name]
        if after is None or after.kind not in SERVING:
            return new
        why = self._lacks.get(after.pick.kind, "")
        if len(self._sets) + len(new.sets - self._sets.keys()) > MOST_SETS and new.sets:
            why = f"session affinity is not kept: iptables mode has room for {MOST_SETS} endpoints with it"
        if why:
            self._by_chance[front] = LeftOut(str(after.owner or front), why)
            new = self._rendering(front, after)
        self._sets.update(new.sets)
        return new

    def _enter(self, front: Frontend, after: Treatment | None) -> set[Prefix]:
        """Note a frontend; nodes of the tree that differ then."""
        fronts = self._addresses.setdefault(front.address, {})
        was_held = bool(fronts)
        if after is None:
            fronts.pop(front, None)
        else:
            fronts[front] = after
        if fronts:
            return set() if was_held else self._tree.add(number(front.address))
        del self._addresses[front.address]
        return self._tree.remove(number(front.address))

    def _address(self, address: str, before: Branch) -> Edit:
        """An address's chain in each table; few have lines in filter."""
        fronts = self._addresses.get(address, {})
        name = address_name(address)
        edit: Edit = {Chain(NAT, name): address_lines(fronts) or None}
        filtering = filter_lines(fronts)
        if filtering or before.own:
            edit[Chain(FILTER, name)] = filtering or None
        return edit

    def _branch(self, address: str) -> Branch:
        fronts = self._addresses.get(address, {})
        return Branch(bool(filter_lines(fronts)), is_virtual(fronts))

    def _node(self, node: Prefix) -> Edit:
        """A node's chain in each table."""
        name = node_name(self.family, node)
        children = self._tree.children(node)
        if children is None:
            return {Chain(NAT, name): None, Chain(FILTER, name): None}
        nat: list[str] = []
        refusing: list[str] = []
        for child in children:
            if child.length < WIDTH[self.family]:
                line = node_line(self.family, child, node_name(self.family, child))
                nat.append(line)
                refusing.append(line)
                continue
            address = text_address(self.family, child.number)
            nat.append(node_line(self.family, child, address_name(address)))
            branch = self._branch(address)
            if branch.own:
                refusing.append(node_line(self.family, child, address_name(address)))
            elif branch.refused:
                refusing.append(node_line(self.family, child, REFUSE))
        return {Chain(NAT, name): tuple(nat), Chain(FILTER, name): tuple(refusing)}
