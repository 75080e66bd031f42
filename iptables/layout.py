"""Frontends → our chains of one family, and which of them a change touches. Our own record of what was written.

Owns: which chain and which ipset exists. Knows neither the kernel nor programs. A change costs what it touches,
whatever else there is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
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
from svcnet.iptables.desired import Desired, Treatment
from svcnet.iptables.prefix_tree import ROOT, WIDTH, Prefix, PrefixTree
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.service_text import Rendering, rendering
from svcnet.model.frontend import Frontend
from svcnet.plan import Change, diff

FIRST_BITS = {4: 16, 6: 112}
"""Where the tree begins, unless a service CIDR is wider: services may have addresses outside of it."""

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

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.family = parameters.family
        lengths = [ip_network(cidr).prefixlen for cidr in parameters.service_cidrs]
        self._tree = PrefixTree(self.family, min([*lengths, FIRST_BITS[self.family]]))
        self._addresses: dict[str, dict[Frontend, Treatment]] = {}
        self._sets: Counter[str] = Counter()

    @property
    def sets(self) -> frozenset[str]:
        """The ipsets that our chains name."""
        return frozenset(self._sets)

    def everything(self, desired: Desired) -> Chains:
        """Fill an empty layout; every chain there is."""
        mine = {front: t for front, t in desired.items() if front.family == self.family}
        edit = self._node(ROOT) | self.apply(diff({}, mine).changes()).edit
        return fixed_chains(self.parameters) | {chain: lines for chain, lines in edit.items() if lines is not None}

    def of(self, front: Frontend) -> Iterator[tuple[Chain, Lines]]:
        """What makes one frontend work: its own chains, and its address's in both tables."""
        fronts = self._addresses[front.address]
        yield from self._rendering(front, fronts[front]).chains.items()
        for chain, lines in self._address(front.address, Branch()).items():
            if lines is not None:
                yield chain, lines

    def apply(self, changes: Iterable[Change[Frontend, Treatment]]) -> Writing:
        """Take changes of this family in; what differs then."""
        edit: Edit = {}
        nodes: set[Prefix] = set()
        branches: dict[str, Branch] = {}
        users: Counter[str] = Counter()
        for front, before, after in changes:
            branches.setdefault(front.address, self._branch(front.address))
            old, new = self._rendering(front, before), self._rendering(front, after)
            edit |= dict.fromkeys(old.chains)
            edit |= new.chains
            users.subtract(old.sets)
            users.update(new.sets)
            nodes |= self._enter(front, after)
        for address, branch in branches.items():
            edit |= self._address(address, branch)
            if self._branch(address) != branch:
                nodes.add(self._tree.parent(number(address)))
        for node in nodes:
            edit |= self._node(node)
        return Writing(edit, *self._count(users))

    def _count(self, users: Counter[str]) -> tuple[frozenset[str], frozenset[str]]:
        """Keep count of who names an ipset; (fresh ones, those that nobody names any more)."""
        needed = frozenset(name for name, more in users.items() if more > 0 and not self._sets[name])
        self._sets.update(users)
        unneeded = frozenset(name for name in users if self._sets[name] <= 0)
        for name in unneeded:
            del self._sets[name]
        return needed - unneeded, unneeded

    def _rendering(self, front: Frontend, treatment: Treatment | None) -> Rendering:
        return rendering(front, treatment, self.parameters) if treatment else Rendering({})

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
