"""A kernel path with the userspace proxy beside it: the kernel's rules lead services there that ask for it.

Owns: which rows go that way, and the order: the proxy listens before the kernel leads there, and until nobody comes any
more. To the kernel such a frontend has one target, where the proxy listens for it (docs/adr/0014). Must not know which
kernel path it is.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Protocol

from svcnet.cli.entrances import Entrances, Key, own_addresses
from svcnet.cli.proxied_flows import ProxiedFlows
from svcnet.cli.unmet import Unmet, in_kernel, is_proxied
from svcnet.cli.userspace import REACH, rule, told, worker_states
from svcnet.iptables.conntrack import Conntrack
from svcnet.iptables.desired import PROXIED, RANDOM, SERVING, Desired, Target, Treatment
from svcnet.iptables.netlink import MendedError
from svcnet.iptables.ruleset import Class
from svcnet.model.errors import SvcnetError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut, PortKey
from svcnet.model.terms import USUAL
from svcnet.plan import Change, Plan, diff
from svcnet.proxy.ledger import Counted
from svcnet.proxy.listening import connected, listening
from svcnet.proxy.route import Network
from svcnet.proxy.row import Reach, Rule
from svcnet.proxy.userspace import Userspace

log = logging.getLogger(__name__)

ORDER = (Reach.ALL, Reach.LOCAL, Reach.BY_SOURCE)
"""Of one service port's entrances: the first is its scope `all` in the kernel, another one its scope `local`."""


