"""Where UDP flows to a frontend may lead, for as long as they are used. Pure.

Owns: the answer for each kind of client. A flow outlives the choice that made it: an endpoint that still serves keeps
its flows when others are preferred, weighs 0 or ends; one that is gone, or that a policy keeps from a client, does not.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from msgspec import structs

from svcnet.iptables.desired import Minion, desired
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import ServedPort, Snapshot
from svcnet.tracker import NODE_PORT

Backend = tuple[str, int]


class Reach(NamedTuple):
    """`inside`: for pods and the minion itself; `outside`: for everybody else."""

    inside: frozenset[Backend]
    outside: frozenset[Backend]
    ours: bool = True
    """False: another proxy serves it, and its flows are its own."""


Reaches = Mapping[Frontend, Reach | None]
"""None: nobody serves there any more."""
Look = Callable[[Iterable[Frontend]], Reaches]
"""The answer for some frontends, in which those of no service are absent."""
_OTHERS = Reach(frozenset(), frozenset(), ours=False)


def reach(ports: Iterable[ServedPort], minion: Minion) -> dict[Frontend, Reach]:
    """Work out all frontends of the UDP ports among `ports`."""
    found: dict[Frontend, Reach] = {}
    for port in ports:
        if port.key.protocol != "UDP":
            continue
        if port.policy.elsewhere:
            mine = structs.replace(port, policy=structs.replace(port.policy, elsewhere=False))
            found |= dict.fromkeys(desired(mine, minion), _OTHERS)
            continue
        everywhere, here = _serving(port, minion.name)
        for front, row in desired(port, minion).items():
            if row.virtual and port.policy.internal_local:
                found[front] = Reach(here, here)
            elif row.kind is Class.EXTERNAL_LOCAL:
                found[front] = Reach(everywhere, here)
            else:
                found[front] = Reach(everywhere, everywhere)
    return found


def looker(snapshot: Snapshot, minion: Minion) -> Look:
    """Answer from a snapshot. O(frontends that are asked for)."""

    def look(fronts: Iterable[Frontend]) -> Reaches:
        keys = {
            snapshot.by_address.get((where, "UDP", front.port))
            for front in fronts
            for where in (front.address, NODE_PORT[front.family])
        }
        return reach((snapshot.ports[key] for key in keys if key is not None), minion)

    return look


def _serving(port: ServedPort, node: str) -> tuple[frozenset[Backend], frozenset[Backend]]:
    every = (*port.endpoints, *port.local, *port.lingering)
    here = (e for e in every if e.node and e.node == node)
    return frozenset((e.address, e.port) for e in every), frozenset((e.address, e.port) for e in here)
