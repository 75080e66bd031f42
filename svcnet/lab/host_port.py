"""containers[].ports[].hostPort: a port of the minion that leads to a pod, as rules of a table of the lab's own. Pure.

Owns: the table's text for nft(8). The whole table of one minion is replaced in one commit.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from svcnet.lab.replica import Replica, lab_pod, minion_of
from svcnet.lab.topology import Topology

TABLE = "svcnet-lab"

DSTNAT, SRCNAT = -100, 100
"""Priorities of NF_IP_PRI_NAT_*: nft 1.0.6 takes the word `dstnat` in prerouting alone."""


class Forward(NamedTuple):
    """(protocol, minion's address, its port) → (pod's address, its port); addresses of one family."""

    protocol: str
    address: str
    port: int
    pod: str
    pod_port: int


def forwards(topology: Topology, minion: str, replicas: Iterable[Replica]) -> list[Forward]:
    """Return what the running pods of a minion want, in every family that both have."""
    found = []
    own = minion_of(topology, minion).addresses
    for replica in replicas:
        if replica.minion != minion or replica.phase != "Running":
            continue
        ports = [p for c in replica.controller.template.containers for p in c.ports if p.host_port]
        for address, pod in zip(own, lab_pod(topology, replica.placed).addresses, strict=True):
            found += [
                Forward(p.protocol.lower(), str(address), p.host_port, str(pod), p.container_port)
                for p in ports
                if p.protocol in {"TCP", "UDP"} and p.host_ip in {"", "0.0.0.0", "::", str(address)}  # noqa: S104 - compared
            ]
    return sorted(found)


def table(found: Sequence[Forward]) -> str:
    """Return input for `nft -f -` that replaces the table in both families, or removes it when there is nothing.

    The rules name the minion's own addresses, not "local" ones: the userspace proxy makes virtual IPs local. A pod
    that reaches itself by its host port must not get its own address as the client's.
    """
    lines = []
    for family in ("ip", "ip6"):
        name = f"table {family} {TABLE}"
        own = [f for f in found if (":" in f.address) == (family == "ip6")]
        lines += [name, f"delete {name}"]
        if own:
            rules = [f"    {family} daddr {f.address} {f.protocol} dport {f.port} dnat to {_to(f)}" for f in own]
            loops = [
                f"    {family} saddr {pod} {family} daddr {pod} masquerade" for pod in sorted({f.pod for f in own})
            ]
            lines += [
                name + " {",
                "  chain prerouting {",
                f"    type nat hook prerouting priority {DSTNAT}; policy accept;",
                *rules,
                "  }",
                "  chain output {",
                f"    type nat hook output priority {DSTNAT}; policy accept;",
                *rules,
                "  }",
                "  chain postrouting {",
                f"    type nat hook postrouting priority {SRCNAT}; policy accept;",
                *loops,
                "  }",
                "}",
            ]
    return "\n".join(lines) + "\n"


def _to(forward: Forward) -> str:
    address = f"[{forward.pod}]" if ":" in forward.pod else forward.pod
    return f"{address}:{forward.pod_port}"