class KernelPath(Protocol):
    """What is beside the proxy: nftables or iptables."""

    name: str

    def look(self, desired: Desired) -> Desired:
        """What is in force, changing nothing."""
        ...

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Read everything back and make it equal."""
        ...

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        ...

    def changed_by_others(self) -> bool:
        """Whether it is time to `sync`."""
        ...


class Hybrid:
    """`svcnet.parts.DataPath`. No worker is started, and no route made, before a service asks for the proxy."""

    def __init__(self, path: KernelPath, networks: Sequence[Network], proxy: Userspace, table: Conntrack) -> None:
        self.name = path.name
        self._path = path
        self._table = table
        self.flows = ProxiedFlows(table, self.backends)
        self.addresses = own_addresses(networks)
        """Family → where entrances are."""
        self.proxy = proxy
        self.entrances = Entrances(self.proxy, self.addresses, self._is_needed)
        self._rows: dict[PortKey, Desired] = {}
        """The frontends of every service port that has an entrance, be it about to be closed, as they are asked for."""
        self._owners: dict[Frontend, PortKey] = {}
        """The same the other way round."""
        self._lowered: Desired = {}
        """Those of them that lead to an entrance, as the kernel holds them."""
        self._named: dict[Frontend, Frontend] = {}
        """Entrance → a frontend of its service."""
        self._unmet = Unmet(in_kernel)

    def look(self, desired: Desired) -> Desired:
        """What is in force, of the rules and as far as another process can see of the proxy; changes nothing."""
        rows = _by_owner(desired)
        if not rows:
            return self._path.look(desired)
        places = self._in_force(desired, rows)
        lowered = _all_lowered(rows, places)
        found = self._path.look(desired | lowered)
        open_now = listening(ip_network(address) for address in self.addresses.values())
        for owner, fronts in rows.items():
            if all(places[key] in open_now for key in keys(owner, fronts)):
                found |= {front: t for front, t in fronts.items() if found.get(front) == lowered[front]}
        return found

    def _in_force(self, desired: Desired, rows: Mapping[PortKey, Desired]) -> dict[Key, Frontend]:
        """Where entrances are, as far as the kernel knows, whose daemon chose the ports; else where they would be."""
        places = {key: self.entrances.guess(key) for owner, fronts in rows.items() for key in keys(owner, fronts)}
        return places | _found(self._path.look(desired | _all_lowered(rows, places)), rows)

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Make proxy and kernel equal to `desired`."""
        self._unmet.renew(desired)
        self._rows = _by_owner(desired, {key.owner for key in self.entrances.at})
        self._owners = {front: owner for owner, fronts in self._rows.items() for front in fronts}
        self.entrances.renew()
        if self.proxy.follows and not self.entrances.is_started and self._rows:
            self.entrances.adopt(self._in_force(desired, self._rows))
        self._open(self._rows)
        self._lowered = self._lower(self._rows)
        plan = self._path.sync(desired | self._lowered if self._lowered else desired)
        self._retire(self._rows, {*self.entrances.at, *self.entrances.failed})
        return Plan(*(tuple(self._told(change, desired) for change in part) for part in plan))

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        self._unmet.follow(plan)
        touched = self.touched(plan)
        if not touched:
            return self._path.apply(plan)
        rows = self._take(plan, touched)
        self._open(rows)
        asked = {front: t for fronts in rows.values() for front, t in fronts.items()}
        lowered = self._lower(rows)
        before = {**asked, **{c.key: c.before for c in plan.changes()}}
        before = {front: self._lowered.pop(front, t) for front, t in before.items()}
        after = {**{c.key: c.after for c in plan.changes()}, **asked, **lowered}
        self._lowered |= lowered
        mended: MendedError | None = None
        count = 0
        try:
            count = self._path.apply(diff(_present(before), _present(after)))
        except MendedError as error:
            mended = error
        self._retire(rows, [Key(owner, reach) for owner in touched for reach in ORDER])
        if mended is not None:
            raise mended
        return count

    def changed_by_others(self) -> bool:
        """Whether the kernel is not as we left it, or the proxy can do what it could not. Closes what nobody needs."""
        changed = self._path.changed_by_others()
        if not self.entrances.is_started:
            return changed
        self._forget({key.owner for key in self.entrances.tend()})
        return changed or self.entrances.is_better or not self.proxy.routes_are_there()

    def touched(self, plan: Plan[Frontend, Treatment]) -> set[PortKey]:
        """The service ports of a plan that the proxy has to do with: it takes a word with workers to carry it out."""
        owners = {t.owner for change in plan.changes() for t in change[1:] if t is not None and self._concerns(t)}
        return {owner for owner in owners if owner is not None}

    def restore(self) -> None:
        """Let the kernel translate everything, as for all others. Of UDP the next datagram comes that way."""
        plan = diff(self._lowered, {front: self._rows[self._owners[front]][front] for front in self._lowered})
        if not plan:
            return
        try:
            self._path.apply(plan)
            self._lowered = {}
            self._table.drop(self.addresses.values())
            log.info("the kernel translates what went through the userspace proxy frontends=%s", len(plan))
        except SvcnetError as error:
            log.warning("rules lead to the userspace proxy, which ends why=%s", error)

    def stop(self) -> None:
        """End. Who is connected through the proxy stays so: its workers end with their last connection."""
        if self.proxy.is_ahead:
            self.proxy.stop()
        elif self.entrances.is_started:
            self.restore()
            self.proxy.drain()

    def relieve(self) -> None:
        """Those whose place the proxy took take nobody new in."""
        if self.proxy.relieve():  # of UDP the next datagram goes by the rules
            self._table.drop(self.addresses.values())

    def needed(self) -> frozenset[str]:
        """The addresses of ours that connections may still need."""
        own = frozenset(self.addresses.values())
        return own if self.entrances.is_started else connected(own)

    def backends(self, front: Frontend) -> frozenset[tuple[str, int]]:
        """The entrances that a frontend's flows may lead to."""
        owner = self._owners.get(front)
        found = (self.entrances.at.get(Key(owner, reach)) for reach in ORDER) if owner is not None else ()
        return frozenset((place.address, place.port) for place in found if place is not None)

    def counted(self) -> Iterator[Counted]:
        """What the proxy has carried since the last time, of frontends of services."""
        for one in self.proxy.ledger.take():
            yield one._replace(front=self._named.get(one.front, one.front))

    def left_out(self) -> tuple[LeftOut, ...]:
        """What services ask for and do not get."""
        failed = sorted(self.entrances.failed.copy().items(), key=lambda item: str(item[0].owner))
        how = "translated by the kernel, and not through the userspace proxy"
        return (*(LeftOut(str(key.owner), f"{how}: {why}") for key, why in failed), *self._unmet.left_out())

    def states(self) -> dict[str, str]:
        """The state of each worker, once there are any."""
        return worker_states(self.proxy) if self.entrances.is_started else {}

    def led(self, address: str, protocol: str, port: int) -> dict[str, Any]:
        """Where an entrance leads, as UserspacePath.led."""
        return told(self.proxy, Frontend(6 if ":" in address else 4, address, protocol, port), ours=True)

    def _concerns(self, treatment: Treatment) -> bool:
        return treatment.owner in self._rows or is_proxied(treatment)

    def _take(self, plan: Plan[Frontend, Treatment], touched: Iterable[PortKey]) -> dict[PortKey, Desired]:
        """The frontends of these as they are from now on."""
        rows = {owner: dict(self._rows.get(owner, {})) for owner in touched}
        for front, before, after in plan.changes():
            if before is not None and before.owner in rows:
                rows[before.owner].pop(front, None)
                self._owners.pop(front, None)
            if after is not None and after.owner in rows:
                rows[after.owner][front] = after
                self._owners[front] = after.owner
        self._rows |= rows
        return rows

    def _open(self, rows: Mapping[PortKey, Desired]) -> None:
        """Have the proxy serve what these ask for; entrances that are to be closed still learn where to lead."""
        wanted, others = dict[Key, Rule](), dict[Key, Rule]()
        for owner, fronts in rows.items():
            for treatment in fronts.values():
                reach = REACH.get(treatment.kind)
                if treatment.kind in SERVING and reach is not None:
                    which = wanted if is_proxied(treatment) else others
                    which[Key(owner, reach)] = rule(treatment)._replace(ranges=())
        self.entrances.open(wanted)
        self.entrances.follow(others)
        for owner, fronts in rows.items():
            named = min(fronts, key=lambda front: not fronts[front].virtual, default=None)
            for place in filter(None, (self.entrances.at.get(Key(owner, reach)) for reach in ORDER)):
                if named is not None:
                    self._named[place] = named

    def _lower(self, rows: Mapping[PortKey, Desired]) -> Desired:
        """As the kernel is to hold those that have all their entrances; others it translates itself."""
        found: Desired = {}
        for owner, fronts in rows.items():
            places = {key: self.entrances.place(key) for key in keys(owner, fronts)}
            there = {key: place for key, place in places.items() if place is not None}
            if there and len(there) == len(places):
                found |= lowered(owner, fronts, there)
        return found

    def _retire(self, rows: Mapping[PortKey, Desired], among: Iterable[Key]) -> None:
        wanted = {key for owner, fronts in rows.items() for key in keys(owner, fronts)}
        self.entrances.retire(key for key in among if key not in wanted)
        self._forget(rows)

    def _forget(self, owners: Iterable[PortKey]) -> None:
        """Service ports that have to do with the proxy no more."""
        for owner in tuple(owners):
            fronts = self._rows.get(owner, {})
            if not keys(owner, fronts) and not any(Key(owner, reach) in self.entrances.at for reach in ORDER):
                self._rows.pop(owner, None)
                for front in fronts:
                    self._owners.pop(front, None)

    def _told(self, change: Change[Frontend, Treatment], desired: Desired) -> Change[Frontend, Treatment]:
        return change._replace(after=desired[change.key]) if change.after is not None else change

    def _is_needed(self, place: Frontend) -> bool:
        """UDP has no end that one could wait for."""
        if place.protocol != "udp":
            return False
        fronts = [front for front, owner in self._owners.items() if place in self._places(owner)]
        return (place.address, place.port) in self._table.backends(fronts)

    def _places(self, owner: PortKey) -> list[Frontend | None]:
        return [self.entrances.at.get(Key(owner, reach)) for reach in ORDER]


