"""What one changed element costs by the shape of the map: verdicts (chain per key) against numbers.

Run in an empty network namespace: `unshare -n python -m svcnet.bench.keys`. Prints a table; docs/adr/0001 quotes it.
"""

import statistics
import struct
import subprocess
import time
from collections.abc import Iterator

from svcnet.iptables.elements import (
    ELEM_DATA,
    ELEM_KEY,
    ELEM_LIST_ELEMENTS,
    ELEM_LIST_SET,
    ELEM_LIST_TABLE,
    LIST_ELEM,
    NEWSETELEM,
    number,
)
from svcnet.iptables.netlink import (
    BATCH_BEGIN,
    BATCH_END,
    NLM_F_ACK,
    NLM_F_CREATE,
    Socket,
    attr,
    message,
    nest,
    text,
)

SCHEMA = """
add table ip keys
add chain ip keys target
add map ip keys numbers { typeof ip daddr . meta l4proto . th dport : meta priority; }
add map ip keys verdicts { typeof ip daddr . meta l4proto . th dport : verdict; }
add chain ip keys output { type nat hook output priority -100; }
add rule ip keys output ip daddr . meta l4proto . th dport vmap @verdicts
add rule ip keys output meta priority set ip daddr . meta l4proto . th dport map @numbers
"""
GOTO = 0xFFFFFFFC
ROUNDS = 300


def _data(table: str, value: int) -> bytes:
    if table == "numbers":
        return nest(ELEM_DATA, attr(1, number(value)))
    return nest(ELEM_DATA, nest(2, attr(1, struct.pack(">I", GOTO)) + text(2, "target")))


def _key(i: int) -> bytes:
    return struct.pack(">IB3xH2x", 0x0A000000 + i, 6, 80)


def _send(sock: Socket, table: str, keys: range) -> None:
    parts: list[bytes] = []
    for first in range(keys.start, keys.stop, 500):
        run = (
            nest(LIST_ELEM, nest(ELEM_KEY, attr(1, _key(i))) + _data(table, i))
            for i in range(first, min(first + 500, keys.stop))
        )
        where = text(ELEM_LIST_TABLE, "keys") + text(ELEM_LIST_SET, table)
        body = where + nest(ELEM_LIST_ELEMENTS, b"".join(run))
        last = first + 500 >= keys.stop
        flags = NLM_F_CREATE | (NLM_F_ACK if last else 0)
        parts.append(message(NEWSETELEM, flags, 2, body, 1 if last else 0))
    sock.request(b"".join([message(BATCH_BEGIN, 0, 0, b"", 0, 10), *parts, message(BATCH_END, 0, 0, b"", 2, 10)]), 1)


def measure(table: str, size: int) -> Iterator[float]:
    """Seconds of each of ROUNDS added elements, in a map that holds `size` already."""
    subprocess.run(["nft", "-f", "-"], input=SCHEMA, text=True, check=True)
    with Socket() as sock:
        for first in range(0, size, 50_000):
            _send(sock, table, range(first, min(first + 50_000, size)))
        for i in range(ROUNDS):
            before = time.perf_counter()
            _send(sock, table, range(size + i, size + i + 1))
            yield time.perf_counter() - before
    subprocess.run(["nft", "delete", "table", "ip", "keys"], check=True)


def main() -> None:
    """Print p50 and p99 of one added element."""
    print("elements  map       p50 µs   p99 µs")
    for size in (100, 10_000, 100_000):
        for table in ("numbers", "verdicts"):
            times = sorted(measure(table, size))
            print(f"{size:8}  {table:8} {statistics.median(times) * 1e6:8.0f} {times[int(ROUNDS * 0.99)] * 1e6:8.0f}")


if __name__ == "__main__":
    main()
