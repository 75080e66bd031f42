"""One service, pod address or namespace → its resource records. Pure.

Owns: which names it has (Kubernetes DNS specification 1.1.0, extended). Must not know zones or packets.

Owners are relative names (`tomcat.default`): the same tree hangs below every zone. PTR owners and all names in data are
whole; those of ours end with svc.CLUSTER-DOMAIN, as the specification has them, whatever zone was asked.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

import msgspec

from svcnet.dns import name
from svcnet.feed import Known
from svcnet.model.meta import pair_get
from svcnet.model.service import Service
from svcnet.model.snapshot import Endpoint, ServedPort
from svcnet.topology import Place

A, NS, CNAME, SOA, HINFO, PTR, TXT, AAAA, SRV = 1, 2, 5, 6, 13, 12, 16, 28, 33
TYPES = {"A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "TXT": TXT, "AAAA": AAAA, "SRV": SRV}
EXISTS = 0
"""No type on the wire: the record by which a service without any record exists (NODATA, not NXDOMAIN)."""
WAITS = -1
"""None either: what a service without endpoints has whose name is not there, so that it is nobody else's meanwhile."""
BARE = 65280
"""The type, of those for private use (RFC 6895 §3.1), by which secondaries learn of a name without other records."""
ZONE_TTL = -1
"""A record lives as long as the zone that is asked says: trees hang in several."""
LONGEST_OWNER = name.LONGEST_NAME - 100
"""Of a relative name: it leaves room for the zone."""
TTL_ANNOTATION = "svcnet.dev/ttl"
SRV_WEIGHT = 100
"""Of a virtual IP: there is one target, so any weight would do; CoreDNS' number."""


SPEC, EXIST, ABSENT = "spec", "exist", "absent"
"""What a service is without endpoints: as the specification says, there without addresses, or not there."""


class Serving(NamedTuple):
    """What of a service is told. `endpoints`: theirs, so headless services at all; `empty`: SPEC, EXIST or ABSENT.

    `pod_names`: endpoints without a host name are called as their pods.
    """

    endpoints: bool = True
    empty: str = SPEC
    pod_names: bool = False


USUAL = Serving()
NOWHERE = Place()
NEAREST, NEAR, FAR = range(3)
"""Ranks of addresses: of this minion, of its zone, the others."""


class RR(msgspec.Struct, frozen=True, order=True, gc=False):
    """One resource record of class IN; `ttl` in seconds or ZONE_TTL, `data` as on the wire.

    Those of a lower `rank` come first in an answer. A struct, as a tuple takes 1.4 times the room and 4 times the time.
    """

    owner: bytes
    type: int
    ttl: int
    data: bytes
    rank: int = NEAREST


def records_of(
    service: Service, ports: Iterable[ServedPort], home: bytes, place: Place = NOWHERE, serving: Serving = USUAL
) -> frozenset[RR]:
    """Return all records of one service, none of one that isn't there.

    `home`: the whole name that targets end with (svc.cluster.local); `place`: whose endpoints are near.
    """
    ports = tuple(ports)
    try:
        owner = name.label(service.meta.name) + name.label(service.meta.namespace)
        if service.type != "ExternalName" and not _is_there(service, ports, serving):
            return frozenset({RR(owner, WAITS, 0, b"")})
        if service.type == "ExternalName":
            return frozenset({RR(owner, CNAME, ttl_of(service), name.absolute(service.external_name))})
    except ValueError:
        return frozenset()
    if not serving.endpoints:
        ports = tuple(msgspec.structs.replace(port, endpoints=()) for port in ports)
    elif serving.pod_names:
        ports = tuple(msgspec.structs.replace(p, endpoints=tuple(map(_named, p.endpoints))) for p in ports)
    one = _headless(service, owner, ports, home, place) if service.headless else _virtual(service, owner, ports, home)
    reverse = _reverse(service, owner, ports, home)
    here = RR(owner, EXISTS, 0, b"")
    return frozenset([
        rr for rr in (here, *one, *reverse) if len(rr.owner) <= LONGEST_OWNER and len(rr.data) <= name.LONGEST_NAME
    ])  # fmt: skip


def _is_there(service: Service, ports: tuple[ServedPort, ...], serving: Serving) -> bool:
    """Whether the service has a name. A headless one without endpoints has none (specification 1.1.0, 2.4.1)."""
    if service.headless and not serving.endpoints:
        return False
    never = serving.empty == ABSENT or (serving.empty == SPEC and service.headless)
    return not never or any(port.endpoints for port in ports)


def known_records(known: Known) -> frozenset[RR]:
    """Return the records of one key of the census: a pod's address by itself, or that a namespace exists."""
    try:
        if known.kind == "Namespace":
            return frozenset({RR(name.label(known.name), EXISTS, 0, b"")})
        owner = dashed(known.name) + name.label(known.namespace)
    except ValueError:
        return frozenset()
    return frozenset({address_record(owner, ZONE_TTL, known.name)})


def dashed(address: str) -> bytes:
    """Return the label that stands for an address: 10-1-0-5, fd00--5."""
    return name.label(address.replace(".", "-").replace(":", "-"))


def undashed(part: bytes) -> str | None:
    """Return the address that a label (without its length) stands for, as text; None: it stands for none."""
    if not part.strip(b"0123456789abcdef-"):
        for mark in ".:":
            with suppress(ValueError):
                return str(ip_address(part.decode().replace("-", mark)))
    return None


