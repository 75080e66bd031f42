"""What the kernel holds for the ids of service ports: slots of both scopes, members, hairpins.

Owns: the operations that lead the slots of an id to other endpoints, in the phases in which they may be committed.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from svcnet.iptables.classes import MOST_STICKY_SLOTS
from svcnet.iptables.desired import Pick, Target, Treatment, packed
from svcnet.iptables.elements import Op, number, slot_key, target_data
from svcnet.iptables.ruleset import ENDPOINTS, LOCAL_SCOPE, MEMBERS, PICKS
from svcnet.iptables.slots import MAX_SLOTS, assign, shares
from svcnet.rendezvous import Rendezvous

Unit = tuple[Op, ...]
"""Operations that must be in one commit."""


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


def is_sticky(port_id: int) -> bool:
    """Whether an id is of a service port with affinity: members are its low half."""
    return not port_id & 0xFFFF


def share_out(targets: tuple[Target, ...], pick: Pick) -> Counter[bytes]:
    """Targets as the kernel has them → how many slots each has (hash: its weight)."""
    most = MOST_STICKY_SLOTS if pick.kind == "affinity" else MAX_SLOTS
    return shares(((target_data(t.address, t.port), t.weight) for t in targets[:most]), most)


def hairpin_keys(treatment: Treatment) -> frozenset[bytes]:
    """Keys of set `hairpins`."""
    found = {packed(t.address) * 2 for t in treatment.targets if t.hairpin}
    if treatment.local:
        found |= {packed(t.address) * 2 for t in treatment.local if t.hairpin}
    return frozenset(found)


class Held:
    """Slots as the targets that they lead to, by id; scope `all` is 0, scope `local` is LOCAL_SCOPE."""

    def __init__(self, family: int) -> None:
        self._family = family
        self.slots: dict[int, dict[int, list[bytes]]] = {0: {}, LOCAL_SCOPE: {}}
        self.members: dict[int, dict[bytes, int]] = {}
        """By id | scope: target → member."""
        self._last: dict[int, int] = {}
        self._tables: dict[int, Rendezvous] = {}

    def count(self, port_id: int, scope: int) -> int:
        """How many slots."""
        return len(self.slots[scope].get(port_id, ()))

    def fill(self, port_id: int, treatment: Treatment, pick: Pick, phases: Phases) -> None:
        """Lead the slots of an id to the targets of a treatment."""
        self._fill(port_id, 0, treatment.targets, pick, phases)
        if treatment.local or port_id in self.slots[LOCAL_SCOPE]:
            self._fill(port_id, LOCAL_SCOPE, treatment.local, pick, phases)

    def clear(self, port_id: int, phases: Phases) -> None:
        """An id that nobody leads to any more."""
        for scope in self.slots:
            if port_id in self.slots[scope]:
                self._fill(port_id, scope, (), Pick(), phases)
            self._last.pop(port_id | scope, None)

    def _fill(self, port_id: int, scope: int, targets: tuple[Target, ...], pick: Pick, phases: Phases) -> None:
        held = self.slots[scope]
        old = held.get(port_id, [])
        wanted = share_out(targets, pick)
        table = port_id << 1 | bool(scope)
        if pick.kind == "hash" and wanted:
            new = self._tables.setdefault(table, Rendezvous()).assign(wanted)
        else:
            new = assign(old, wanted)
            if self._tables:
                self._tables.pop(table, None)
        if is_sticky(port_id):
            self._write_members(port_id, scope, old, new, phases)
        else:
            self._write(ENDPOINTS, port_id, scope, old, new, phases)
        if new:
            held[port_id] = new
        else:
            held.pop(port_id, None)

    def _write(self, table: str, port_id: int, scope: int, old: list[bytes], new: list[bytes], phases: Phases) -> None:
        family = self._family
        for slot, (before, after) in enumerate(zip(old, new, strict=False), scope):
            if before != after:
                key = slot_key(port_id, slot)
                phases.ids.append((Op(family, table, key, delete=True), Op(family, table, key, after)))
        if len(new) > len(old):
            fresh = range(len(old), len(new))
            phases.slots.append(tuple(Op(family, table, slot_key(port_id, scope + slot), new[slot]) for slot in fresh))
        # From the last down, so that what an interruption leaves is 0..n without a hole.
        for slot in reversed(range(len(new), len(old))):
            phases.leftovers.append((Op(family, table, slot_key(port_id, scope + slot), delete=True),))

    def _write_members(self, port_id: int, scope: int, old: list[bytes], new: list[bytes], phases: Phases) -> None:
        """Slots lead to members, members to targets: a client's member stays what it is while its target does."""
        base = port_id | scope
        members = self.members.setdefault(base, {})
        before = [number(base | members[target]) for target in old]
        for target in dict.fromkeys(new):
            if target not in members:
                members[target] = self._new_member(base, members)
                phases.slots.append((Op(self._family, MEMBERS, number(base | members[target]), target),))
        self._write(PICKS, port_id, scope, before, [number(base | members[target]) for target in new], phases)
        for target in members.keys() - set(new):
            member = number(base | members.pop(target))
            phases.leftovers.append((Op(self._family, MEMBERS, member, delete=True),))
        if not members:
            del self.members[base]

    def _new_member(self, base: int, members: dict[bytes, int]) -> int:
        """In turn, so that clients of an endpoint that went are not all led to the next one that comes."""
        used = set(members.values())
        member = self._last.get(base) or max(used, default=0)
        while True:
            member = member % (LOCAL_SCOPE - 1) + 1
            if member not in used:
                self._last[base] = member
                return member
