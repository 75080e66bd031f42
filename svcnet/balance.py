"""Who gets the next connection. Pure.

Owns: the pickers. Knows neither services nor sockets; what is picked is any hashable value.
"""

import heapq
from collections.abc import Container, Hashable, Mapping
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_ROUND = 5_354_228_880 * 256
"""A multiple of 1..24 and of powers of two, so that the strides of small weights are exact."""


class RoundRobin(Generic[K]):
    """Weighted round robin, smooth: each turn goes to the one whose next turn is due first.

    With equal weights this is the plain circle. O(log n) a turn. An update keeps the place of everyone who stays, so
    that neither the first endpoint nor the last gets a herd whenever one comes or goes.
    """

    def __init__(self) -> None:
        self._weights: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._now = 0
        self._order = count()

    def __len__(self) -> int:
        """How many there are to pick from."""
        return len(self._heap)

    def update(self, weights: Mapping[K, int]) -> None:
        """Pick from these from now on; weight 0 is nobody. O(n)."""
        due = {key: (at, order) for at, order, key in self._heap}
        self._weights = {key: weight for key, weight in weights.items() if weight > 0}
        self._heap = []
        for key, weight in self._weights.items():
            at, order = due.get(key) or (self._now + _ROUND // weight, next(self._order))
            self._heap.append((at, order, key))
        heapq.heapify(self._heap)

    def pick(self, without: Container[K] = ()) -> K | None:
        """Whose turn it is, passing over `without`, who keep their turns; None when nobody is left."""
        passed = []
        chosen = None
        while self._heap:
            at, _, key = self._heap[0]
            if key not in without:
                self._now = max(self._now, at)
                heapq.heapreplace(self._heap, (at + _ROUND // self._weights[key], next(self._order), key))
                chosen = key
                break
            passed.append(heapq.heappop(self._heap))
        for turn in passed:
            heapq.heappush(self._heap, turn)
        return chosen
