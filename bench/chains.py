"""The baseline: a chain a service and a chain an endpoint, as kube-proxy's nftables mode lays it out, by `nft -f`.

Owns: text of that shape in a table of its own. The same services, endpoints and addresses as bench/world.py.
"""

import subprocess
import time
from collections.abc import Iterator

from svcnet.bench.world import PORT, TARGET_PORT, address, virtual_ip

TABLE = "bench-chains"


def _service(i: int, endpoints: int, shift: int = 0) -> Iterator[str]:
    first = i * endpoints + shift
    for j in range(endpoints):
        yield f"add chain ip {TABLE} endpoint-{i}-{j}"
        yield f"add rule ip {TABLE} endpoint-{i}-{j} meta l4proto tcp dnat to {address(first + j)}:{TARGET_PORT}"
    yield f"add chain ip {TABLE} service-{i}"
    picks = ", ".join(f"{j} : goto endpoint-{i}-{j}" for j in range(endpoints))
    yield f"add rule ip {TABLE} service-{i} numgen random mod {endpoints} vmap {{ {picks} }}"


def whole(services: int, endpoints: int) -> str:
    """The ruleset for a first load."""
    lines = [
        f"add table ip {TABLE}",
        f"add map ip {TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}",
    ]
    for i in range(1, services + 1):
        lines += _service(i, endpoints)
        lines.append(f"add element ip {TABLE} service-ips {{ {virtual_ip(i)} . tcp . {PORT} : goto service-{i} }}")
    lines += [
        f"add chain ip {TABLE} output {{ type nat hook output priority -100; }}",
        f"add rule ip {TABLE} output ip daddr . meta l4proto . th dport vmap @service-ips",
    ]
    return "\n".join(lines) + "\n"


def changed(i: int, endpoints: int, shift: int) -> str:
    """One service with other endpoints."""
    flush = [f"flush chain ip {TABLE} service-{i}"]
    flush += [f"flush chain ip {TABLE} endpoint-{i}-{j}" for j in range(endpoints)]
    return "\n".join([*flush, *_service(i, endpoints, shift)]) + "\n"


def load(text: str, seconds: float) -> float | None:
    """Seconds that `nft -f` took; None when it was stopped after `seconds`."""
    begin = time.perf_counter()
    try:
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    return time.perf_counter() - begin


def remove() -> None:
    """Delete the table."""
    subprocess.run(["nft", "delete", "table", "ip", TABLE], check=False, stderr=subprocess.DEVNULL)
