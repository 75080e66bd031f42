"""Who gets the next connection, among backends between which a choice is made. Pure; chance is given.

Owns: the step from backends, of which some are out, on their way back, or far, to one of them. Who is out, or far, is
worked into what is picked from when that changes: a pick costs the same whatever happened.
"""

from collections.abc import Callable, Container
from itertools import accumulate
from typing import Protocol

from svcnet.balance import Chance, RoundRobin
from svcnet.jhash import jhash
from svcnet.nearness import Nearness
from svcnet.proxy.hashed import Hashed, packed
from svcnet.proxy.notes import Notes, Room
from svcnet.proxy.ramp import Ramp
from svcnet.proxy.row import Backend, Weights
from svcnet.proxy.without import Both

LEVEL_SEED = 2
"""Another one than that of source hash: who goes further must not be those who belong to one endpoint."""
ANYWHERE = Nearness()
_WHOLE_HASH = 1 << 32


class Picker(Protocol):
    """One of svcnet/balance.py."""

    def update(self, weights: Weights) -> None:
        """Pick from these from now on."""
        ...

    def pick(self, without: Container[Backend] = ()) -> Backend | None:
        """Who is next, passing over some."""
        ...


class Scope:
    """All backends of a service, or those of this minion.

    Each has its own notes: a client that comes in both ways stays where it is on each.
    """

    def __init__(self, room: Room, chance: Callable[[], float]) -> None:
        self.weights: Weights = {}
        self.notes = Notes(room)
        self._chance = chance
        self._picker: Picker = RoundRobin(chance)
        self._picked_from: Weights = {}
        self._out: frozenset[Backend] = frozenset()
        self._near = ANYWHERE
        self._hashed = [Hashed()]
        """One for each level."""
        self._parts: list[float] = []
        """What part of the traffic goes to each level; []: there is one."""

    def update(self, weights: Weights, near: Nearness = ANYWHERE) -> None:
        """From now on these."""
        if weights == self.weights and near == self._near:
            return
        self.weights, self._near = weights, near
        self._hashed = [*self._hashed, *(Hashed() for _ in range(len(near) - len(self._hashed)))][: len(near)]
        for hashed, members in zip(self._hashed, near.split(weights), strict=True):
            hashed.update(members)

    def pick_by(self, picker: Picker) -> None:
        """Another way to pick, for who comes next."""
        self._picker = picker
        picker.update(self._picked_from)

    def follow(self, out: frozenset[Backend], unwell: frozenset[Backend], ramp: Ramp, now: float) -> None:
        """Pass over those who are `out`; the others weigh what they do by now.

        `unwell`: those who should be out. A level that has many of them is spared even if they must be used.
        """
        self._out = out
        left = {b: weight for b, weight in self.weights.items() if b not in out} if out else self.weights
        weights = ramp.scaled(left, now)
        if len(self._near) > 1:
            self._parts = self._near.parts(self.weights, unwell)
            weights = self._near.weighed(weights, self._parts)
        else:
            self._parts = []
        if weights != self._picked_from:
            self._picked_from = weights
            self._picker.update(weights)

    def pick(self, without: Container[Backend] = ()) -> Backend | None:
        """Who is next, whoever comes; further away when all who are near failed, who is out when all others did."""
        found = self._picker.pick(without)
        if found is None and self._parts:
            found = self._pick_further(without)
        if found is None and self._out:
            return next((b for b in self.weights if b in self._out and b not in without), None)
        return found

    def pick_for(self, client: str, without: Container[Backend]) -> Backend | None:
        """Where the client belongs; further away when all who are near failed, who is out when all others did."""
        order = self._hashed if len(self._hashed) == 1 else self._order_for(client)
        passed: Container[Backend] = Both(without, self._out) if self._out else without
        for hashed in order:
            found = hashed.pick(client, passed)
            if found is not None:
                return found
        if not self._out:
            return None
        return next((found for hashed in order if (found := hashed.pick(client, without)) is not None), None)

    def stays(self, client: str, seconds: int, now: float, without: Container[Backend]) -> Backend | None:
        """Where the client is by its note, if it can stay there."""
        noted = self.notes.of(client, seconds, now)
        return noted if noted in self.weights and noted not in without and noted not in self._out else None

    def _pick_further(self, without: Container[Backend]) -> Backend | None:
        passed = Both(without, self._out)
        for members in self._near.split(self.weights):
            lot: Chance[Backend] = Chance(self._chance)
            lot.update(members)
            found = lot.pick(passed)
            if found is not None:
                return found
        return None

    def _order_for(self, client: str) -> list[Hashed]:
        """The level where a client belongs, then the others, the nearest first. Always the same for each part."""
        at = jhash(packed(client), LEVEL_SEED) / _WHOLE_HASH
        level = next((n for n, upto in enumerate(accumulate(self._parts)) if at < upto), len(self._parts) - 1)
        return [self._hashed[level], *(hashed for number, hashed in enumerate(self._hashed) if number != level)]
