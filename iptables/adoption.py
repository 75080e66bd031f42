"""What the kernel holds at start → a shadow of it, the same state in the plan's terms, and what nobody needs.

Owns: reading back. Identifies what is ours by keys and names alone, never by rule text. Pure: dumps come as arguments.
"""

from collections import Counter
from typing import NamedTuple

from svcnet.iptables.desired import Desired, Target, Treatment, packed
from svcnet.iptables.elements import Op, frontend, slot_key, unnumber, unslot, untarget
from svcnet.iptables.ruleset import CLASSES, ENDPOINTS, HAIRPINS, SERVICES, VIRTUAL_IPS, Class
from svcnet.iptables.shadow import Front, Shadow
from svcnet.model.snapshot import PortKey

Dump = list[tuple[bytes, bytes]]


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
    for key, data in dumps[SERVICES]:
        front = frontend(family, key)
        before = shadow.fronts.get(front)
        if (before is None and front not in desired) or (before and before.code >> 16 != Class.CLUSTER.value):
            garbage.append(Op(family, SERVICES, key, delete=True))
            continue
        shadow.fronts[front] = Front(unnumber(data), before.code if before else 0)
        shadow.users[unnumber(data)] += 1
    garbage += _slots(shadow, dumps[ENDPOINTS])
    _own(shadow, desired)
    garbage += _addresses(shadow, dumps, desired)
    shadow.reserve(max((unnumber(data) for _, data in dumps[SERVICES]), default=0))
    return Adopted(shadow, _current(shadow, desired), garbage)


def _slots(shadow: Shadow, dump: Dump) -> list[Op]:
    found: dict[int, dict[int, bytes]] = {}
    for key, data in dump:
        port_id, slot = unslot(key)
        found.setdefault(port_id, {})[slot] = data
    garbage: list[Op] = []
    highest = 0
    for port_id, slots in found.items():
        highest = max(highest, port_id)
        whole = len(slots) == max(slots) + 1
        if whole and port_id in shadow.users:
            shadow.slots[port_id] = [slots[i] for i in range(len(slots))]
        else:
            keys = (slot_key(port_id, slot) for slot in sorted(slots, reverse=True))
            garbage += [Op(shadow.family, ENDPOINTS, key, delete=True) for key in keys]
    shadow.reserve(highest)
    return garbage


def _own(shadow: Shadow, desired: Desired) -> None:
    for front, (port_id, _code) in shadow.fronts.items():
        wanted = desired.get(front)
        if port_id and wanted and wanted.owner and port_id not in shadow.names and wanted.owner not in shadow.owners:
            shadow.own(wanted.owner, port_id)


def _addresses(shadow: Shadow, dumps: dict[str, Dump], desired: Desired) -> list[Op]:
    """Count who uses an address; mend the sets where a commit was cut off or somebody else was at work."""
    family = shadow.family
    wanted = _wanted_hairpins(shadow, desired)
    shadow.virtual_ips = Counter(packed(f.address) for f, front in shadow.fronts.items() if front.code)
    there = {key for key, _ in dumps[HAIRPINS]}
    for port_id, slots in shadow.slots.items():
        keys = frozenset(data[:-4] * 2 for data in slots) & there & wanted.get(port_id, there)
        if keys:
            shadow.hairpins_of[port_id] = keys
            shadow.hairpins.update(keys)
    ops = [Op(family, HAIRPINS, key, delete=True) for key in there if key not in shadow.hairpins]
    there = {key for key, _ in dumps[VIRTUAL_IPS]}
    ops += [Op(family, VIRTUAL_IPS, key, delete=True) for key in there if key not in shadow.virtual_ips]
    return ops + [Op(family, VIRTUAL_IPS, key) for key in shadow.virtual_ips if key not in there]


def _wanted_hairpins(shadow: Shadow, desired: Desired) -> dict[int, set[bytes]]:
    """Whose hairpin an address is: the kernel's set doesn't say, and services may differ (one knows the node)."""
    return {
        port_id: {packed(t.address) * 2 for t in desired[front].targets if t.hairpin}
        for front, (port_id, _code) in shadow.fronts.items()
        if port_id and front in desired
    }


def _current(shadow: Shadow, desired: Desired) -> Desired:
    current: Desired = {}
    for front, (port_id, code) in shadow.fronts.items():
        if code:
            wanted = desired.get(front)
            named = wanted.owner if wanted else None
            # What leads to no id has no owner in the kernel: it is whose it should be.
            owner = shadow.names.get(port_id) if port_id else named
            current[front] = _treatment(shadow, owner, port_id, code)
    return current


def _treatment(shadow: Shadow, owner: PortKey | None, port_id: int, code: int) -> Treatment:
    high, low = code >> 16, code & 0xFFFF
    if high != Class.CLUSTER.value:
        known = {c.value: c for c in Class}
        return Treatment(known.get(high, Class.DROP), owner)
    slots = shadow.slots.get(port_id, [])
    if len(slots) != low:  # cut off between commits: no endpoints here makes the plan see a difference
        return Treatment(Class.CLUSTER, owner)
    counts = Counter(slots)
    hairpins = shadow.hairpins_of.get(port_id, frozenset())
    targets = (Target(*untarget(data), n, hairpin=data[:-4] * 2 in hairpins) for data, n in counts.items())
    return Treatment(Class.CLUSTER, owner, tuple(sorted(targets)))
