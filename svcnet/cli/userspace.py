"""The userspace proxy as a data path: the same rows as the kernel paths, said in the proxy's words.

Owns: the translation. Neither side knows the other: iptables/ and proxy/ never import each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from svcnet.endpoints import Networks
from svcnet.iptables.desired import LOCAL, SERVING, Desired, Treatment
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.plan import Plan, diff
from svcnet.proxy import route
from svcnet.proxy.listening import listening
from svcnet.proxy.route import Network
from svcnet.proxy.row import Backend, Weights
from svcnet.proxy.userspace import PROTOCOLS, Userspace


class UserspacePath:
    """`svcnet.parts.DataPath` by listeners on the virtual IPs. Nothing happens before the first `sync`."""

    name = "userspace"

    def __init__(self, networks: Sequence[Network], workers: int) -> None:
        self._networks = networks
        self.proxy = Userspace(networks, workers)
        self._current: Desired = {}

    def look(self, desired: Desired) -> Desired:
        """What is in force, as far as another process can see: who listens on virtual IPs, not where that leads."""
        if not route.is_there(self._networks):
            return {}
        open_now = listening(self._networks)
        mine = Networks(self._networks)
        served = {f: t for f, t in desired.items() if not mine.holding(f.address) or _is_as_wanted(f, t, open_now)}
        others = open_now - served.keys()
        return served | {row: Treatment(Class.CLUSTER, None) for row in others}

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Serve exactly these."""
        plan = diff(self._current, desired)
        self.proxy.sync({row: weights for row, treatment in desired.items() if (weights := _weights(treatment))})
        self._current = dict(desired)
        return plan

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        changes: dict[Frontend, Weights | None] = {}
        for change in plan.changes():
            changes[change.key] = _weights(change.after) if change.after is not None else None
            if change.after is None:
                self._current.pop(change.key, None)
            else:
                self._current[change.key] = change.after
        return self.proxy.apply(changes)

    def changed_by_others(self) -> bool:
        """Whether the route is gone."""
        return not route.is_there(self._networks)

    def left_out(self) -> tuple[LeftOut, ...]:
        """The frontends that are not served, and why."""
        found = []
        for front, why in sorted(self.proxy.failed.items()):
            treatment = self._current.get(front)
            found.append(LeftOut(f"{front} ({treatment.owner if treatment else 'unknown'})", why))
        return tuple(found)

    def led(self, address: str, protocol: str, port: int) -> dict[str, Any]:
        """Where a frontend leads: `targets` as [address, port, weight], or `why` it is not served."""
        front = Frontend(6 if ":" in address else 4, address, protocol, port)
        weights = self.proxy.rows.get(front, {})
        targets = [[*backend, weight] for backend, weight in weights.items() if weight]
        return {"targets": targets, "why": self.proxy.failed.get(front, "")}

    def states(self) -> dict[str, str]:
        """The state of each worker."""
        alive = "running", "failed: it ended, and another is being started"
        return {f"proxy worker {n}": alive[not worker.pid] for n, worker in enumerate(self.proxy.workers)}


def _weights(treatment: Treatment) -> Mapping[Backend, int]:
    if treatment.kind not in SERVING:
        return {}
    return {
        Backend(t.address, t.port): t.weight
        for t in (treatment.local if treatment.kind in LOCAL else treatment.targets)
    }


def _is_as_wanted(row: Frontend, treatment: Treatment, open_now: frozenset[Frontend]) -> bool:
    if row.protocol not in PROTOCOLS:  # another sync would not serve it either
        return True
    return bool(_weights(treatment)) == (row in open_now)
