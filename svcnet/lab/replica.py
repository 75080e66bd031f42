"""A pod that a ReplicationController has in the lab, and its record. Pure.

Owns: how such a pod is named, found again and shown. Must not know processes or when one is made.
"""

import re
from collections.abc import Callable

import msgspec

from svcnet.lab.topology import Address, LabMinion, LabPod, Topology, namespace_of
from svcnet.model.controller import ReplicationController
from svcnet.model.meta import Key, Meta, pair_get, pairs
from svcnet.model.pod import Pod

MADE_BY = "lab.svcnet.dev/made-by"
"""Annotation of every pod that a lab's controller made: LAB/CONTROLLER."""

LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""What the end of a name is made of; no vowels, so that no words come out."""

SLOTS = 253
"""Pods that one minion can hold: its /24 without network, gateway and broadcast address."""


class Placed(msgspec.Struct, frozen=True):
    """Where a replica is: written down before it is made, so that it can be found after any crash."""

    name: str
    record_namespace: str
    minion: str
    slot: int
    """Number of the pod on its minion, from 1: pods of `lab up` have the first ones."""

    @property
    def key(self) -> Key:
        """Key of its record."""
        return Key("Pod", self.record_namespace, self.name)

    @property
    def member(self) -> str:
        """What it is in the lab: its namespace is named after this, as those of `lab up` are."""
        return f"{self.minion}p{self.slot}"


class Replica(msgspec.Struct, frozen=True):
    """One pod of a controller as it is now; the controller is as it was when the pod was made."""

    name: str
    controller: ReplicationController
    created: str
    minion: str = ""
    slot: int = 0
    """0 while it has no minion."""
    phase: str = "Pending"
    ready: bool = False
    reason: str = ""
    message: str = ""

    @property
    def key(self) -> Key:
        """Key of its record."""
        return Key("Pod", self.controller.meta.namespace, self.name)

    @property
    def placed(self) -> Placed:
        """What is written down of it."""
        return Placed(self.name, self.controller.meta.namespace, self.minion, self.slot)


def fresh_name(controller: str, taken: Callable[[str], bool], letter: Callable[[str], str]) -> str:
    """Return a free name: the controller's in lower case, and five letters. `letter` picks one of a string."""
    stem = re.sub(r"[^a-z0-9]+", "-", controller.lower()).strip("-")[:57] or "pod"
    while taken(name := f"{stem}-{''.join(letter(LETTERS) for _ in range(5))}"):
        continue
    return name


def lab_pod(topology: Topology, placed: Placed) -> LabPod:
    """Return namespace, wire and addresses of a replica."""
    minion = minion_of(topology, placed.minion)
    addresses = tuple(Address(share[placed.slot + 1], share.prefixlen) for share in minion.pod_networks)
    return LabPod(
        placed.name, namespace_of(topology.spec.name, placed.member), placed.minion, f"p{placed.slot}", addresses
    )


def minion_of(topology: Topology, name: str) -> LabMinion:
    """Return a minion by its name."""
    return next(minion for minion in topology.minions if minion.name == name)


def with_placed(topology: Topology, placed: tuple[Placed, ...]) -> Topology:
    """Return the topology with the controllers' pods behind each minion's own."""
    extra = [(p.minion, lab_pod(topology, p)) for p in placed if any(m.name == p.minion for m in topology.minions)]
    minions = tuple(
        m._replace(pods=(*m.pods, *(pod for minion, pod in extra if minion == m.name))) for m in topology.minions
    )
    return topology._replace(minions=minions)


def record_of(replica: Replica, topology: Topology) -> Pod:
    """Return the record, as a kubelet would write it: labels of the template, state, and once it runs its addresses."""
    controller = replica.controller
    made_by = f"{topology.spec.name}/{controller.meta.name}"
    annotations = dict(controller.template_annotations) | {MADE_BY: made_by}
    minion = minion_of(topology, replica.minion) if replica.minion else None
    runs = replica.phase == "Running"
    return Pod(
        meta=Meta(
            name=replica.name,
            namespace=controller.meta.namespace,
            labels=controller.template_labels,
            annotations=pairs(annotations),
            created=replica.created,
        ),
        spec=msgspec.structs.replace(controller.template, node=replica.minion),
        phase=replica.phase,
        ips=tuple(map(str, lab_pod(topology, replica.placed).addresses)) if runs else (),
        host_ip=str(minion.addresses[0]) if minion else "",
        ready=replica.ready,
        reason=replica.reason,
        message=replica.message,
    )


def is_made_by(pod: Pod, lab: str) -> bool:
    """Whether a controller of this lab made the pod."""
    return pair_get(pod.meta.annotations, MADE_BY).startswith(f"{lab}/")
