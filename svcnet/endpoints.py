"""Which endpoints a service port has: from slices, Endpoints records or pods to what traffic may go to. Pure.

Owns: the join of service ports and endpoint ports, weights, duplicates, forbidden addresses. Which of them this minion
uses is `topology`'s business, who belongs to a service the tracker's: this knows one service at a time.
"""

import socket
from collections.abc import Container, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import NamedTuple

from svcnet.health import is_panic, probes_of
from svcnet.model.check import Probe
from svcnet.model.endpoint import Endpoints, EndpointSlice, SliceEndpoint
from svcnet.model.level import Levels
from svcnet.model.meta import Pairs, pair_get
from svcnet.model.pod import Pod
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import Endpoint, LeftOut
from svcnet.model.terms import Locality
from svcnet.nearness import levels_of
from svcnet.terms import terms_of
from svcnet.topology import Hint, Place, everywhere, here

MOST_ENDPOINTS = 0x8000
"""Slots of one scope (docs/adr/0001): the rest of a service's endpoints is left out, with the reason."""
MOST_WITH_AFFINITY = 0xFFF
"""The same with session affinity (docs/adr/0012)."""

LOCALITY = "svcnet.dev/locality"

Network = IPv4Network | IPv6Network
Source = EndpointSlice | Endpoints
Failing = Mapping[tuple[str, int], str]
"""(address, port) of endpoints that fail their health checks → why."""
NONE_FAILS: Failing = MappingProxyType({})
FailingElsewhere = Mapping[tuple[str, int, str], str]
"""(address, port, minion): the same of others' checks, each of its own endpoints."""
NONE_FAILS_ELSEWHERE: FailingElsewhere = MappingProxyType({})


class Networks:
    """A set of networks with a fast membership test for address text."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._masks: dict[int, tuple[tuple[int, int, Network], ...]] = {4: (), 6: ()}
        self._first_bytes: set[str] = set()
        """What an IPv4 address that may be in one begins with: most addresses are told apart by it alone."""
        for n in networks:
            self._masks[n.version] += ((int(n.netmask), int(n.network_address), n),)
            if n.version == 4:
                first = int(n.network_address) >> 24
                self._first_bytes |= {str(byte) for byte in range(first, (int(n.broadcast_address) >> 24) + 1)}

    @property
    def everything(self) -> bool:
        """Whether every address is in one of them."""
        return all(any(not mask for mask, _, _ in masks) for masks in self._masks.values())

    def holding(self, address: str) -> Network | None:
        """The network that an address is in, if any."""
        if ":" not in address:
            if address.partition(".")[0] not in self._first_bytes:
                return None
            family, value = 4, int.from_bytes(socket.inet_pton(socket.AF_INET, address))
        elif not self._masks[6]:
            return None
        else:
            family, value = 6, int.from_bytes(socket.inet_pton(socket.AF_INET6, address))
        for mask, network, which in self._masks[family]:
            if value & mask == network:
                return which
        return None


class Site(NamedTuple):
    """What this minion knows besides the service: where it is, the zones of all minions, what is never served."""

    place: Place
    zones: Mapping[str, str]
    deny: Networks


class Found(NamedTuple):
    """The endpoints of one port, sorted: for everybody, and those of this minion; and what was left out.

    `lingering`: those that are neither, and serve. `probes`: checks that this minion makes. `levels`: where the service
    asks for that, who is near.
    """

    endpoints: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    left_out: tuple[LeftOut, ...]
    lingering: tuple[Endpoint, ...] = ()
    probes: tuple[Probe, ...] = ()
    levels: Levels = ()


class Candidates(NamedTuple):
    """Every endpoint that the records have for a port, sorted, each address and port once; and what can't be one."""

    endpoints: list[Endpoint]
    hints: dict[tuple[str, int], Hint]
    denied: list[tuple[Endpoint, Network]]
    left_out: list[LeftOut]


def candidates_of(
    service: Service, port: ServicePort, family: int, sources: Iterable[Source], pods: Iterable[Pod], site: Site
) -> Candidates:
    """Join one port in one family: `sources` if there are any, else the pods that the selector matches."""
    sources = tuple(sources)
    left_out: list[LeftOut] = []
    hints: dict[tuple[str, int], Hint] = {}
    if sources:
        joined = _from_sources(port, family, sources, hints, left_out, service.headless)
    else:
        joined = list(_from_pods(service, port, family, pods, site.zones, left_out))
    allowed: list[Endpoint] = []
    denied: list[tuple[Endpoint, Network]] = []
    for e in joined:
        forbidden = site.deny.holding(e.address)
        if forbidden is None:
            allowed.append(e)
            continue
        denied.append((e, forbidden))
        left_out.append(LeftOut(f"endpoint {e.address}:{e.port} of {service.key}", never_served(forbidden)))
    return Candidates(sorted(_distinct(allowed)), hints, denied, left_out)


