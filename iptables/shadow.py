"""What we wrote for one family, so that the kernel need not be asked: ids, frontends, address sets.

Owns: the step from a plan to element operations in an order that is safe to interrupt between commits
(docs/adr/0001): slots before the ids that lead to them, ids before the classes that send traffic, and the way back
for what goes. Does no I/O. Slots themselves are in held.py.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from svcnet.iptables.classes import (
    GATE_LOCAL,
    GATE_RANGED,
    GATE_RANGED_LOCAL,
    ServingClass,
)
from svcnet.iptables.desired import LOCAL, RANDOM, SERVING, Pick, Treatment, packed
from svcnet.iptables.elements import Op, address_key, number, range_keys
from svcnet.iptables.held import Held, Phases, Unit, hairpin_keys, is_sticky
from svcnet.iptables.ruleset import (
    BEHIND,
    CLASSES,
    HAIRPINS,
    HERE,
    LOCAL_SCOPE,
    SERVICES,
    SHORT,
    SOURCE_RANGES,
    VIRTUAL_IPS,
    Class,
)
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.plan import Change

GATES = frozenset({GATE_LOCAL, GATE_RANGED_LOCAL})
"""Codes that look up maps `short` and `here`."""
MOST_STICKY_IDS = 0xFFFF


class Front(NamedTuple):
    """What map `services` (0: nothing), `classes` (0: nothing), `behind` and `source-ranges` hold for a frontend."""

    port_id: int = 0
    code: int = 0
    virtual: bool = False
    behind: int = 0
    ranges: tuple[bytes, ...] = ()


NOTHING = Front()


def is_served(treatment: Treatment) -> bool:
    """Whether an id and slots belong to it."""
    targets = treatment.local if treatment.kind is Class.INTERNAL_LOCAL else treatment.targets
    return treatment.kind in SERVING and bool(targets)


class Shadow:
    """The elements of one family's table, as of the last commit."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.fronts: dict[Frontend, Front] = {}
        self.held = Held(family)
        self.picks: dict[int, Pick] = {}
        """By id, where it is not random."""
        self.owners: dict[PortKey, int] = {}
        self.names: dict[int, PortKey] = {}
        self.users: Counter[int] = Counter()
        self.gated: Counter[int] = Counter()
        """Frontends by id whose code looks up `short` and `here`."""
        self.routes: dict[int, tuple[int, int]] = {}
        """By id: codes in `short` and `here`."""
        self.virtual_ips: Counter[bytes] = Counter()
        self.hairpins: Counter[bytes] = Counter()
        self.hairpins_of: dict[int, frozenset[bytes]] = {}
        self._next, self._next_sticky = 1, 1
        self._free: dict[bool, list[int]] = {False: [], True: []}
        self._freed: list[int] = []
        self._touched: set[int] = set()
        self._before: dict[tuple[str, bytes], int] = {}
        """How often an address was used before this plan, for those that it touches."""
        self.codes: set[int] = set()
        """The codes that the last `operations` need class chains for."""

    def reserve(self, port_id: int) -> None:
        """Never give out an id up to this one: the kernel may still hold elements of it."""
        if is_sticky(port_id):
            self._next_sticky = max(self._next_sticky, (port_id >> 16) + 1)
        else:
            self._next = max(self._next, port_id + 1)

    def operations(self, changes: Iterable[Change[Frontend, Treatment]]) -> Phases:
        """Turn changes into operations, and remember them as done: a commit that fails makes this shadow stale."""
        phases = Phases([], [], [], [])
        done: set[int] = set()
        self.codes = set()
        for change in changes:
            before = self.fronts.get(change.key, NOTHING)
            after = self._after(change, before, phases, done)
            self._point(change.key, before, after, phases)
        for port_id in self._touched | (done & self.gated.keys()):
            self._route(port_id, phases)
        self._touched.clear()
        for counter, table in ((self.virtual_ips, VIRTUAL_IPS), (self.hairpins, HAIRPINS)):
            self._settle(counter, table, phases)
        # An id is free once its elements are gone, which is not before this batch is committed.
        for port_id in self._freed:
            self._free[is_sticky(port_id)].append(port_id)
        self._freed.clear()
        return phases

    def _after(self, change: Change[Frontend, Treatment], before: Front, phases: Phases, done: set[int]) -> Front:
        wanted = change.after
        if wanted is None:
            return NOTHING
        port_id = 0
        if is_served(wanted):
            port_id = self._identify(wanted, before)
            if port_id not in done:
                done.add(port_id)
                self._fill(port_id, wanted, phases)
        return self.front(change.key, wanted, port_id)

    def front(self, key: Frontend, wanted: Treatment, port_id: int) -> Front:
        """What a treatment is in the kernel, once the slots of its id are filled."""
        code = self._code(wanted.kind, port_id)
        if not wanted.ranges or wanted.kind is Class.DROP:
            return Front(port_id, code, wanted.virtual)
        ranges = range_keys(key, wanted.ranges)
        if code == GATE_LOCAL:
            return Front(port_id, GATE_RANGED_LOCAL, wanted.virtual, 0, ranges)
        return Front(port_id, GATE_RANGED, wanted.virtual, code, ranges)

    def _code(self, kind: Class, port_id: int) -> int:
        if not port_id:
            return (Class.DROP if kind in LOCAL else Class.REFUSE if kind in SERVING else kind).code()
        return GATE_LOCAL if kind is Class.EXTERNAL_LOCAL else self.chain_code(kind, port_id)

    def chain_code(self, kind: Class, port_id: int) -> int:
        """The code of the class chain for an id's slots of the kind's scope."""
        slots = self.held.count(port_id, LOCAL_SCOPE if kind in LOCAL else 0)
        pick = self.picks.get(port_id, RANDOM)
        code = ServingClass(kind, slots, pick.kind, pick.seconds).code()
        self.codes.add(code)
        return code

    def _identify(self, wanted: Treatment, before: Front) -> int:
        owner, sticky = wanted.owner, wanted.pick.kind == "affinity"
        known = self.owners.get(owner, 0) if owner else before.port_id
        if known and is_sticky(known) == sticky:
            return known
        port_id = self._new_id(sticky=sticky)
        if owner:
            self.own(owner, port_id)
        return port_id

    def _new_id(self, *, sticky: bool) -> int:
        free = self._free[sticky]
        if sticky and self._next_sticky <= MOST_STICKY_IDS:
            # Not those that are free, as long as there are others: their clients may still be remembered.
            self._next_sticky += 1
            return (self._next_sticky - 1) << 16
        if free:
            return free.pop(0 if sticky else -1)
        if is_sticky(self._next):
            self._next += 1
        self._next += 1
        return self._next - 1

    def own(self, owner: PortKey, port_id: int) -> None:
        """Record whose id this is."""
        self.owners[owner] = port_id
        self.names[port_id] = owner

    def _fill(self, port_id: int, wanted: Treatment, phases: Phases) -> None:
        pick = wanted.pick
        if pick.kind == "affinity" and not is_sticky(port_id):
            pick = RANDOM  # no id is left for it
        if pick != RANDOM:
            self.picks[port_id] = pick
        elif self.picks:
            self.picks.pop(port_id, None)
        self.held.fill(port_id, wanted, pick, phases)
        self._hairpin(port_id, hairpin_keys(wanted))

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
        moved = before.port_id != after.port_id
        ids = _replace(family, SERVICES, key, before.port_id, after.port_id) if moved else ()
        classes = _replace(family, CLASSES, key, before.code, after.code)
        behind = _replace(family, BEHIND, key, before.behind, after.behind)
        if before.ranges != after.ranges:
            self._limit(before.ranges, after.ranges, phases)
        if moved and before.port_id and after.port_id:
            phases.classes.append(ids + behind + classes)  # an old class may not fit the new id
        else:
            for unit, led in ((ids, after.port_id), (behind, after.behind)):
                if unit:
                    (phases.ids if led else phases.leftovers).append(unit)
            if classes:
                phases.classes.append(classes)
        self._use(before, after, phases)
        address = packed(front.address)
        was, held = bool(before.code and before.virtual), bool(after.code and after.virtual)
        if was != held:
            self._count(self.virtual_ips, VIRTUAL_IPS, address, held - was)
        if after == NOTHING:
            self.fronts.pop(front, None)
        else:
            self.fronts[front] = after

    def _limit(self, before: tuple[bytes, ...], after: tuple[bytes, ...], phases: Phases) -> None:
        """All at once: the kernel takes no ranges that overlap, and nobody is let in or kept out in between."""
        old, new = set(before), set(after)
        unit = tuple(Op(self.family, SOURCE_RANGES, key, delete=True) for key in before if key not in new)
        unit += tuple(Op(self.family, SOURCE_RANGES, key) for key in after if key not in old)
        (phases.ids if after else phases.leftovers).append(unit)

    def _use(self, before: Front, after: Front, phases: Phases) -> None:
        """Count which ids lead where; the last frontend that leaves one takes its slots along."""
        for front, step in ((after, 1), (before, -1)):
            if front.code in GATES:
                self.gated[front.port_id] += step
                self._touched.add(front.port_id)
        if before.port_id != after.port_id:
            if after.port_id:
                self.users[after.port_id] += 1
            self._leave(before.port_id, phases)

    def _route(self, port_id: int, phases: Phases) -> None:
        """What maps `short` and `here` say of an id."""
        old, new = self.routes.pop(port_id, (0, 0)), (0, 0)
        if self.gated[port_id] > 0:
            here = self.chain_code(Class.EXTERNAL_LOCAL, port_id) if self.held.count(port_id, LOCAL_SCOPE) else 0
            new = self.routes[port_id] = (self.chain_code(Class.CLUSTER, port_id), here)
        else:
            del self.gated[port_id]
        for table, before, after in zip((SHORT, HERE), old, new, strict=True):
            if before != after:
                # Without endpoints here, clients from outside are dropped: as with any other class, before slots go.
                phase = phases.ids if after else phases.classes if new[0] else phases.leftovers
                phase.append(_replace(self.family, table, number(port_id), before, after))

    def _count(self, counter: Counter[bytes], table: str, key: bytes, step: int) -> None:
        now = counter.get(key, 0)
        self._before.setdefault((table, key), now)
        counter[key] = now + step

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
        self.held.clear(port_id, phases)
        self._hairpin(port_id, frozenset())
        self.picks.pop(port_id, None)
        owner = self.names.pop(port_id, None)
        if owner and self.owners.get(owner) == port_id:
            del self.owners[owner]
        self._freed.append(port_id)


def _replace(family: int, table: str, key: bytes, before: int, after: int) -> Unit:
    if before == after:
        return ()
    unit: Unit = ()
    if before:
        unit += (Op(family, table, key, delete=True),)
    if after:
        unit += (Op(family, table, key, number(after)),)
    return unit
