"""The userspace proxy as a data path: the same rows as the kernel paths, said in the proxy's words.

Owns: the translation. Neither side knows the other: iptables/ and proxy/ never import each other.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from svcnet.cli.unmet import Unmet, in_userspace
from svcnet.endpoints import Networks
from svcnet.iptables.desired import Desired, Target, Treatment
from svcnet.iptables.ruleset import Class
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.plan import Plan, diff
from svcnet.proxy import route
from svcnet.proxy.child import Child
from svcnet.proxy.left import Left
from svcnet.proxy.listening import listening
from svcnet.proxy.route import Network
from svcnet.proxy.row import Backend, Choice, Reach, Rule, Service, Weights
from svcnet.proxy.userspace import PROTOCOLS, Userspace
from svcnet.proxy.way import Ways

REACH = {
    Class.DROP: Reach.NOBODY,
    Class.CLUSTER: Reach.ALL,
    Class.EXTERNAL: Reach.ALL,
    Class.INTERNAL_LOCAL: Reach.LOCAL,
    Class.EXTERNAL_LOCAL: Reach.BY_SOURCE,
}
"""How the proxy says which of the targets a frontend leads to; what is refused has no listener."""
_CHOICE = {"hash": Choice.HASH, "affinity": Choice.AFFINITY}
"""What comes before the annotation `balance`."""
_BALANCE = {"random": Choice.CHANCE, "leastconn": Choice.LEAST}


class UserspacePath:
    """`svcnet.parts.DataPath` by listeners on the virtual IPs. Nothing happens before the first `sync`."""

    name = "userspace"

    def __init__(
        self,
        networks: Sequence[Network],
        workers: int,
        pods: Iterable[Network] = (),
        log_every: int = 0,
        left: Left | None = None,
    ) -> None:
        self._networks = networks
        self._inside = Networks(networks)
        self.proxy = Userspace(networks, workers, [str(network) for network in pods], None, log_every, left)
        self._current: Desired = {}
        self._unmet = Unmet(in_userspace)

    def look(self, desired: Desired) -> Desired:
        """What is in force, as far as another process can see: which addresses are local, and who listens there."""
        if not route.is_there(self._networks):
            return {}
        mine = route.addresses(self._networks)
        outside = {f.address for f in desired if not self._inside.holding(f.address)}
        open_now = listening([*self._networks, *map(ip_network, outside | mine)])
        ways = Ways()
        lost = {address for address in outside if not ways.is_local(address)}
        ways.close()
        served = {f: t for f, t in desired.items() if f.address not in lost and self._is_as_wanted(f, t, open_now)}
        others = {f for f in open_now - served.keys() if f.address in mine or self._inside.holding(f.address)}
        return served | {row: Treatment(Class.CLUSTER, None) for row in others}

    def _is_as_wanted(self, row: Frontend, treatment: Treatment, open_now: frozenset[Frontend]) -> bool:
        if row.protocol not in PROTOCOLS:  # another sync would not serve it either
            return True
        if rule(treatment).listens:
            return row in open_now
        return row not in open_now or not self._inside.holding(row.address)  # elsewhere others may listen

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Serve exactly these."""
        plan = diff(self._current, desired)
        self._unmet.renew(desired)
        self.proxy.sync({row: rule(treatment) for row, treatment in desired.items()})
        self._current = dict(desired)
        return plan

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        self._unmet.follow(plan)
        changes: dict[Frontend, Rule | None] = {}
        for change in plan.changes():
            changes[change.key] = rule(change.after) if change.after is not None else None
            if change.after is None:
                self._current.pop(change.key, None)
            else:
                self._current[change.key] = change.after
        return self.proxy.apply(changes)

    def changed_by_others(self) -> bool:
        """Whether a route is gone."""
        return not self.proxy.routes_are_there()

    def left_out(self) -> tuple[LeftOut, ...]:
        """The frontends that are not served, and annotations without effect, and why."""
        found = []
        for front, why in sorted(self.proxy.failed.items()):
            treatment = self._current.get(front)
            found.append(LeftOut(f"{front} ({treatment.owner if treatment else 'unknown'})", why))
        return (*found, *self._unmet.left_out())

    def led(self, address: str, protocol: str, port: int) -> dict[str, Any]:
        """Where a frontend leads: `rule` as `Rule.encoded` has it with its `ranges`, or `why` it is not served.

        `ours`: the address is one of this machine's because of us alone.
        """
        front = Frontend(6 if ":" in address else 4, address, protocol, port)
        return told(self.proxy, front, ours=self._inside.holding(address) is not None or address in self.proxy.outside)

    def states(self) -> dict[str, str]:
        """The state of each worker, with its limit; whoever comes when it is reached waits in the kernel's queue."""
        return worker_states(self.proxy)


def told(proxy: Userspace, front: Frontend, *, ours: bool) -> dict[str, Any]:
    """What `UserspacePath.led` answers."""
    found = proxy.rows.get(front)
    served = {"rule": found.encoded(), "ranges": found.ranges} if found is not None else {}
    return served | {"ours": ours, "why": proxy.why_not(front)}


def worker_states(proxy: Userspace) -> dict[str, str]:
    """The state of each worker, by the name of the part that it is."""
    return {f"proxy worker {n}": _state(worker) for n, worker in enumerate(proxy.workers)}


def _state(worker: Child) -> str:
    if not worker.pid:
        return "failed: it ended, and another is being started"
    most = worker.counters.get("most_connections")
    state = f"running: at most {most} connections" if most else "running"
    return f"{state}; {worker.faults} faults, the last: {worker.last_fault}" if worker.faults else state


def rule(treatment: Treatment) -> Rule:
    """A treatment in the proxy's words."""
    reach = REACH.get(treatment.kind)
    if reach is None:
        return Rule(Service(str(treatment.owner), {}))
    kind, seconds = treatment.pick
    targets, local = _weights(treatment.targets), _weights(treatment.local)
    choice = _CHOICE.get(kind) or _BALANCE.get(treatment.terms.balance, Choice.TURN)
    service = Service(str(treatment.owner), targets, local, choice, seconds, treatment.terms, treatment.levels)
    return Rule(service, reach, treatment.ranges)


def _weights(targets: Iterable[Target]) -> Weights:
    return {Backend(t.address, t.port): t.weight for t in targets}
