"""Source hash: which endpoint each slot leads to, the same on every minion whatever happened before. Pure.

Owns: the scores. A slot goes to the endpoint of the highest score for it (rendezvous hashing; weights by Schindelhauer
and Schomaker's logarithm): one that comes takes its share from all, one that goes gives back only what it had. Maglev
fills tables faster and more evenly, but moves clients of endpoints that stay.
"""

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import shake_128
from itertools import compress
from math import inf, log
from operator import ge
from struct import unpack

SIZES = ((8, 251), (64, 2039), (512, 8191), (0x8000, 16381))
"""(endpoints at most, slots): the more slots, the evener the shares. Growing past a limit moves clients."""


def size_for(endpoints: int) -> int:
    """How many slots; 0 for none."""
    return next(size for most, size in SIZES if endpoints <= most) if endpoints else 0


@lru_cache(maxsize=512)
def _scores(target: bytes, size: int) -> "array[int]":
    return array("I", unpack(f"<{size}I", shake_128(target).digest(4 * size)))


@lru_cache(maxsize=512)
def _weighted(target: bytes, weight: int, size: int) -> "array[float]":
    return array("d", (log((n + 0.5) / 2**32) / weight for n in _scores(target, size)))


class Rendezvous:
    """The table of one service port and scope. Changes of one endpoint cost its own slots."""

    def __init__(self, slots: int = 0) -> None:
        """`slots`: so many; 0: as suits the number of endpoints."""
        self._slots = slots
        self._weights: dict[bytes, int] = {}
        self._owners: list[bytes] = []
        self._best: list[float] = []
        self._plain = True
        """Whether all weigh the same: then scores are compared as they are, which the logarithm would not change."""

    def assign(self, weights: Mapping[bytes, int]) -> list[bytes]:
        """Targets with their weights (≥ 1) → the target of each slot."""
        size = self._slots or size_for(len(weights))
        plain = set(weights.values()) <= {1}
        if (size, plain) != (len(self._owners), self._plain):
            self._weights, self._owners, self._best = {}, [b""] * size, [-inf] * size
            self._plain = plain
        gone = {t for t, w in self._weights.items() if weights.get(t) != w}
        fresh = {t: w for t, w in weights.items() if t in gone or t not in self._weights}
        self._weights = {t: w for t, w in self._weights.items() if t not in gone}
        if gone:
            self._give_up([slot for slot, owner in enumerate(self._owners) if owner in gone])
        for target, weight in fresh.items():
            scores = self._scores(target, weight)
            self._compete(target, scores, list(compress(range(size), map(ge, scores, self._best))))
        self._weights |= fresh
        return list(self._owners)

    def _scores(self, target: bytes, weight: int) -> Sequence[float]:
        size = len(self._owners)
        return _scores(target, size) if self._plain else _weighted(target, weight, size)

    def _give_up(self, slots: list[int]) -> None:
        for slot in slots:
            self._best[slot], self._owners[slot] = -inf, b""
        for target, weight in self._weights.items():
            self._compete(target, self._scores(target, weight), slots)

    def _compete(self, target: bytes, scores: Sequence[float], slots: list[int]) -> None:
        best, owners = self._best, self._owners
        for slot in slots:
            score = scores[slot]
            if score > best[slot] or (score == best[slot] and target > owners[slot]):
                best[slot], owners[slot] = score, target
