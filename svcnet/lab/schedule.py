"""How many pods each controller is short of, and which minion takes one. Pure.

Owns: replication and placement. Must not know how a pod is made, or when.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from svcnet.lab.image import command_of
from svcnet.lab.replica import SLOTS, Replica
from svcnet.model.controller import ReplicationController
from svcnet.model.meta import Key, Pairs
from svcnet.model.pod import PodSpec

HostPort = tuple[str, int]
"""(protocol, port of the minion)."""

UNKNOWN_IMAGE, UNSCHEDULABLE = "UnknownImage", "Unschedulable"
"""Reasons of a Pending pod; the second is Kubernetes' word."""


class Ground(NamedTuple):
    """What a minion has to offer."""

    pods: int = 0
    """Those of `lab up`, which have the first slots."""
    last: int = 0
    """Slot that was given last, 0 for none."""
    closed: bool = False
    """Takes no new pods (Node.spec.unschedulable)."""


class Place(NamedTuple):
    """Where a pod goes, or why it can't go anywhere."""

    minion: str = ""
    slot: int = 0
    reason: str = ""
    message: str = ""


def missing(controllers: Mapping[Key, ReplicationController], replicas: Sequence[Replica]) -> list[Key]:
    """Return the controllers that lack a pod, once for each that they lack."""
    have = Counter(replica.controller.key for replica in replicas)
    return [key for key in sorted(controllers) for _ in range(controllers[key].replicas - have[key])]


def surplus(controllers: Mapping[Key, ReplicationController], replicas: Sequence[Replica]) -> list[Replica]:
    """Return the pods that are too many: all of a deleted controller; of another those that serve least, the newest."""
    found = []
    by_controller: dict[Key, list[Replica]] = {}
    for replica in replicas:
        by_controller.setdefault(replica.controller.key, []).append(replica)
    loads = Counter(replica.minion for replica in replicas)
    for key, own in sorted(by_controller.items()):
        controller = controllers.get(key)
        keep = controller.replicas if controller else 0
        own.reverse()  # newest first, and the sort is stable
        least = sorted(own, key=lambda r: (bool(r.minion), r.ready, -loads[r.minion]))
        found += least[: max(0, len(own) - keep)]
    return found


def place(replica: Replica, replicas: Sequence[Replica], minions: Mapping[str, Ground], images: Pairs) -> Place:
    """Choose the minion with the fewest pods, the first of equals; or say what is in the way.

    `replicas`: all, those that are about to end too. Two pods that want one host port are kept on different minions.
    """
    spec = replica.controller.template
    unknown = [c.image or c.name for c in spec.containers if command_of(c.image, images) is None]
    if unknown or not spec.containers:
        what = f"no stand-in for image {unknown[0]}" if unknown else "the template has no containers"
        hint = f": svcnet lab up --image {unknown[0]}=COMMAND" if unknown else ""
        return Place(reason=UNKNOWN_IMAGE, message=what + hint)
    there = [r for r in replicas if r.minion and r.name != replica.name]
    wanted = set(host_ports(spec))
    loads = Counter(r.minion for r in there)
    taken: dict[str, set[HostPort]] = {name: set() for name in minions}
    for other in there:
        taken[other.minion] |= wanted & set(host_ports(other.controller.template))
    allowed = [name for name in minions if not spec.node or name == spec.node]
    opened = [name for name in allowed if not minions[name].closed and minions[name].pods + loads[name] < SLOTS]
    free = [name for name in opened if not taken[name]]
    if free:
        minion = min(free, key=lambda name: minions[name].pods + loads[name])
        return Place(minion, _slot(minions[minion], {r.slot for r in there if r.minion == minion}))
    if not allowed:
        return Place(reason=UNSCHEDULABLE, message=f"there is no minion {spec.node}")
    if not opened:
        return Place(reason=UNSCHEDULABLE, message=f"no room on {', '.join(allowed)}: full, or taking no new pods")
    clashes = ", ".join(f"{port}/{protocol}" for protocol, port in sorted(set().union(*(taken[n] for n in opened))))
    return Place(reason=UNSCHEDULABLE, message=f"host port {clashes} is taken on {', '.join(opened)}")


def host_ports(spec: PodSpec) -> Iterator[HostPort]:
    """Yield what a pod wants of its minion."""
    for container in spec.containers:
        for port in container.ports:
            if port.host_port:
                yield port.protocol, port.host_port


def _slot(ground: Ground, used: Collection[int]) -> int:
    """Return the next free slot after the one given last, round and round.

    Not the lowest: the address of a pod that just ended is not given to another while somebody may still use it.
    """
    slots = range(ground.pods + 1, SLOTS + 1)
    after = max(ground.last - ground.pods, 0)
    around: list[int] = [*slots[after:], *slots[:after]]
    return next(slot for slot in around if slot not in used)
