"""One changed service in legacy tables: iptables-legacy-restore beside the library that it stands on, libiptc, itself.

Run by `bench/run.py --suite legacy`; docs/adr/0009 quotes it. libiptc has all the luck here: no rule is built (a chain
is rewritten by the bytes that it holds), no message goes to another process, no lock is taken, memory is kept.
A second table says what rules cost by their kind, as every change costs all rules of the table.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence

from svcnet.bench.world import records
from svcnet.endpoints import Networks
from svcnet.iptables.chain_text import JUMPS, NAT, restore_text
from svcnet.iptables.desired import Minion, rows
from svcnet.iptables.iptables import Iptables
from svcnet.iptables.layout import Edit, Layout
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.xtables import LEGACY, Xtables, installed
from svcnet.model.event import Put, Synced
from svcnet.plan import Change
from svcnet.tracker import Tracker

LIBRARY = "libip4tc.so.2"
SIZES = (10, 100, 1_000, 10_000)
ENDPOINTS, ROUNDS = 10, 9
PAUSE_SECONDS = 0.05
NEXT_OFFSET = 90
"""Of `next_offset`, the bytes of an entry, in struct ipt_entry."""
KINDS = {
    "one more empty chain": (),
    "-d ADDRESS -j RETURN": ("-d 10.1.2.3/32 -j RETURN",),
    "-j DNAT": ("-p tcp -j DNAT --to-destination 10.1.2.3:8080",),
    "statistic, -j DNAT": (
        "-p tcp -m statistic --mode random --probability 0.50000000000 -j DNAT --to-destination 10.1.2.3:8080",
    ),
    "tcp, -g CHAIN": ("-p tcp -m tcp --dport 80 -g SVCNET-X",),
    "tcp, comment, -g CHAIN": ("-p tcp -m tcp --dport 80 -m comment --comment default/web -g SVCNET-X",),
}
"""What every change costs by: rules, one of a kind."""
CHAINS, RULES = 5_000, 10
PARAMETERS = Parameters(4, ("10.0.0.0/14",), ("10.0.0.0/8",))


class Libiptc:
    """Table nat, through the library alone. Errors: OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        self.read_seconds = self.commit_seconds = 0.0

    def open(self) -> ctypes.c_void_p:
        """Read the table; a handle."""
        begin = time.perf_counter()
        self._library.iptc_init.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(self._library.iptc_init(NAT.encode()))
        self.read_seconds = time.perf_counter() - begin
        return handle

    def chain(self, handle: ctypes.c_void_p, name: bytes) -> list[bytes]:
        """The entries of a chain."""
        for function in (self._library.iptc_first_rule, self._library.iptc_next_rule):
            function.restype = ctypes.c_void_p
        found: list[bytes] = []
        place = self._library.iptc_first_rule(name, handle)
        while place:
            found.append(ctypes.string_at(place, ctypes.c_uint16.from_address(place + NEXT_OFFSET).value))
            place = self._library.iptc_next_rule(ctypes.c_void_p(place), handle)
        return found

    def write(self, handle: ctypes.c_void_p, chains: dict[bytes, list[bytes]]) -> None:
        """Rewrite chains and commit."""
        done = True
        for name, entries in chains.items():
            done &= bool(self._library.iptc_flush_entries(name, handle))
            for entry in entries:
                done &= bool(self._library.iptc_append_entry(name, entry, handle))
        begin = time.perf_counter()
        if not (done and self._library.iptc_commit(handle)):
            raise OSError(ctypes.get_errno(), "libiptc")
        self.commit_seconds = time.perf_counter() - begin

    def close(self, handle: ctypes.c_void_p) -> None:
        """Forget it."""
        self._library.iptc_free(handle)


