"""What the kernel holds at start → a shadow of it, the same state in the plan's terms, and what nobody needs.

Owns: reading back. Identifies what is ours by keys and names alone, never by rule text. Pure: dumps come as arguments.
"""

from collections import Counter
from typing import NamedTuple

from svcnet.iptables.classes import GATE_LOCAL, GATE_RANGED, GATE_RANGED_LOCAL, class_of
from svcnet.iptables.desired import LOCAL, RANDOM, Desired, Pick, Target, Treatment, packed
from svcnet.iptables.elements import Op, frontend, number, slot_key, unnumber, unrange, unslot, untarget
from svcnet.iptables.held import hairpin_keys, is_sticky, share_out
from svcnet.iptables.ruleset import (
    BEHIND,
    CLASSES,
    ENDPOINTS,
    HAIRPINS,
    HERE,
    LOCAL_SCOPE,
    MEMBERS,
    PICKS,
    SERVICES,
    SHORT,
    SOURCE_RANGES,
    VIRTUAL_IPS,
    Class,
)
from svcnet.iptables.shadow import GATES, NOTHING, Front, Shadow, is_served
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.model.terms import USUAL
from svcnet.rendezvous import Rendezvous

Dump = list[tuple[bytes, bytes]]
READ_BACK = (
    SERVICES,
    CLASSES,
    ENDPOINTS,
    VIRTUAL_IPS,
    HAIRPINS,
    BEHIND,
    SOURCE_RANGES,
    SHORT,
    HERE,
    PICKS,
    MEMBERS,
)
"""Maps that `adopt` wants. Notes of clients are the rules' own business and are never touched."""


class Adopted(NamedTuple):
    """A shadow that equals the kernel, the frontends that work, and operations that clear what leads nowhere."""

    shadow: Shadow
    current: Desired
    garbage: list[Op]


def adopt(family: int, dumps: dict[str, Dump], desired: Desired) -> Adopted:
    """Read one family's elements. `desired` lends the names: the kernel knows ids only."""
    shadow, garbage = Shadow(family), []
    for key, data in dumps[CLASSES]:
        shadow.fronts[frontend(family, key)] = Front(0, unnumber(data))
    garbage += _gates(shadow, dumps)
    for key, data in dumps[SERVICES]:
        front, port_id = frontend(family, key), unnumber(data)
        before = shadow.fronts.get(front)
        shadow.reserve(port_id)
        if (before is None and front not in desired) or (before and not _translates(before)):
            garbage.append(Op(family, SERVICES, key, delete=True))
            continue
        shadow.fronts[front] = (before or NOTHING)._replace(port_id=port_id)
        shadow.users[port_id] += 1
    garbage += _slots(shadow, dumps)
    garbage += _routes(shadow, dumps)
    _own(shadow, desired)
    garbage += _addresses(shadow, dumps, desired)
    return Adopted(shadow, _current(shadow, desired), garbage)


def _translates(front: Front) -> bool:
    code = front.behind if front.code == GATE_RANGED else front.code
    return code in GATES or class_of(code) is not None


def _gates(shadow: Shadow, dumps: dict[str, Dump]) -> list[Op]:
    """Source ranges, and the classes behind them."""
    family, garbage = shadow.family, []
    for key, data in dumps[BEHIND]:
        front = frontend(family, key)
        before = shadow.fronts.get(front, NOTHING)
        if before.code == GATE_RANGED:
            shadow.fronts[front] = before._replace(behind=unnumber(data))
        else:
            garbage.append(Op(family, BEHIND, key, delete=True))
    for first, last in dumps[SOURCE_RANGES]:
        key = first + last
        front = frontend(family, key)
        before = shadow.fronts.get(front, NOTHING)
        if before.code in {GATE_RANGED, GATE_RANGED_LOCAL}:
            shadow.fronts[front] = before._replace(ranges=(*before.ranges, key))
        else:
            garbage.append(Op(family, SOURCE_RANGES, key, delete=True))
    return garbage


