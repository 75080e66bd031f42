"""On which of this machine's addresses node ports answer (contract, --nodeport-addresses). Pure.

Owns: the choice. Knows neither how addresses are read nor what a node port leads to.
"""

from collections.abc import Iterable

from svcnet.endpoints import Network, Networks
from svcnet.model.node import Node

NEVER = ("127.", "::1")
"""Loopback answers no node port: that would need route_localnet (CVE-2020-8558)."""


def node_addresses(
    wanted: Iterable[Network] | None, machine: Iterable[str], node: Node | None, sources: Iterable[str]
) -> tuple[str, ...]:
    """Return canonical text, sorted by family and value as text.

    `wanted` None is `primary`: one address a family, the InternalIP of the minion's Node record, else the source
    address of the default route (`sources`). Else all of `machine`'s addresses that are in these networks.
    """
    if wanted is not None:
        within = Networks(wanted)
        chosen = {a for a in machine if within.holding(a) is not None}
    else:
        recorded = [a for kind, a in node.addresses if kind == "InternalIP"] if node else []
        by_family: dict[bool, str] = {}
        for address in (*recorded, *sources):
            by_family.setdefault(":" in address, address)
        chosen = set(by_family.values())
    return tuple(sorted((a for a in chosen if not a.startswith(NEVER)), key=lambda a: (":" in a, a)))
