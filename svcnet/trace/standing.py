"""Every endpoint that a service port could have, and why those that get no connections don't. Pure.

Owns: the reasons, in words. Which endpoints are used is not decided again here: that is the tracker's answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from svcnet.endpoints import NONE_FAILS, Candidates, Failing, Networks, Site, Source, candidates_of, never_served
from svcnet.model.endpoint import Endpoints, EndpointSlice, SliceEndpoint
from svcnet.model.meta import Key, matches
from svcnet.model.node import Node
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Endpoint, ServedPort
from svcnet.nearness import Nearness
from svcnet.topology import Hint, Place


class Candidate(NamedTuple):
    """One endpoint. `port` 0: it has none of that name. `used`: new connections may go there."""

    address: str
    port: int
    node: str
    target: str
    used: bool
    why: str = ""
    """Why it is out; of one that is used, what is unusual about it."""


class Setting(NamedTuple):
    """What this minion is, as far as it decides who is used."""

    node: str
    deny: Networks
    failing: Failing = NONE_FAILS


def standing(port: ServedPort, records: Mapping[Key, Record], setting: Setting, *, local: bool) -> list[Candidate]:
    """All of them; `local`: only endpoints of this minion count. O(records)."""
    service = records[Key("Service", port.key.namespace, port.key.service)]
    assert isinstance(service, Service)
    wanted = next(p for p in service.served_ports if (p.port, p.protocol) == (port.key.port, port.key.protocol))
    zones = {r.meta.name: r.zone for r in records.values() if isinstance(r, Node)}
    place = Place(setting.node, zones.get(setting.node, ""))
    sources, pods = _sources(service, records), _pods(service, records)
    site = Site(place, zones, setting.deny)
    candidates = candidates_of(service, wanted, port.key.family, sources, pods, site)
    judge = _Judge(service, port, place, candidates, setting.failing, local=local)
    found = [judge.candidate(e) for e in candidates.endpoints]
    found += [_out(e.address, e.port, e, never_served(network)) for e, network in candidates.denied]
    known = {(c.address, c.port) for c in found}
    others = _unjoined(sources, wanted, port.key.family) if sources else _unfit(wanted, pods, port.key.family)
    addresses = {c.address for c in found}
    found += [c for c in others if (c.address, c.port) not in known and (c.port or c.address not in addresses)]
    return list(dict.fromkeys(found))


class _Judge:
    def __init__(
        self,
        service: Service,
        port: ServedPort,
        place: Place,
        candidates: Candidates,
        failing: Failing,
        *,
        local: bool,
    ) -> None:
        self.service, self.place, self.failing, self.local = service, place, failing, local
        self.hints = candidates.hints
        self.chosen = frozenset(port.local if local else port.endpoints)
        weights = {(e.address, e.port): e.weight for e in port.endpoints}
        near = Nearness(() if local else port.levels, port.policy.terms.share)
        self.near = near.weighed(weights, near.parts(weights, ())).keys()
        """All, unless nearer ones take all."""

    def candidate(self, e: Endpoint) -> Candidate:
        """Judge one."""
        used = e in self.chosen and e.weight > 0
        return Candidate(e.address, e.port, e.node, e.target, used, self._why(e))

    def _why(self, e: Endpoint) -> str:
        if e in self.chosen:
            if not e.weight:
                return "weight 0: no new connections (drain)"
            if not self.local and (e.address, e.port) not in self.near:
                return f"locality: {self._there(e)}, and enough who are nearer to {self._here()} are well"
            return "terminating, used as none is ready" if not e.ready else ""
        if (e.address, e.port) in self.failing:
            return f"its health check fails: {self.failing[e.address, e.port]}"
        if not e.ready:
            if e.terminating:
                return "terminating" + (", serves still: used once none is ready" if e.serving else "")
            return "not ready"
        if self.local and e.node != self.place.node:
            return f"policy Local: it is on {e.node or 'no minion that is known'}, not on {self.place.node}"
        if self.hints and not self.local:
            return f"hints: meant for {_meant(self.hints.get((e.address, e.port), Hint()))}, not for {self._here()}"
        if self.service.traffic_distribution and not self.local:
            there = self._there(e)
            return f"{self.service.traffic_distribution}: {there}, and there are some nearer to {self._here()}"
        return "over the limit of endpoints of a service port"

    def _there(self, e: Endpoint) -> str:
        return f"on {e.node or 'no known minion'} in zone {e.zone or 'unknown'}"

    def _here(self) -> str:
        return f"{self.place.node} in zone {self.place.zone or 'unknown'}"


def _meant(hint: Hint) -> str:
    parts = [
        f"zone {', '.join(hint.zones)}" if hint.zones else "",
        f"minion {', '.join(hint.nodes)}" if hint.nodes else "",
    ]
    return " or ".join(filter(None, parts)) or "nobody"


def _sources(service: Service, records: Mapping[Key, Record]) -> tuple[Source, ...]:
    namespace, name = service.meta.namespace, service.meta.name
    return tuple(
        record
        for key, record in sorted(records.items())
        if key.namespace == namespace
        and (
            (isinstance(record, EndpointSlice) and record.service == name)
            or (isinstance(record, Endpoints) and key.name == name)
        )
    )


def _pods(service: Service, records: Mapping[Key, Record]) -> list[Pod]:
    return [
        record
        for key, record in sorted(records.items())
        if isinstance(record, Pod)
        and key.namespace == service.meta.namespace
        and matches(service.selector, record.meta.labels)
    ]


def _unjoined(sources: Iterable[Source], port: ServicePort, family: int) -> Iterator[Candidate]:
    """Entries of slices and Endpoints that have no such port, or are of the other family."""
    name = f"no port {port.name!r} ({port.protocol})" if port.name else f"no {port.protocol} port without a name"
    for source in sources:
        for e in _entries(source):
            address = e.addresses[0] if e.addresses else ""
            if not address:
                continue
            other = (":" in address) != (family == 6)
            why = f"an IPv{4 if family == 6 else 6} address" if other else f"{source.key} has {name}"
            yield Candidate(address, 0, e.node, e.target, used=False, why=why)


def _entries(source: Source) -> Iterator[SliceEndpoint]:
    if isinstance(source, EndpointSlice):
        yield from source.endpoints
    else:
        for subset in source.subsets:
            yield from subset.endpoints


def _unfit(port: ServicePort, pods: Iterable[Pod], family: int) -> Iterator[Candidate]:
    """Pods that the selector matches and that can't be an endpoint of this port."""
    for pod in pods:
        target = f"Pod/{pod.meta.namespace}/{pod.meta.name}"
        mine = [ip for ip in pod.ips if (":" in ip) == (family == 6)]
        if not pod.ips:
            why = f"no address yet, {pod.phase or 'no status'}"
        elif not mine:
            why = f"no IPv{family} address"
        else:
            why = f"no container port named {port.target_port} ({port.protocol})"
        yield Candidate((mine or pod.ips or ("",))[0], 0, pod.spec.node, target, used=False, why=why)


def _out(address: str, port: int, e: Endpoint, why: str) -> Candidate:
    return Candidate(address, port, e.node, e.target, used=False, why=why)