def _slots(shadow: Shadow, dumps: dict[str, Dump]) -> list[Op]:
    """What `endpoints`, and `picks` with `members`, say of each id and scope."""
    found: dict[tuple[int, int], dict[int, bytes]] = {}
    for key, data in dumps[ENDPOINTS]:
        port_id, slot = unslot(key)
        found.setdefault((port_id, slot & LOCAL_SCOPE), {})[slot & ~LOCAL_SCOPE] = data
    garbage = _place(shadow, ENDPOINTS, found, {})
    if not dumps[PICKS] and not dumps[MEMBERS]:
        return garbage
    targets = {unnumber(key): data for key, data in dumps[MEMBERS]}
    found = {}
    for key, data in dumps[PICKS]:
        port_id, slot = unslot(key)
        found.setdefault((port_id, slot & LOCAL_SCOPE), {})[slot & ~LOCAL_SCOPE] = data
    garbage += _place(shadow, PICKS, found, targets)
    used = {base | member for base, members in shadow.held.members.items() for member in members.values()}
    gone = (Op(shadow.family, MEMBERS, number(member), delete=True) for member in targets if member not in used)
    for member in targets:
        shadow.reserve(member & 0xFFFF0000)
    return [*garbage, *gone]


def _place(
    shadow: Shadow, table: str, found: dict[tuple[int, int], dict[int, bytes]], targets: dict[int, bytes]
) -> list[Op]:
    """Slots that are whole and used go to the shadow; the rest is garbage."""
    garbage: list[Op] = []
    for (port_id, scope), slots in found.items():
        shadow.reserve(port_id)
        sticky = table == PICKS
        whole = len(slots) == max(slots) + 1 and is_sticky(port_id) == sticky and port_id in shadow.users
        values = [slots[i] for i in range(len(slots))] if whole else []
        if whole and sticky:
            whole = _remember(shadow, port_id | scope, values, targets)
            values = [targets[unnumber(value)] for value in values] if whole else []
        if whole:
            shadow.held.slots[scope][port_id] = values
        else:
            keys = (slot_key(port_id, scope + slot) for slot in sorted(slots, reverse=True))
            garbage += [Op(shadow.family, table, key, delete=True) for key in keys]
    return garbage


def _remember(shadow: Shadow, base: int, values: list[bytes], targets: dict[int, bytes]) -> bool:
    """Take over the members that slots lead to; whether all are there, and none stands for another's target."""
    members = {unnumber(value) for value in values}
    if not all(member in targets and member & ~(LOCAL_SCOPE - 1) == base for member in members):
        return False
    by_target = {targets[member]: member - base for member in members}
    if len(by_target) != len(members):
        return False
    shadow.held.members[base] = by_target
    return True


def _routes(shadow: Shadow, dumps: dict[str, Dump]) -> list[Op]:
    for front in shadow.fronts.values():
        if front.code in GATES and front.port_id:
            shadow.gated[front.port_id] += 1
    garbage: list[Op] = []
    for place, table in enumerate((SHORT, HERE)):
        for key, data in dumps[table]:
            port_id = unnumber(key)
            if port_id not in shadow.gated:
                garbage.append(Op(shadow.family, table, key, delete=True))
                continue
            codes = shadow.routes.get(port_id, (0, 0))
            shadow.routes[port_id] = (unnumber(data), codes[1]) if not place else (codes[0], unnumber(data))
    return garbage


def _own(shadow: Shadow, desired: Desired) -> None:
    for front, (port_id, *_) in shadow.fronts.items():
        wanted = desired.get(front)
        if port_id and wanted and wanted.owner and port_id not in shadow.names and wanted.owner not in shadow.owners:
            shadow.own(wanted.owner, port_id)


def _addresses(shadow: Shadow, dumps: dict[str, Dump], desired: Desired) -> list[Op]:
    """Count who uses an address; mend the sets where a commit was cut off or somebody else was at work."""
    family = shadow.family
    wanted = {
        port_id: hairpin_keys(desired[front])
        for front, (port_id, *_) in shadow.fronts.items()
        if port_id and front in desired
    }
    virtual = {key for key, _ in dumps[VIRTUAL_IPS]}
    for front, held in shadow.fronts.items():
        of = desired.get(front)
        address = packed(front.address)
        if held.code and (of.virtual if of else address in virtual):
            shadow.fronts[front] = held._replace(virtual=True)
            shadow.virtual_ips[address] += 1
    there = {key for key, _ in dumps[HAIRPINS]}
    for slots in shadow.held.slots.values():
        for port_id, targets in slots.items():
            # Whose hairpin an address is: the kernel's set doesn't say, and services may differ (one knows the node).
            keys = frozenset(data[:-4] * 2 for data in targets) & there & wanted.get(port_id, frozenset(there))
            if keys:
                shadow.hairpins_of[port_id] = shadow.hairpins_of.get(port_id, frozenset()) | keys
    for keys in shadow.hairpins_of.values():
        shadow.hairpins.update(keys)
    ops = [Op(family, HAIRPINS, key, delete=True) for key in there if key not in shadow.hairpins]
    ops += [Op(family, VIRTUAL_IPS, key, delete=True) for key in virtual if key not in shadow.virtual_ips]
    return ops + [Op(family, VIRTUAL_IPS, key) for key in shadow.virtual_ips if key not in virtual]