def never_served(forbidden: Network) -> str:
    """Why an address is left out."""
    return f"address in {forbidden}, which is never served (--endpoint-deny)"


def endpoints_of(
    service: Service,
    port: ServicePort,
    family: int,
    sources: Iterable[Source],
    pods: Iterable[Pod],
    site: Site,
    failing: Failing = NONE_FAILS,
    elsewhere: FailingElsewhere = NONE_FAILS_ELSEWHERE,
) -> Found:
    """Work out one port in one family; arguments as of `candidates_of`, and who fails health checks."""
    sources = tuple(sources)
    whole, hints, _, left_out = candidates_of(service, port, family, sources, pods, site)
    probes = probes_of(service, port.protocol, whole, pods, site.place.node)
    all_of_them = whole
    if failing or elsewhere:
        whole = _passing(service, whole, _out(service, whole, failing, probes, elsewhere), left_out)
    levels: Levels = ()
    if service.headless:
        # A set of names (DNS specification 1.1.0 §2.4): of all that are ready, wherever they are, and no others.
        published = service.publish_not_ready_addresses and bool(sources)
        chosen = [e for e in whole if e.ready or published]
    elif (locality := locality_of(service)) is not None:
        chosen = everywhere(whole, site.place, {}, "")
        levels = _levels(chosen, all_of_them, whole, site.place, locality)
    else:
        chosen = everywhere(whole, site.place, hints, service.traffic_distribution)
    local = (
        here(whole, site.place) if "Local" in {service.internal_traffic_policy, service.external_traffic_policy} else []
    )
    most = MOST_ENDPOINTS if service.session_affinity == "None" else MOST_WITH_AFFINITY
    if len(chosen) > most:
        what = f"{len(chosen) - most} endpoints of {service.key} {port.protocol.lower()}/{port.port}"
        left_out.append(LeftOut(what, f"a service port has at most {most} endpoints"))
    lingering: tuple[Endpoint, ...] = ()
    if len(chosen) < len(whole) and port.protocol == "UDP":  # the connections of other protocols are left alone anyway
        used = {*chosen, *local}
        lingering = tuple(e for e in whole if e.serving and e not in used)
    asked = tuple(sorted(probes.values()))
    return Found(tuple(chosen[:most]), tuple(local[:most]), tuple(dict.fromkeys(left_out)), lingering, asked, levels)


def locality_of(service: Service) -> Locality | None:
    """What a service asks for with `locality`, which comes before hints and trafficDistribution."""
    annotations = service.meta.annotations
    return terms_of(annotations).locality if annotations and pair_get(annotations, LOCALITY) else None


def _levels(
    chosen: list[Endpoint], before: list[Endpoint], after: list[Endpoint], place: Place, locality: Locality
) -> Levels:
    """Who is how near. `before` and `after` what health checks say of them."""
    lost = (e for e, now in zip(before, after, strict=True) if e.ready and not now.ready)
    return levels_of(chosen, lost, place, locality.first)


def _out(
    service: Service,
    whole: list[Endpoint],
    failing: Failing,
    probes: Container[tuple[str, int]],
    elsewhere: FailingElsewhere,
) -> Failing:
    """Who is out: by our checks, if they are still ours to make; by a minion's checks of its own endpoints."""
    out = {where: why for where, why in failing.items() if where in probes}
    if elsewhere and not service.publish_not_ready_addresses:
        for e in whole:
            why = elsewhere.get((e.address, e.port, e.node))
            if why is not None:
                out[e.address, e.port] = f"{why}, says {e.node}"
    return out


def _passing(service: Service, whole: list[Endpoint], failing: Failing, left_out: list[LeftOut]) -> list[Endpoint]:
    """Those that fail count as not ready, which readiness of the records may not undo; in a panic all stay."""
    ready = [e for e in whole if e.ready]
    passing = sum((e.address, e.port) not in failing for e in ready)
    panic = is_panic(service, passing, len(ready))
    but = f"; it is used, as {passing} of {len(ready)} pass (panic)" if panic else ""
    for (address, number), why in sorted(failing.items()):
        reason = f"its health check fails: {why}{but}"
        left_out.append(LeftOut(f"endpoint {address}:{number} of {service.key}", reason))
    if panic:
        return whole
    return [e._replace(ready=False, serving=False) if (e.address, e.port) in failing else e for e in whole]


def _distinct(endpoints: list[Endpoint]) -> Iterable[Endpoint]:
    """One an address and port, a ready one if there is any."""
    if len({e.address for e in endpoints}) == len(endpoints):
        return endpoints
    found: dict[tuple[str, int], Endpoint] = {}
    for e in endpoints:
        known = found.get((e.address, e.port))
        if known is None or (e.ready and not known.ready):
            found[e.address, e.port] = e
    return found.values()


