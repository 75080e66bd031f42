"""Whether outgoing connections take ports that node ports need. Pure."""

from collections.abc import Iterator

from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, sysctl

NODE_PORTS = (30000, 32767)
"""Contract, Records: node ports are claimed from this range."""
_LOCAL, _RESERVED = "net/ipv4/ip_local_port_range", "net/ipv4/ip_local_reserved_ports"


def examine(facts: Facts) -> Iterator[Finding]:
    """One range for IPv4 and IPv6."""
    words = facts.settings.get(_LOCAL, "").split()
    if len(words) != 2 or not all(map(str.isdigit, words)):
        return
    first, last = max(NODE_PORTS[0], int(words[0])), min(NODE_PORTS[1], int(words[1]))
    reserved = facts.settings.get(_RESERVED, "")
    if first > last or _holds(reserved, first, last):
        return
    wanted = ",".join(filter(None, [reserved, f"{NODE_PORTS[0]}-{NODE_PORTS[1]}"]))
    yield Finding(
        f"outgoing connections may take ports {first} to {last}, which are node ports",
        "A connection of this machine that happens to have a node port as its own is cut off, or keeps the"
        " node port from"
        " being served, until it ends. A reserved range is never given to connections that don't ask for it.",
        (sysctl(_RESERVED, wanted),),
    )


def _holds(reserved: str, first: int, last: int) -> bool:
    ranges = sorted((int(a), int(b or a)) for a, _, b in (part.partition("-") for part in reserved.split(",") if part))
    for low, high in ranges:
        if low <= first <= high:
            first = high + 1
    return first > last
