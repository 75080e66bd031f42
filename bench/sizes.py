"""What a map costs to load, to hold and to change with `size` and without, and grown in place (docs/adr/0010).

Run by `bench/run.py --suite sizes [ELEMENTS [ROUNDS]]`, in an empty network namespace. Sizes take turns in each round.
"""

import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from svcnet.bench.world import TARGET_PORT, address
from svcnet.iptables.elements import Op, messages, slot_key, target_data
from svcnet.iptables.netlink import (
    BATCH_BEGIN,
    BATCH_END,
    NLM_F_ACK,
    NLM_F_CREATE,
    Socket,
    attr,
    attributes,
    message,
    nest,
    text,
)
from svcnet.iptables.ruleset import ENDPOINTS, TABLE

SHAPE = "typeof meta priority . numgen random mod 65536 : ip daddr . ct original proto-dst;"
SCHEMA = f"add table ip {TABLE}\nadd map ip {TABLE} {ENDPOINTS} {{ {SHAPE} %s }}\n"
NEWSET, GETSET = (10 << 8) + 9, (10 << 8) + 10
SET_TABLE, SET_NAME, SET_DESC, SET_ID = 1, 2, 9, 10
REPLAYED = frozenset({SET_TABLE, SET_NAME, 3, 4, 5, 6, 7, 13})
"""Flags, types and lengths of key and data, and what nft keeps beside them."""
BATCH, CHANGES = 30_000, 300


def kernel_mib() -> float:
    """What the kernel has taken for itself."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[name].split()[0]) for name in ("Slab", "VmallocUsed")) / 1024


def commit(sock: Socket, parts: Iterable[bytes]) -> float:
    """Send one transaction; seconds until it is done."""
    whole = list(parts)
    last = len(whole)
    flags = struct.unpack_from("=H", whole[-1], 6)[0] | NLM_F_ACK
    whole[-1] = whole[-1][:6] + struct.pack("=H", flags) + whole[-1][8:]
    begin, end = message(BATCH_BEGIN, 0, 0, b"", 0, 10), message(BATCH_END, 0, 0, b"", last + 1, 10)
    data = b"".join([begin, *whole, end])
    start = time.perf_counter()
    sock.request(data, last)
    return time.perf_counter() - start


def grow(sock: Socket, size: int) -> float:
    """Give the maps and sets of the table another size: what the kernel says of each is sent back to it, but for that.

    Rules stay as they are, and so does every element. KernelError where the kernel can't.
    """
    wanted = nest(SET_DESC, attr(1, struct.pack(">I", size))) + attr(SET_ID, struct.pack(">I", 1))
    found = []
    for body in sock.dump(GETSET, 2, text(SET_TABLE, TABLE)):
        kept = b"".join(attr(kind, bytes(value)) for kind, value in attributes(body) if kind in REPLAYED)
        desc = next((bytes(value) for kind, value in attributes(body) if kind == SET_DESC), b"")
        fields = b"".join(nest(2, bytes(value)) for kind, value in attributes(desc) if kind == 2)
        plain = nest(SET_DESC, attr(1, struct.pack(">I", size)) + fields) + attr(SET_ID, struct.pack(">I", 1))
        found.append(kept + (plain if fields else wanted))
    return sum(commit(sock, [message(NEWSET, NLM_F_CREATE, 2, body, 1)]) for body in found)


def slots(first: int, end: int) -> Iterator[Op]:
    """Ten endpoints a service."""
    for i in range(first, end):
        yield Op(4, ENDPOINTS, slot_key(i // 10 + 1, i % 10), target_data(address(i), TARGET_PORT))


def measure(elements: int, size: int, later: int) -> tuple[float, float, float, float]:
    """A map of `size` (0: none), grown to `later` (0: not): load ms, longest commit ms, kernel MiB, one change µs."""
    given = SCHEMA % (f"size {size};" if size else "")
    subprocess.run(["nft", "-f", "-"], input=given, text=True, check=True)
    with Socket() as sock:
        before = kernel_mib()
        if later:
            grow(sock, later)
        starts = range(0, elements, BATCH)
        times = [commit(sock, messages(slots(at, min(at + BATCH, elements)), 1)) for at in starts]
        time.sleep(0.3)  # the kernel goes on with tables of its own that grow
        memory = kernel_mib() - before
        changes = []
        for i in range(CHANGES):
            key = slot_key(i * 7 % (elements // 10) + 1, 3)
            ops = (Op(4, ENDPOINTS, key, delete=True), Op(4, ENDPOINTS, key, target_data("192.0.2.1", i + 1)))
            changes.append(commit(sock, messages(ops, 1)))
    subprocess.run(["nft", "delete", "table", "ip", TABLE], check=True)
    return sum(times) * 1e3, max(times) * 1e3, memory, statistics.median(changes) * 1e6


def main() -> None:
    """Print the table."""
    elements, rounds = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 100_000), (2, 5)))
    shapes = {
        "without": (0, 0),
        "size 1x": (elements, 0),
        "size 2x": (2 * elements, 0),
        "1/8, grown to 2x": (elements // 8, 2 * elements),
    }
    results: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in shapes}
    for _ in range(rounds):
        for name, (size, later) in shapes.items():
            results[name].append(measure(elements, size, later))
    print(f"{elements} elements, median of {rounds} rounds (lowest-highest)")
    print(f"{'map':17} {'load ms':>20} {'longest commit ms':>20} {'kernel MiB':>20} {'one change µs':>20}")
    for name, rows in results.items():
        cells = (f"{statistics.median(c):.1f} ({min(c):.1f}-{max(c):.1f})" for c in zip(*rows, strict=True))
        print(f"{name:17} " + " ".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
