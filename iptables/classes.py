"""Classes of traffic: the codes in maps `classes`, `behind`, `short` and `here`, and the chain that each leads to.

Owns: what a code says, in 32 bits, and which rules carry it out. Every number can be read back from the code and from
the name of its chain, so a start needs nothing else to know what the kernel does (docs/adr/0012).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from svcnet.iptables.ruleset import (
    ADDRESS_KEY,
    AFFINITY,
    CLUSTER_CIDR,
    DISCARD,
    ENDPOINTS,
    EXTERNAL_LOCAL,
    LOCAL_SCOPE,
    MEMBERS,
    PICKS,
    RANGED,
    RANGED_LOCAL,
    REFUSE,
    SERVICES,
    Chain,
    Choose,
    Class,
    Field,
    Forget,
    Load,
    Mark,
    Parameters,
    Protocols,
    Remember,
    Rule,
    SetBits,
    Translate,
    TranslateTo,
    Within,
)

GATE_LOCAL, GATE_RANGED, GATE_RANGED_LOCAL = 7 << 16, 8 << 16, 9 << 16
"""Codes of chains that choose a class by the client: by where it is, by its source range, by both."""
HASHED = 0x10
"""Added to the class: slots are chosen by the client's address."""
STICKY = 1 << 31
"""Affinity: then 2 bits of class, 17 of seconds, 12 of slots."""
MOST_STICKY_SLOTS, MOST_SECONDS = 0xFFF, 0x1FFFF
FIRST_SLOTS = range(1, 17)
NEIGHBOURS = 64
"""Above this many slots a class chain is made for the very number, on demand (one nft run, about 6 ms)."""

_PROXIED = (Class.PROXIED, Class.PROXIED_LOCAL)
_SERVING = (Class.CLUSTER, Class.INTERNAL_LOCAL, Class.EXTERNAL, Class.EXTERNAL_LOCAL, *_PROXIED)
"""In the order of the two bits of affinity, which the last two never have."""
_LOCAL = (Class.INTERNAL_LOCAL, Class.EXTERNAL_LOCAL, Class.PROXIED_LOCAL)
_NAMES = {kind: kind.name.lower().replace("_", "-") for kind in _SERVING}
_NAME = re.compile(rf"({'|'.join(sorted(_NAMES.values(), key=len, reverse=True))})-(?:(hash)-|affinity-(\d+)s-)?(\d+)")


class ServingClass(NamedTuple):
    """A class that translates: to one of so many `slots` of its scope, chosen by `pick` (as desired.Pick)."""

    kind: Class
    slots: int
    pick: str = "random"
    seconds: int = 0

    def code(self) -> int:
        """The 32 bits."""
        if self.pick == "affinity":
            return STICKY | _SERVING.index(self.kind) << 29 | self.seconds << 12 | self.slots
        return (self.kind.value | (HASHED if self.pick == "hash" else 0)) << 16 | self.slots

    def chain(self) -> str:
        """The name of its chain."""
        pick = {"random": "", "hash": "hash-"}.get(self.pick, f"affinity-{self.seconds}s-")
        return f"{_NAMES[self.kind]}-{pick}{self.slots}"


def class_of(code: int) -> ServingClass | None:
    """The other way round; None for a code that translates nothing."""
    if code & STICKY:
        return ServingClass(_SERVING[code >> 29 & 3], code & MOST_STICKY_SLOTS, "affinity", code >> 12 & MOST_SECONDS)
    high, slots = code >> 16, code & 0xFFFF
    kinds = [kind for kind in _SERVING if kind.value == high & ~HASHED]
    return ServingClass(kinds[0], slots, "hash" if high & HASHED else "random") if kinds and slots else None


def codes_of(chains: Iterable[str]) -> set[int]:
    """The codes whose chains are among these."""
    kinds = {name: kind for kind, name in _NAMES.items()}
    codes = set()
    for match in filter(None, map(_NAME.fullmatch, chains)):
        name, hashed, seconds, slots = match.groups()
        pick = "hash" if hashed else "random" if seconds is None else "affinity"
        codes.add(ServingClass(kinds[name], int(slots), pick, int(seconds or 0)).code())
    return codes


def with_neighbours(codes: Iterable[int]) -> set[int]:
    """While small, chains for all numbers of slots up to the next power of two, as a scale-up goes on."""
    wanted: set[int] = set()
    for code in codes:
        found = class_of(code)
        if found is None:
            continue
        wanted.add(code)
        if found.pick != "hash" and found.slots <= NEIGHBOURS and found.kind not in _PROXIED:
            size = max(FIRST_SLOTS[-1], 1 << (found.slots - 1).bit_length())
            wanted.update(found._replace(slots=n).code() for n in range(1, size + 1))
    return wanted


FIRST_CODES = frozenset(Class.CLUSTER.code(n) for n in FIRST_SLOTS)
"""Their chains exist from the start; others are made on demand."""


def fixed_codes(*, inner: bool) -> tuple[tuple[int, str], ...]:
    """(code, chain) of what needs no slots; `inner`: behind a gate."""
    plain = ((Class.REFUSE.code(), REFUSE), (Class.DROP.code(), DISCARD))
    gates = ((GATE_LOCAL, EXTERNAL_LOCAL), (GATE_RANGED, RANGED), (GATE_RANGED_LOCAL, RANGED_LOCAL))
    return plain if inner else plain + gates


def class_chain(parameters: Parameters, code: int) -> Chain:
    """The chain of a code that translates."""
    found = class_of(code)
    if found is None:
        raise ValueError(f"{code:#x} is no class that translates")
    offset = LOCAL_SCOPE if found.kind in _LOCAL else 0
    rules = [*_marks(parameters, found.kind)]
    if found.pick == "affinity":
        rules += _sticky(found, offset)
    else:
        translate = Translate(ENDPOINTS, found.slots, offset, found.pick == "hash")
        rules.append((Protocols(), Load(SERVICES, ADDRESS_KEY), translate))
    return Chain(found.chain(), tuple(rules))


def _marks(parameters: Parameters, kind: Class) -> list[Rule]:
    """Who is to be masqueraded. EXTERNAL_LOCAL keeps the client's source: pods and the minion come by CLUSTER."""
    mark = Mark(1 << parameters.masquerade_bit)
    if kind in _PROXIED:
        return []
    if parameters.masquerade_all or kind is Class.EXTERNAL:
        return [(mark,)]
    if kind is not Class.EXTERNAL_LOCAL and parameters.cluster_cidrs:
        return [(Within((Field.SADDR,), CLUSTER_CIDR, negated=True), mark)]
    return []


def _sticky(found: ServingClass, offset: int) -> list[Rule]:
    """Where the client was before; else a pick, which is remembered; else, as no more fit in, a pick that is not.

    An update of a note that is there keeps its member, so one whose member is gone is forgotten first.
    """
    find = (Protocols(), Load(SERVICES, ADDRESS_KEY))
    scope = (SetBits(offset),) if offset else ()
    recall = (*scope, Load(AFFINITY, (Field.SCRATCH, Field.CLIENT)))
    remember, go = Remember(AFFINITY, found.seconds), TranslateTo(MEMBERS)
    choose = Choose(PICKS, found.slots, offset)
    return [
        (*find, *recall, remember, go),
        (*find, choose, Forget(AFFINITY), remember, go),
        (*find, choose, go),
    ]
