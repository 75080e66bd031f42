"""Source hash: which endpoint each slot leads to, the same on every minion whatever happened before. Pure.

Owns: the scores. A slot goes to the endpoint of the highest score for it (rendezvous hashing; weights by Schindelhauer
and Schomaker's logarithm): one that comes takes its share from all, one that goes gives back only what it had. Maglev
fills tables faster and more evenly, but moves clients of endpoints that stay.
"""

from array import array
from collections.abc import Mapping
from functools import lru_cache
from hashlib import shake_128
from math import log
from struct import unpack

SIZES = ((16, 251), (128, 2039), (0x8000, 16381))
"""(endpoints at most, slots): prime, as is usual; more slots even shares out. Growing over a limit moves clients."""


def size_for(endpoints: int) -> int:
    """How many slots; 0 for none."""
    return next(size for most, size in SIZES if endpoints <= most) if endpoints else 0


@lru_cache(maxsize=512)
def _scores(target: bytes, weight: int, size: int) -> "array[float]":
    numbers = unpack(f"<{size}I", shake_128(target).digest(4 * size))
    return array("d", (log((n + 0.5) / 2**32) / weight for n in numbers))


class Rendezvous:
    """The table of one service port and scope. Changes of one endpoint cost its own slots."""

    def __init__(self) -> None:
        self._weights: dict[bytes, int] = {}
        self._owners: list[bytes] = []
        self._best: array[float] = array("d")

    def assign(self, weights: Mapping[bytes, int]) -> list[bytes]:
        """Targets with their weights (≥ 1) → the target of each slot."""
        size = size_for(len(weights))
        if size != len(self._owners):
            self._weights, self._owners = {}, [b""] * size
            self._best = array("d", [float("-inf")]) * size
        gone = {t for t, w in self._weights.items() if weights.get(t) != w}
        fresh = {t: w for t, w in weights.items() if t in gone or t not in self._weights}
        self._weights = {t: w for t, w in self._weights.items() if t not in gone}
        if gone:
            self._give_up([slot for slot, owner in enumerate(self._owners) if owner in gone])
        for target, weight in fresh.items():
            self._compete(target, weight, range(size))
        self._weights |= fresh
        return list(self._owners)

    def _give_up(self, slots: list[int]) -> None:
        for slot in slots:
            self._best[slot], self._owners[slot] = float("-inf"), b""
        for target, weight in self._weights.items():
            self._compete(target, weight, slots)

    def _compete(self, target: bytes, weight: int, slots: "range | list[int]") -> None:
        scores, best, owners = _scores(target, weight, len(self._owners)), self._best, self._owners
        for slot in slots:
            score = scores[slot]
            if score > best[slot] or (score == best[slot] and target > owners[slot]):
                best[slot], owners[slot] = score, target
