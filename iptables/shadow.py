"""What we wrote for one family, so that the kernel need not be asked: ids, slots, frontends, address sets.

Owns: the step from a plan to element operations in an order that is safe to interrupt between commits
(docs/adr/0001): slots before the ids that lead to them, ids before the classes that send traffic, and the way back
for what goes. Does no I/O.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from svcnet.iptables.desired import Target, Treatment, packed
from svcnet.iptables.elements import Op, address_key, number, slot_key, target_data
from svcnet.iptables.ruleset import CLASSES, ENDPOINTS, HAIRPINS, SERVICES, VIRTUAL_IPS, Class
from svcnet.iptables.slots import assign, shares
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.plan import Change

Unit = tuple[Op, ...]
"""Operations that must be in one commit."""


class Front(NamedTuple):
    """What map `services` (0: nothing) and map `classes` (0: nothing) hold for a frontend."""

    port_id: int
    code: int


class Phases(NamedTuple):
    """Units in the order in which they may be committed."""

    slots: list[Unit]
    ids: list[Unit]
    classes: list[Unit]
    leftovers: list[Unit]

    def leading(self) -> Iterator[Unit]:
        """All that traffic follows."""
        for phase in (self.slots, self.ids, self.classes):
            yield from phase

    def units(self) -> Iterator[Unit]:
        """All of them."""
        yield from self.leading()
        yield from self.leftovers


class Shadow:
    """The elements of one family's table, as of the last commit."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.fronts: dict[Frontend, Front] = {}
        self.slots: dict[int, list[bytes]] = {}
        self.owners: dict[PortKey, int] = {}
        self.names: dict[int, PortKey] = {}
        self.users: Counter[int] = Counter()
        self.virtual_ips: Counter[bytes] = Counter()
        self.hairpins: Counter[bytes] = Counter()
        self.hairpins_of: dict[int, frozenset[bytes]] = {}
        self._next = 1
        self._free: list[int] = []
        self._freed: list[int] = []
        self._before: dict[tuple[str, bytes], int] = {}
        """How often an address was used before this plan, for those that it touches."""
        self.counts: set[int] = set()
        """The numbers of slots that the last `operations` need class chains for."""

    def reserve(self, highest: int) -> None:
        """Never give out an id up to `highest`: the kernel may still hold elements of it."""
        self._next = max(self._next, highest + 1)

    def operations(self, changes: Iterable[Change[Frontend, Treatment]]) -> Phases:
        """Turn changes into operations, and remember them as done: a commit that fails makes this shadow stale."""
        phases = Phases([], [], [], [])
        done: set[int] = set()
        self.counts = set()
        for change in changes:
            before = self.fronts.get(change.key, Front(0, 0))
            after = self._after(change, before, phases, done)
            self._point(change.key, before, after, phases)
        for counter, table in ((self.virtual_ips, VIRTUAL_IPS), (self.hairpins, HAIRPINS)):
            self._settle(counter, table, phases)
        # An id is free once its elements are gone, which is not before this batch is committed.
        self._free += self._freed
        self._freed.clear()
        return phases

    def _after(self, change: Change[Frontend, Treatment], before: Front, phases: Phases, done: set[int]) -> Front:
        wanted = change.after
        if wanted is None:
            return Front(0, 0)
        if wanted.kind is not Class.CLUSTER:
            return Front(0, wanted.kind.code())
        port_id = self._identify(wanted.owner, before)
        if port_id not in done:
            done.add(port_id)
            self._fill(port_id, wanted.targets, phases)
        return Front(port_id, wanted.kind.code(len(self.slots[port_id])))

    def _identify(self, owner: PortKey | None, before: Front) -> int:
        known = self.owners.get(owner) if owner else before.port_id
        if known:
            return known
        if self._free:
            port_id = self._free.pop()
        else:
            port_id, self._next = self._next, self._next + 1
        if owner:
            self.own(owner, port_id)
        return port_id

    def own(self, owner: PortKey, port_id: int) -> None:
        """Record whose id this is."""
        self.owners[owner] = port_id
        self.names[port_id] = owner

    def _fill(self, port_id: int, targets: tuple[Target, ...], phases: Phases) -> None:
        old = self.slots.get(port_id, [])
        new = assign(old, shares((target_data(t.address, t.port), t.weight) for t in targets))
        self.slots[port_id] = new
        self.counts.add(len(new))
        family = self.family
        for slot, (before, after) in enumerate(zip(old, new, strict=False)):
            if before != after:
                key = slot_key(port_id, slot)
                phases.ids.append((Op(family, ENDPOINTS, key, delete=True), Op(family, ENDPOINTS, key, after)))
        fresh = range(len(old), len(new))
        if fresh:
            phases.slots.append(tuple(Op(family, ENDPOINTS, slot_key(port_id, slot), new[slot]) for slot in fresh))
        self._cut(port_id, len(new), len(old), phases)
        self._hairpin(port_id, frozenset(packed(t.address) * 2 for t in targets if t.hairpin))

    def _cut(self, port_id: int, first: int, end: int, phases: Phases) -> None:
        """Delete slots from the last down, so that what an interruption leaves is 0..n without a hole."""
        for slot in reversed(range(first, end)):
            phases.leftovers.append((Op(self.family, ENDPOINTS, slot_key(port_id, slot), delete=True),))

    def _hairpin(self, port_id: int, new: frozenset[bytes]) -> None:
        old = self.hairpins_of.get(port_id, frozenset())
        for key in new - old:
            self._count(self.hairpins, HAIRPINS, key, 1)
        for key in old - new:
            self._count(self.hairpins, HAIRPINS, key, -1)
        if new:
            self.hairpins_of[port_id] = new
        else:
            self.hairpins_of.pop(port_id, None)

    def _point(self, front: Frontend, before: Front, after: Front, phases: Phases) -> None:
        key, family = address_key(front), self.family
        if before.port_id != after.port_id:
            change = _replace(family, SERVICES, key, before.port_id, after.port_id)
            (phases.ids if after.port_id else phases.leftovers).append(change)
            self.users[after.port_id] += 1
            self._leave(before.port_id, phases)
        if before.code != after.code:
            phases.classes.append(_replace(family, CLASSES, key, before.code, after.code))
        address = packed(front.address)
        if after.code and not before.code:
            self._count(self.virtual_ips, VIRTUAL_IPS, address, 1)
        if before.code and not after.code:
            self._count(self.virtual_ips, VIRTUAL_IPS, address, -1)
        if after == Front(0, 0):
            self.fronts.pop(front, None)
        else:
            self.fronts[front] = after

    def _count(self, counter: Counter[bytes], table: str, key: bytes, step: int) -> None:
        self._before.setdefault((table, key), counter[key])
        counter[key] += step

    def _settle(self, counter: Counter[bytes], table: str, phases: Phases) -> None:
        """Write what an address set lost or won over the whole plan: one may go and come back within it."""
        for (name, key), before in list(self._before.items()):
            if name != table:
                continue
            del self._before[name, key]
            if counter[key] and not before:
                phases.ids.append((Op(self.family, table, key),))
            if not counter[key]:
                del counter[key]
                if before:
                    phases.leftovers.append((Op(self.family, table, key, delete=True),))

    def _leave(self, port_id: int, phases: Phases) -> None:
        """One frontend less leads to this id; the last one takes its slots along."""
        if not port_id:
            return
        self.users[port_id] -= 1
        if self.users[port_id] > 0:
            return
        del self.users[port_id]
        self._cut(port_id, 0, len(self.slots.pop(port_id, ())), phases)
        self._hairpin(port_id, frozenset())
        owner = self.names.pop(port_id, None)
        if owner:
            del self.owners[owner]
        self._freed.append(port_id)


def _replace(family: int, table: str, key: bytes, before: int, after: int) -> Unit:
    unit: Unit = ()
    if before:
        unit += (Op(family, table, key, delete=True),)
    if after:
        unit += (Op(family, table, key, number(after)),)
    return unit
