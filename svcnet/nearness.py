"""Which endpoints are nearest, and what part of the traffic goes further as too few of them are well. Pure.

Owns: the meaning of annotation `locality`. Of each level the part that is well is compared with `share`: a level with
so much takes all that comes to it, one with half of that takes half, and the next level gets the rest (Envoy: priority
levels and overprovisioning; its factor of 1.4 is a share of 71 %).
"""

from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

from svcnet.model.level import Level, Levels
from svcnet.model.snapshot import Endpoint
from svcnet.topology import Place

K = TypeVar("K", bound=tuple[str, int])
SCALE = 1_000_000
"""What the weights of all endpoints add up to where more than one level has traffic."""


def levels_of(ready: Iterable[Endpoint], lost: Iterable[Endpoint], place: Place, first: str) -> Levels:
    """Those that are ready, by where they are. `lost`: others, which fail health checks. `first`: `node` or `zone`."""
    found: list[tuple[list[tuple[str, int]], list[int]]] = [([], [0, 0]) for _ in range(3)]
    for endpoints, is_lost in ((ready, 0), (lost, 1)):
        for e in endpoints:
            members, weights = found[_distance(e, place, first)]
            weights[is_lost] += e.weight
            if not is_lost:
                members.append((e.address, e.port))
    return tuple(
        Level(tuple(sorted(members)), well / (well + gone) if gone else 1.0)
        for members, (well, gone) in found
        if members
    )


def _distance(endpoint: Endpoint, place: Place, first: str) -> int:
    if first == "node" and endpoint.node and endpoint.node == place.node:
        return 0
    return 1 if endpoint.zone and endpoint.zone == place.zone else 2


class Nearness:
    """The levels of one service port, and the share (per cent) of one that has to be well for all of its traffic."""

    def __init__(self, levels: Levels = (), share: int = 0) -> None:
        self._asked = (levels, share)
        self._share = share or 100
        self._of = {member: number for number, level in enumerate(levels) for member in level.members}
        self._passing = [level.passing for level in levels] or [1.0]

    def __eq__(self, other: object) -> bool:
        """Whether all are as near, and the share is the same."""
        return isinstance(other, Nearness) and self._asked == other._asked  # of the same class

    def __hash__(self) -> int:
        """As equality has it."""
        return hash(self._asked)

    def __len__(self) -> int:
        """How many levels there are, at least 1."""
        return len(self._passing)

    def split(self, weights: Mapping[K, int]) -> list[dict[K, int]]:
        """By level, the nearest first."""
        if len(self) == 1:
            return [dict(weights)]
        found: list[dict[K, int]] = [{} for _ in self._passing]
        for place, weight in weights.items():
            found[self._of.get(place, -1)][place] = weight
        return found

    def parts(self, weights: Mapping[K, int], out: Container[K]) -> list[float]:
        """What part of the traffic each level gets, while some are `out`; when nobody is well, all are as one."""
        rest, found = 1.0, []
        split = self.split(weights)
        for passing, members in zip(self._passing, split, strict=True):
            whole = sum(members.values())
            well = sum(weight for place, weight in members.items() if place not in out)
            able = min(1.0, passing * well / whole * 100 / self._share) if whole else 0.0
            found.append(min(rest, able))
            rest -= found[-1]
        if rest == 1.0:
            found = [float(sum(members.values())) for members in split]
        taken = sum(found) or 1.0
        return [part / taken for part in found]

    def weighed(self, weights: Mapping[K, int], parts: list[float]) -> Mapping[K, int]:
        """What each weighs so that the levels get their parts. A level without a part is not in it."""
        with_part = [number for number, part in enumerate(parts) if part > 0]
        split = self.split(weights)
        if len(with_part) == 1:
            return split[with_part[0]]
        found: dict[K, int] = {}
        for number in with_part:
            whole = sum(split[number].values())
            for place, weight in split[number].items():
                found[place] = max(1, round(weight / whole * parts[number] * SCALE))
        return found
