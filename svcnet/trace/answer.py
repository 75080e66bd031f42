"""What a data path would do with one packet now.

Owns: the shape of the live answer, and the parts of it that are worked out of elements. Pure.
"""

from collections.abc import Iterator
from typing import NamedTuple

from svcnet.iptables.classes import class_of, codes_of
from svcnet.iptables.desired import LOCAL, packed
from svcnet.iptables.elements import Op, address_key, element_text, number, slot_key, unnumber, untarget
from svcnet.iptables.fake import FakeTable
from svcnet.iptables.held import is_sticky
from svcnet.iptables.ruleset import (
    BEHIND,
    CLASSES,
    ENDPOINTS,
    HERE,
    LOCAL_SCOPE,
    MEMBERS,
    PICKS,
    SERVICES,
    SHORT,
    SOURCE_RANGES,
    VIRTUAL_IPS,
)
from svcnet.iptables.shadow import GATES
from svcnet.iptables.tracer import Outcome, Packet
from svcnet.jhash import KNOWN, jhash, scaled
from svcnet.model.frontend import Frontend

HASH_SEED = 1


class Answer(NamedTuple):
    """`what` names the rules that were asked. `pinned`: the ends are those of this one client, not of all."""

    what: str
    outcome: Outcome
    elements: tuple[str, ...] = ()
    pinned: bool = False
    remark: str = ""


def port_id(table: FakeTable, packet: Packet) -> int:
    """The id of the service port that a packet's address leads to; 0: none."""
    found = table.maps[SERVICES].get(_key(packet))
    return unnumber(found) if found else 0


def elements_of(table: FakeTable, packet: Packet) -> Iterator[str]:
    """The elements that decide about a packet, each as MAP: ELEMENT in nft's text."""
    family, key, ident = packet.family, _key(packet), port_id(table, packet)
    wanted = [(CLASSES, key), (SERVICES, key), (BEHIND, key), (VIRTUAL_IPS, packed(packet.destination))]
    code = table.maps[CLASSES].get(key)
    gated = ident and code is not None and unnumber(code) in GATES
    wanted += [(name, number(ident)) for name in (SHORT, HERE) if gated]
    found = [Op(family, name, k, table.maps[name][k]) for name, k in wanted if k in table.maps[name]]
    found += [Op(family, SOURCE_RANGES, k) for k in table.maps[SOURCE_RANGES] if k.startswith(key)]
    slots = (PICKS,) if is_sticky(ident) else (ENDPOINTS,)
    found += [Op(family, name, k, data) for name in slots if ident for k, data in _slots(table, name, ident)]
    if ident and is_sticky(ident):
        members = table.maps[MEMBERS].items()
        found += [Op(family, MEMBERS, k, data) for k, data in sorted(members) if unnumber(k) & 0xFFFF0000 == ident]
    yield from (f"{op.table}: {element_text(op)}" for op in found)


def by_hash(table: FakeTable, packet: Packet, outcome: Outcome) -> Outcome | None:
    """Where source hash sends this client; None if it is not by source hash, or this machine's can't be reckoned."""
    codes = codes_of(step.partition(":")[0] for step in outcome.steps)
    classes = [found for code in codes if (found := class_of(code)) is not None and found.pick == "hash"]
    if not classes or not KNOWN:
        return None
    slot = scaled(jhash(packed(packet.source), HASH_SEED), classes[0].slots)
    slot += LOCAL_SCOPE if classes[0].kind in LOCAL else 0
    place = untarget(table.maps[ENDPOINTS][slot_key(port_id(table, packet), slot)])
    arrivals = {a: 1.0 for a in outcome.arrivals if (a.address, a.port) == place}
    return Outcome(outcome.verdict, arrivals, outcome.steps)


def _slots(table: FakeTable, name: str, ident: int) -> Iterator[tuple[bytes, bytes]]:
    """In order; they have no holes."""
    for scope in (0, LOCAL_SCOPE):
        slot = scope
        while (key := slot_key(ident, slot)) in table.maps[name]:
            yield key, table.maps[name][key]
            slot += 1


def _key(packet: Packet) -> bytes:
    return address_key(Frontend(packet.family, packet.destination, packet.protocol, packet.port))