def keys(owner: PortKey, fronts: Desired) -> list[Key]:
    """The entrances that the frontends of a service port ask for, in the order of their scopes in the kernel."""
    reaches = {REACH.get(t.kind) for t in fronts.values() if t.kind in SERVING and is_proxied(t)}
    return [Key(owner, reach) for reach in ORDER if reach in reaches]


def lowered(owner: PortKey, fronts: Desired, places: Mapping[Key, Frontend]) -> Desired:
    """The frontends of a service port as a kernel is to lead them to its entrances."""
    order = keys(owner, fronts)
    scopes = [(Target(place.address, place.port),) for place in (places[key] for key in order)]
    targets, local = scopes[0], scopes[1] if len(scopes) > 1 else ()
    found: Desired = {}
    for front, treatment in fronts.items():
        reach = REACH.get(treatment.kind)
        if treatment.kind not in SERVING or reach is None:  # refused, or dropped: that needs nobody
            found[front] = treatment._replace(targets=(), local=(), pick=RANDOM, terms=USUAL, levels=())
            continue
        kind = Class.PROXIED if Key(owner, reach) == order[0] else Class.PROXIED_LOCAL
        found[front] = treatment._replace(kind=kind, targets=targets, local=local, pick=RANDOM, terms=USUAL, levels=())
    return found


def _by_owner(desired: Desired, also: Container[PortKey] = ()) -> dict[PortKey, Desired]:
    """The rows of those that ask for the proxy, and of others."""
    found: dict[PortKey, Desired] = {}
    for front, treatment in desired.items():
        owner = treatment.owner
        if owner is not None and (is_proxied(treatment) or owner in also):
            found.setdefault(owner, {})[front] = treatment
    return found


def _all_lowered(rows: Mapping[PortKey, Desired], places: Mapping[Key, Frontend]) -> Desired:
    found: Desired = {}
    for owner, fronts in rows.items():
        if keys(owner, fronts):
            found |= lowered(owner, fronts, places)
        else:
            found |= fronts
    return found


def _found(there: Desired, rows: Mapping[PortKey, Desired]) -> dict[Key, Frontend]:
    """Where the kernel leads frontends that ask for the proxy."""
    found: dict[Key, Frontend] = {}
    for owner, fronts in rows.items():
        for front, treatment in fronts.items():
            row, reach = there.get(front), REACH.get(treatment.kind)
            if row is not None and row.kind in PROXIED and reach is not None:
                for target in row.local if row.kind is Class.PROXIED_LOCAL and row.local else row.targets:
                    found[Key(owner, reach)] = Frontend(front.family, target.address, front.protocol, target.port)
    return found


def _present(rows: Mapping[Frontend, Treatment | None]) -> Desired:
    return {front: treatment for front, treatment in rows.items() if treatment is not None}
