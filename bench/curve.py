"""One changed record, from the event to the committed element, at 100 to 10,000 services: the curve must be flat.

Run by `bench/run.py --suite curve`. Rounds are interleaved over the sizes; the spread is that of the rounds' medians.
"""

import gc
import statistics
import time

from svcnet.bench.world import records, slice_of
from svcnet.endpoints import Networks
from svcnet.iptables.desired import Minion, rows
from svcnet.iptables.nft import NftKernel
from svcnet.iptables.nftables import Nftables
from svcnet.iptables.ruleset import Parameters
from svcnet.model.event import Put, Synced
from svcnet.plan import diff
from svcnet.tracker import Tracker

MINION = Minion("m1")
SIZES = (100, 1_000, 10_000)
ENDPOINTS, ROUNDS, CHANGES = 10, 7, 200


class World:
    """A tracker and a kernel table that hold `size` services."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tracker = Tracker(Networks([]))
        everything = list(records(size, ENDPOINTS))
        keys = frozenset(r.key for r in everything)
        self.tracker.fold([*(Put(r, 1) for r in everything), Synced(1, keys)])
        self.path = Nftables(NftKernel(), (Parameters(4, ("10.0.0.0/14",)),))
        self.steps = 0

    def enter(self) -> None:
        """Put this world's services in the kernel (one table serves all sizes in turn)."""
        self.path.sync(rows(self.tracker.snapshot.ports.values(), MINION))

    def change(self) -> tuple[float, float]:
        """Replace one endpoint of one service; seconds of (tracker, kernel)."""
        self.steps += 1
        i = self.steps * 37 % self.size + 1
        record = slice_of(i, ENDPOINTS, shift=1 + self.steps // self.size)
        begin = time.perf_counter()
        delta = self.tracker.fold([Put(record, self.steps + 1)])
        middle = time.perf_counter()
        before, after = ([pair[i] for pair in delta.changed] for i in (0, 1))
        plan = diff(rows(before, MINION), rows(after, MINION))
        self.path.apply(plan)
        return middle - begin, time.perf_counter() - middle


def main() -> None:
    """Print the table."""
    worlds = [World(size) for size in SIZES]
    gc.freeze()
    results: dict[int, list[tuple[float, float]]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for world in worlds:
            world.enter()
            times = [world.change() for _ in range(CHANGES)]
            results[world.size].append(
                (statistics.median(t for t, _ in times) * 1e6, statistics.median(k for _, k in times) * 1e6)
            )
    first = statistics.median(t + k for t, k in results[SIZES[0]])
    print(f"one endpoint of {ENDPOINTS} replaced; median of {ROUNDS} interleaved rounds of {CHANGES} (lowest-highest)")
    print("services  tracker µs  plan+kernel µs     sum µs (spread)   ratio to the smallest")
    for size, rounds in results.items():
        tracker, kernel = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        sums = [t + k for t, k in rounds]
        spread = f"({min(sums):.0f}-{max(sums):.0f})"
        total = statistics.median(sums)
        print(f"{size:8} {tracker:11.0f} {kernel:15.0f} {total:10.0f} {spread:12} {total / first:8.2f}")


if __name__ == "__main__":
    main()
