"""Frontends → our chains of one family, and which of them a change touches. Our own record of what was written.

Owns: which chain exists. Knows neither the kernel nor programs. A change costs what it touches, whatever else there is.
"""

from collections.abc import Iterable
from ipaddress import ip_network

from svcnet.iptables.chain_text import (
    FILTER,
    NAT,
    REFUSE,
    Chain,
    Chains,
    Lines,
    address_lines,
    address_name,
    dropped_lines,
    fixed_chains,
    node_line,
    node_name,
    number,
    service_chains,
    text_address,
)
from svcnet.iptables.desired import Desired, Treatment
from svcnet.iptables.prefix_tree import ROOT, WIDTH, Prefix, PrefixTree
from svcnet.iptables.ruleset import Class, Parameters
from svcnet.model.frontend import Frontend
from svcnet.plan import Change, diff

FIRST_BITS = {4: 16, 6: 112}
"""Where the tree begins, unless a service CIDR is wider: services may have addresses outside of it."""

Edit = dict[Chain, Lines | None]
"""Chains to rewrite, and to delete (None)."""


class Layout:
    """All of our chains of one family, empty at first."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.family = parameters.family
        lengths = [ip_network(cidr).prefixlen for cidr in parameters.service_cidrs]
        self._tree = PrefixTree(self.family, min([*lengths, FIRST_BITS[self.family]]))
        self._addresses: dict[str, dict[Frontend, Treatment]] = {}

    def everything(self, desired: Desired) -> Chains:
        """Fill an empty layout; every chain there is."""
        mine = {front: t for front, t in desired.items() if front.family == self.family}
        edit = self._node(ROOT) | self.apply(diff({}, mine).changes())
        return fixed_chains(self.parameters) | {chain: lines for chain, lines in edit.items() if lines is not None}

    def apply(self, changes: Iterable[Change[Frontend, Treatment]]) -> Edit:
        """Take changes of this family in; the chains that differ then."""
        edit: Edit = {}
        nodes: set[Prefix] = set()
        addresses: set[str] = set()
        for front, before, after in changes:
            edit |= dict.fromkeys(self._service(front, before))
            edit |= self._service(front, after)
            nodes |= self._enter(front, after)
            addresses.add(front.address)
            if Class.DROP in {t.kind for t in (before, after) if t}:
                nodes.add(self._tree.parent(number(front.address)))
        for address in addresses:
            fronts = self._addresses.get(address)
            edit[Chain(NAT, address_name(address))] = address_lines(fronts) if fronts else None
        for node in nodes:
            edit |= self._node(node)
        return edit

    def _service(self, front: Frontend, treatment: Treatment | None) -> Chains:
        return service_chains(front, treatment, self.parameters.masquerade_bit) if treatment else {}

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
            refusing += dropped_lines(self._addresses[address])
            refusing.append(node_line(self.family, child, REFUSE))
        return {Chain(NAT, name): tuple(nat), Chain(FILTER, name): tuple(refusing)}