def ttl_of(service: Service) -> int:
    """Return the service's TTL in seconds: its annotation, 0..3600, else the zone's."""
    given = pair_get(service.meta.annotations, TTL_ANNOTATION)
    return int(given) if given.isascii() and given.isdigit() and int(given) <= 3600 else ZONE_TTL


def reverse_owner(address: str) -> bytes:
    """Return the name below in-addr.arpa or ip6.arpa that stands for an address."""
    if ":" in address:
        return b"".join(map(_NIBBLES.__getitem__, reversed(inet_pton(AF_INET6, address)))) + _IP6_ARPA
    return b"".join(map(_OCTETS.__getitem__, reversed(inet_pton(AF_INET, address)))) + _IN_ADDR_ARPA


def address_record(owner: bytes, ttl: int, address: str, rank: int = NEAREST) -> RR:
    """Return the A or AAAA record."""
    if ":" in address:
        return RR(owner, AAAA, ttl, inet_pton(AF_INET6, address), rank)
    return RR(owner, A, ttl, inet_pton(AF_INET, address), rank)


def _named(endpoint: Endpoint) -> Endpoint:
    """An endpoint with its pod's name, if that is one label, as its host name, unless it has one of its own."""
    kind, _, pod = endpoint.target.partition("/")
    name_of_pod = pod.rpartition("/")[2]
    if endpoint.hostname or kind != "Pod" or "." in name_of_pod:
        return endpoint
    return endpoint._replace(hostname=name_of_pod)


def endpoint_label(endpoint: Endpoint) -> bytes:
    """Return an endpoint's own label: its host name, else its address with dashes."""
    if endpoint.hostname:
        try:
            return name.label(endpoint.hostname)
        except ValueError:
            pass  # a name that can't be: the address serves
    return dashed(endpoint.address)


def _virtual(service: Service, owner: bytes, ports: tuple[ServedPort, ...], home: bytes) -> Iterator[RR]:
    ttl = ttl_of(service)
    for address in _addresses(service, ports):
        yield address_record(owner, ttl, address)
    for port in ports:
        if port.virtual_ip:
            yield from _srv(owner, port, ttl, SRV_WEIGHT, port.key.port, owner + home)
    yield from _endpoint_addresses(owner, ports, ttl)


def _addresses(service: Service, ports: tuple[ServedPort, ...]) -> list[str]:
    """The virtual IPs that are this service's: one that another holds on every port is not."""
    if not service.ports:
        return list(service.cluster_ips)
    return sorted({port.virtual_ip for port in ports if port.virtual_ip})


def _headless(service: Service, owner: bytes, ports: tuple[ServedPort, ...], home: bytes, place: Place) -> Iterator[RR]:
    ttl = ttl_of(service)
    ranks: dict[str, int] = {}
    for endpoint in (e for port in ports for e in _used(port.endpoints)):
        ranks[endpoint.address] = min(_rank(endpoint, place), ranks.get(endpoint.address, FAR))
    for address, rank in ranks.items():
        yield address_record(owner, ttl, address, rank)
    for port in ports:
        for e in (e for e in _used(port.endpoints) if e.port):  # what lacks the port has an address alone
            target = endpoint_label(e) + owner + home
            yield from _srv(owner, port, ttl, e.weight, e.port, target, ranks[e.address])
    yield from _endpoint_addresses(owner, ports, ttl)


def _rank(endpoint: Endpoint, place: Place) -> int:
    if endpoint.node and endpoint.node == place.node:
        return NEAREST
    return NEAR if endpoint.zone and endpoint.zone == place.zone else FAR


def _used(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Those that a new connection may go to: weight 0 gets none, unless there is nothing else."""
    return tuple(e for e in endpoints if e.weight) or endpoints


def _endpoint_addresses(owner: bytes, ports: tuple[ServedPort, ...], ttl: int) -> Iterator[RR]:
    for endpoint in (e for port in ports for e in port.endpoints):
        yield address_record(endpoint_label(endpoint) + owner, ttl, endpoint.address)


def _srv(
    owner: bytes, port: ServedPort, ttl: int, weight: int, number: int, target: bytes, rank: int = NEAREST
) -> Iterator[RR]:
    """The port by its name and, as CoreDNS has it, all ports under the service's own name."""
    data = b"\0\0" + weight.to_bytes(2) + number.to_bytes(2) + target
    yield RR(owner, SRV, ttl, data, rank)
    if port.name:
        yield RR(_prefix(port.name, port.key.protocol) + owner, SRV, ttl, data, rank)


@lru_cache(1024)
def _prefix(port: str, protocol: str) -> bytes:
    return name.label("_" + port) + name.label("_" + protocol)


def _reverse(service: Service, owner: bytes, ports: tuple[ServedPort, ...], home: bytes) -> Iterator[RR]:
    ttl = ttl_of(service)
    if not service.headless:
        for address in _addresses(service, ports):
            yield RR(reverse_owner(address), PTR, ttl, owner + home)
    for endpoint in (e for port in ports for e in port.endpoints):
        yield RR(reverse_owner(endpoint.address), PTR, ttl, endpoint_label(endpoint) + owner + home)


_IN_ADDR_ARPA, _IP6_ARPA = name.absolute("in-addr.arpa"), name.absolute("ip6.arpa")
_OCTETS = tuple(name.label(str(n)) for n in range(256))
_NIBBLES = tuple(name.label(f"{n & 15:x}") + name.label(f"{n >> 4:x}") for n in range(256))
