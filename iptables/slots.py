"""Endpoints of one service port → the slots of map `endpoints`, moved as little as possible. Pure.

Owns: weights as numbers of slots, and which slot an endpoint keeps when others come and go.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import gcd

MAX_SLOTS = 0x8000
"""Slots of one scope; more weight than this is scaled down, every endpoint keeping at least one slot."""


def shares(weights: Iterable[tuple[bytes, int]], most: int = MAX_SLOTS) -> Counter[bytes]:
    """(target, weight ≥ 1) → number of slots a target, in lowest terms, `most` in all."""
    wanted: Counter[bytes] = Counter()
    for target, weight in weights:
        wanted[target] = wanted.get(target, 0) + weight  # `+=` asks Counter.__missing__ for every endpoint of a start
    total, divisor = wanted.total(), gcd(*wanted.values()) or 1
    if total == len(wanted):  # all weigh the same: what nearly every service is
        return wanted
    total //= divisor
    if total <= most:
        return Counter({t: w // divisor for t, w in wanted.items()})
    spare = max(0, most - len(wanted))
    return Counter({t: 1 + (w // divisor - 1) * spare // total for t, w in wanted.items()})


def assign(old: Sequence[bytes], wanted: Counter[bytes]) -> list[bytes]:
    """The new slots: what stays keeps its slot, what is new fills the holes, the last slots move into holes left."""
    if not old:
        return list(wanted.elements())
    rest = Counter(wanted)
    new: list[bytes | None] = []
    for target in old:
        if rest[target] > 0:
            rest[target] -= 1
            new.append(target)
        else:
            new.append(None)
    fresh = list(rest.elements())
    holes = [i for i, target in enumerate(new) if target is None]
    fill = min(len(fresh), len(holes))
    for i, target in zip(holes, fresh, strict=False):
        new[i] = target
    new += fresh[fill:]
    for i in holes[fill:]:
        while new and new[-1] is None:
            new.pop()
        if i < len(new):
            new[i] = new.pop()
    return [target for target in new if target is not None]