def _from_sources(
    port: ServicePort,
    family: int,
    sources: Iterable[Source],
    hints: dict[tuple[str, int], Hint],
    left_out: list[LeftOut],
    bare: bool,
) -> list[Endpoint]:
    """The entries of a family that serve a port; what they say of whom they are meant for goes to `hints`.

    The innermost loop of a daemon's start: everything in it is done for every endpoint of the cluster.
    """
    found: list[Endpoint] = []
    new = tuple.__new__  # what Endpoint() does, without a Python function in between
    for source in sources:
        weights = _weights(source.meta.annotations)
        for entries, number in _joined(port, family, source, left_out, bare):
            for e in entries:
                if not e.addresses:
                    left_out.append(LeftOut(f"an endpoint of {source.key}", "it has no address"))
                    continue
                address = e.addresses[0]
                if (":" in address) is not (family == 6):
                    continue
                ready = e.ready is not False
                serving = ready if e.serving is None else e.serving
                weight = weights.get(address, 1) if weights else 1
                end = e.terminating is True
                values = (address, number, e.node, e.zone, ready, serving, end, weight, e.hostname, e.target)
                found.append(new(Endpoint, values))
                if e.for_nodes or e.for_zones:
                    hints[address, number] = Hint(e.for_nodes, e.for_zones)
    return found


def _joined(
    port: ServicePort, family: int, source: Source, left_out: list[LeftOut], bare: bool
) -> Iterator[tuple[tuple[SliceEndpoint, ...], int]]:
    """The entries of a record that have this port, by name and protocol, and its number there.

    `bare`: the others too, with number 0: a headless service has their names without it.
    """
    if isinstance(source, EndpointSlice):
        parts = [(source.endpoints, source.ports)] if source.address_type == f"IPv{family}" else []
    else:
        parts = [(s.endpoints, s.ports) for s in source.subsets]
    for entries, ports in parts:
        if not port.port:  # a headless service without ports: whatever the record says of them
            yield entries, 0
            continue
        numbers = [p.port for p in ports if p.name == port.name and p.protocol == port.protocol]
        if bare and not any(numbers):
            yield entries, 0
        for number in numbers:
            if number:
                yield entries, number
            else:
                what = f"{port.protocol.lower()} port {port.name!r} of {source.key}"
                left_out.append(LeftOut(what, "it has no number"))


def has_hints(source: Source) -> bool:
    """Whether an entry of a slice says whom it is meant for."""
    return isinstance(source, EndpointSlice) and any(e.for_zones or e.for_nodes for e in source.endpoints)


def _from_pods(
    service: Service,
    port: ServicePort,
    family: int,
    pods: Iterable[Pod],
    zones: Mapping[str, str],
    left_out: list[LeftOut],
) -> Iterator[Endpoint]:
    for pod in pods:
        address = next((ip for ip in pod.ips if (":" in ip) == (family == 6)), None)
        if address is None:
            continue
        number = _target_port(port, pod)
        if number is None and service.headless:
            number = 0
        if number is None and pod.phase in {"Succeeded", "Failed"}:
            continue
        if number is None:
            reason = f"it has no container port named {port.target_port} ({port.protocol})"
            left_out.append(LeftOut(f"{pod.key} of {service.key}", reason))
            continue
        running = not pod.deletion and pod.phase in {"", "Running"}
        ready = pod.is_ready or (service.publish_not_ready_addresses and running)
        serving = ready or (bool(pod.deletion) and pod.ready is True and pod.phase in {"", "Running"})
        weight = pair_get(pod.meta.annotations, "svcnet.dev/weight", "1")
        target = f"Pod/{pod.meta.namespace}/{pod.meta.name}"
        hostname = pod.spec.hostname if pod.spec.subdomain == service.meta.name else ""
        zone = zones.get(pod.spec.node, "")
        yield Endpoint(
            address, number, pod.spec.node, zone, ready, serving, bool(pod.deletion), int(weight), hostname, target
        )


def _target_port(port: ServicePort, pod: Pod) -> int | None:
    """The container's port: a number as it is, 0 for the service's own, a name by the pod's containers."""
    if not isinstance(port.target_port, str):
        return port.target_port or port.port
    for container in pod.spec.containers:
        for p in container.ports:
            if p.name == port.target_port and p.protocol == port.protocol:
                return p.container_port
    return None


def _weights(annotations: Pairs) -> dict[str, int]:
    """svcnet.dev/weights: `10.1.0.5=3,10.1.0.6=0` (checked by the codec)."""
    text = pair_get(annotations, "svcnet.dev/weights")
    return {a.strip(): int(w) for a, _, w in (part.rpartition("=") for part in text.split(",")) if a} if text else {}