class World:
    """Tables that hold `size` services."""

    def __init__(self, size: int, programs: Xtables) -> None:
        tracker = Tracker(Networks([]))
        everything = list(records(size, ENDPOINTS))
        tracker.fold([*(Put(r, 1) for r in everything), Synced(1, frozenset(r.key for r in everything))])
        desired = rows(tracker.snapshot.ports.values(), Minion("m1"))
        Iptables(programs, (PARAMETERS,)).sync(desired)
        self._layout = Layout(PARAMETERS)
        self.rules = sum(len(lines) for chain, lines in self._layout.everything(desired).items() if chain.table == NAT)
        self._desired = desired
        self._programs = programs
        self._library = Libiptc()
        self.steps: list[tuple[float, float]] = []

    def edit(self, turn: int) -> Edit:
        """The chains of one service."""
        front = list(self._desired)[turn * 37 % len(self._desired)]
        return self._layout.apply([Change(front, self._desired[front], self._desired[front])]).edit

    def by_restore(self, edit: Edit) -> float:
        """Seconds, with the check for our jumps that the data path makes."""
        begin = time.perf_counter()
        self._programs.restore(4, restore_text(edit, {}, JUMPS))
        return time.perf_counter() - begin

    def by_library(self, edit: Edit, *, kept: bool = False) -> float:
        """Seconds. `kept`: with what was read before, though somebody may have changed the table since."""
        handle = self._library.open()
        names = [chain.name.encode() for chain in edit if chain.table == NAT]
        chains = {name: self._library.chain(handle, name) for name in names}
        if not kept:
            self._library.close(handle)
        begin = time.perf_counter()
        if not kept:
            handle = self._library.open()
        self._library.write(handle, chains)
        seconds = time.perf_counter() - begin
        self.steps.append((self._library.read_seconds, self._library.commit_seconds))
        self._library.close(handle)
        return seconds


def measure(world: World) -> list[list[float]]:
    """Milliseconds of each way, round by round; ways take turns."""
    ways: Sequence[Callable[[Edit], float]] = (
        world.by_restore,
        world.by_library,
        lambda edit: world.by_library(edit, kept=True),
    )
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(ROUNDS):
        for k in range(len(ways)):
            number = (turn + k) % len(ways)
            time.sleep(PAUSE_SECONDS)
            times[number].append(1e3 * ways[number](world.edit(turn)))
    return times


def by_kind(programs: Xtables) -> dict[str, float]:
    """Microseconds that each rule in the table adds to any change of it, by the rule's kind; of a chain likewise."""
    change = "*nat\n:SVCNET-ONE - [0:0]\n-A SVCNET-ONE -j RETURN\nCOMMIT\n"
    found: dict[str, float] = {}
    for kind, rule in KINDS.items():
        chains = [f"SVCNET-{n}" for n in range(CHAINS)]
        made = [f":{chain} - [0:0]" for chain in ("SVCNET-X", *chains)]
        rules = [f"-A {chain} {line}" for chain in chains for line in rule * RULES]
        programs.restore(4, "\n".join(["*nat", *made, *rules, "COMMIT", ""]))
        times: list[float] = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            programs.restore(4, change)
            times.append(1e6 * (time.perf_counter() - begin))
        found[kind] = statistics.median(times)
        gone = ("SVCNET-ONE", "SVCNET-X", *chains)
        empty = [f":{chain} - [0:0]" for chain in gone]
        programs.restore(4, "\n".join(["*nat", *empty, *(f"-X {chain}" for chain in gone), "COMMIT", ""]))
    bare = found.pop("one more empty chain")
    costs = {kind: (whole - bare) / CHAINS / RULES for kind, whole in found.items()}
    return {"one more empty chain": bare / CHAINS} | costs


def main() -> None:
    """Print both tables."""
    programs = installed()[LEGACY]
    try:
        by_size(programs)
        Iptables(programs, ()).remove()
        print("\nevery change of the table takes longer by")
        for kind, cost in by_kind(programs).items():
            print(f"{cost:6.1f} µs for {kind}")
    finally:
        programs.close()


def by_size(programs: Xtables) -> None:
    """Print milliseconds p50, and ratios to restore of the same round: median (lowest - highest)."""
    print("services   rules | restore  libiptc (read + commit)  unread | libiptc/restore       unread/restore")
    for size in SIZES:
        world = World(size, programs)
        restore, library, kept = measure(world)
        read, commit = (1e3 * statistics.median(part) for part in zip(*world.steps, strict=True))
        middle = [statistics.median(times) for times in (restore, library, kept)]
        columns = f"{middle[0]:7.1f}  {middle[1]:7.1f} ({read:5.1f} + {commit:6.1f})   {middle[2]:7.1f}"
        print(
            f"{size:8} {world.rules:7} | {columns} | {_ratio(library, restore)}    {_ratio(kept, restore)}", flush=True
        )


def _ratio(times: Sequence[float], base: Sequence[float]) -> str:
    ratios = sorted(mine / other for mine, other in zip(times, base, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})"


if __name__ == "__main__":
    main()