def _current(shadow: Shadow, desired: Desired) -> Desired:
    """The frontends in force. One that is as it should be is the very treatment that it should have."""
    current: Desired = {}
    right: dict[int, bool] = {}
    for key, front in shadow.fronts.items():
        if not front.code:
            continue
        wanted = desired.get(key)
        if wanted is not None and _is_right(shadow, key, front, wanted, right):
            current[key] = wanted
            continue
        named = wanted.owner if wanted else None
        # What leads to no id has no owner in the kernel: it is whose it should be.
        owner = shadow.names.get(front.port_id) if front.port_id else named
        current[key] = _treatment(shadow, owner, front, wanted)
    return current


def _is_right(shadow: Shadow, key: Frontend, front: Front, wanted: Treatment, right: dict[int, bool]) -> bool:
    port_id = front.port_id
    if is_served(wanted) != bool(port_id):
        return False
    if port_id:
        if shadow.names.get(port_id) != wanted.owner:
            return False
        if port_id not in right:
            right[port_id] = _is_filled(shadow, port_id, wanted)
        if not right[port_id] or (front.code in GATES and not _is_routed(shadow, port_id)):
            return False
    expected = shadow.front(key, wanted, port_id)
    return expected._replace(ranges=()) == front._replace(ranges=()) and set(expected.ranges) == set(front.ranges)


def _is_filled(shadow: Shadow, port_id: int, wanted: Treatment) -> bool:
    """Whether an id's slots are those of a treatment; notes how one is picked, which its code then has to say."""
    pick = wanted.pick
    if is_sticky(port_id) != (pick.kind == "affinity"):
        return False
    if shadow.hairpins_of.get(port_id, frozenset()) != hairpin_keys(wanted):
        return False
    for scope, targets in ((0, wanted.targets), (LOCAL_SCOPE, wanted.local)):
        slots = shadow.held.slots[scope].get(port_id, [])
        share = share_out(targets, pick)
        if pick.kind == "hash":
            if slots != (Rendezvous().assign(share) if share else []):
                return False
        elif Counter(slots) != share:
            return False
    if pick != RANDOM:
        shadow.picks[port_id] = pick
    return True


def _is_routed(shadow: Shadow, port_id: int) -> bool:
    here = shadow.chain_code(Class.EXTERNAL_LOCAL, port_id) if shadow.held.count(port_id, LOCAL_SCOPE) else 0
    return shadow.routes.get(port_id) == (shadow.chain_code(Class.CLUSTER, port_id), here)


def _treatment(shadow: Shadow, owner: PortKey | None, front: Front, wanted: Treatment | None) -> Treatment:
    """What a frontend does that is not as it should be, as far as the kernel can tell."""
    code = front.behind if front.code == GATE_RANGED else front.code
    ranges = tuple(sorted(text for key in front.ranges for text in unrange(shadow.family, key)[1]))
    serving = class_of(code)
    if code in {GATE_LOCAL, GATE_RANGED_LOCAL}:
        kind, serving = Class.EXTERNAL_LOCAL, class_of(shadow.routes.get(front.port_id, (0, 0))[0])
    elif serving:
        kind = serving.kind
    else:
        kind = {c.value: c for c in Class}.get(code >> 16, Class.DROP)
    pick = Pick(serving.pick, serving.seconds) if serving else RANDOM
    slots = shadow.held.count(front.port_id, LOCAL_SCOPE if serving and serving.kind in LOCAL else 0)
    if not serving or serving.slots != slots:  # cut off between commits: without endpoints it differs from any plan
        return Treatment(kind, owner, (), (), pick, ranges, front.virtual)
    targets, local = (_targets(shadow, front.port_id, scope) for scope in (0, LOCAL_SCOPE))
    terms, levels = (wanted.terms, wanted.levels) if wanted else (USUAL, ())  # no kernel holds them
    found = Treatment(kind, owner, targets, local, pick, ranges, front.virtual, terms, levels)
    # What looks alike and is not (a table of slots that somebody changed) must still differ from the plan.
    return found if found != wanted else found._replace(targets=(), local=())


def _targets(shadow: Shadow, port_id: int, scope: int) -> tuple[Target, ...]:
    counts = Counter(shadow.held.slots[scope].get(port_id, []))
    hairpins = shadow.hairpins_of.get(port_id, frozenset())
    return tuple(sorted(Target(*untarget(data), n, hairpin=data[:-4] * 2 in hairpins) for data, n in counts.items()))
