"""Who gets the next connection. Pure.

Owns: the pickers. Knows neither services nor sockets; what is picked is any hashable value.
"""

import heapq
from bisect import bisect
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from itertools import accumulate, count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_ROUND = 5_354_228_880 * 256
"""A multiple of 1..24 and of powers of two, so that the strides of small weights are exact."""
_DRAWS = 4
"""So often is drawn again for one that may be picked, before all of those are looked at."""


class Chance(Generic[K]):
    """By lot, each as often as it weighs. `chance` gives numbers of [0, 1). O(1), of unequal weights O(log n)."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._keys: tuple[K, ...] = ()
        self._sums: Sequence[int] | None = None
        """Of the weights up to each; None when all weigh the same."""
        self.weights: Mapping[K, int] = {}

    def __len__(self) -> int:
        """How many there are to pick from."""
        return len(self._keys)

    def update(self, weights: Mapping[K, int]) -> None:
        """Pick from these from now on; weight 0 is nobody. O(n)."""
        self.weights = {key: weight for key, weight in weights.items() if weight > 0}
        self._keys = tuple(self.weights)
        same = len(set(self.weights.values())) <= 1
        self._sums = None if same else tuple(accumulate(self.weights.values()))

    def pick(self, without: Container[K] = ()) -> K | None:
        """Any one, passing over `without`; None when nobody is left."""
        if without == () and self._keys:
            return self._keys[self._draw()]
        for _ in range(_DRAWS if self._keys else 0):
            drawn = self._keys[self._draw()]
            if drawn not in without:
                return drawn
        left: Chance[K] = Chance(self._chance)
        left.update({key: weight for key, weight in self.weights.items() if key not in without})
        return left._keys[left._draw()] if left._keys else None  # of the same class

    def pair(self) -> tuple[K, K]:
        """Two different ones. There must be two."""
        first = self._draw()
        for _ in range(_DRAWS):
            second = self._draw()
            if second != first:
                break
        else:  # one outweighs the others
            second = (first + 1 + int(self._chance() * (len(self._keys) - 1))) % len(self._keys)
        return self._keys[first], self._keys[second]

    def _draw(self) -> int:
        if self._sums is None:
            return int(self._chance() * len(self._keys))
        return bisect(self._sums, self._chance() * self._sums[-1])


class RoundRobin(Generic[K]):
    """Weighted round robin, smooth: each turn goes to the one whose next turn is due first.

    With equal weights this is the plain circle. O(log n) a turn. An update keeps the place of everyone who stays, so
    that neither the first endpoint nor the last gets a herd whenever one comes or goes.

    Who comes again, as others failed it, is nobody's turn but goes by lot: were it a turn, the one that stands in for
    a failed one would lose its own to it, and the failed one of two would come first for everybody; and if it always
    went to who is next without being a turn, who comes after the failed one would stand in alone.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._weights: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._now = 0
        self._order = count()
        self._lot: Chance[K] = Chance(chance)

    def __len__(self) -> int:
        """How many there are to pick from."""
        return len(self._heap)

    def update(self, weights: Mapping[K, int]) -> None:
        """Pick from these from now on; weight 0 is nobody. O(n)."""
        due = {key: (at, order) for at, order, key in self._heap}
        self._weights = {key: weight for key, weight in weights.items() if weight > 0}
        self._lot.update(weights)
        self._heap = []
        for key, weight in self._weights.items():
            next_due = self._now + _ROUND // weight
            at, order = due.get(key) or (next_due, next(self._order))
            self._heap.append((min(at, next_due), order, key))  # who weighs more than before need not wait as long
        heapq.heapify(self._heap)

    def pick(self, without: Container[K] = ()) -> K | None:
        """Whose turn it is; with some to pass over any other, whose turn it is not; None when nobody is left."""
        if without != ():
            return self._lot.pick(without)
        if not self._heap:
            return None
        at, _, key = self._heap[0]
        if len(self._heap) == 1:  # without others there are no turns
            return key
        self._now = max(self._now, at)
        heapq.heapreplace(self._heap, (at + _ROUND // self._weights[key], next(self._order), key))
        return key


class LeastLoaded(Generic[K]):
    """The less loaded one of two that are drawn by lot, by load a weight (power of two choices).

    Nobody's load is compared with everybody's: O(1), and those who decide apart, each by what it knows, do not all
    run to the same one. `load` is read at each pick; who is not in it has none.
    """

    def __init__(self, chance: Callable[[], float], load: Mapping[K, int]) -> None:
        self._lot: Chance[K] = Chance(chance)
        self._load = load

    def __len__(self) -> int:
        """How many there are to pick from."""
        return len(self._lot)

    def update(self, weights: Mapping[K, int]) -> None:
        """Pick from these from now on; weight 0 is nobody. O(n)."""
        self._lot.update(weights)

    def pick(self, without: Container[K] = ()) -> K | None:
        """One of the less loaded, passing over `without`; None when nobody is left. O(n) when both drawn are passed."""
        lot = self._lot
        if len(lot.weights) < 2:  # of which two are drawn
            return lot.pick(without)
        first, second = lot.pair()
        if first in without or second in without:
            return (
                self._least_of_all(without)
                if first in without and second in without
                else (second if first in without else first)
            )
        load, weights = self._load.get, lot.weights
        return second if load(second, 0) * weights[first] < load(first, 0) * weights[second] else first

    def _least_of_all(self, without: Container[K]) -> K | None:
        left = (key for key in self._lot.weights if key not in without)
        return min(left, key=lambda key: self._load.get(key, 0) / self._lot.weights[key], default=None)
