"""The records of the flow tests, and what the minion under test makes of them.

Owns: reading records/, the IPv6 twins, the operator's settings that rows name. Must not know how rules are run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from msgspec.structs import replace

from svcnet.cli.data_path import parameters
from svcnet.codec.reader import read
from svcnet.config import Config, load
from svcnet.endpoints import Networks
from svcnet.iptables.desired import Desired, Minion, desired
from svcnet.iptables.ruleset import Parameters
from svcnet.model.endpoint import Endpoints, EndpointSlice, SliceEndpoint
from svcnet.model.event import Put
from svcnet.model.meta import Key, Meta, Pairs
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.model.snapshot import Snapshot
from svcnet.tracker import Tracker
from tests.flows.places import CLUSTER_CIDRS, CROWD, EXTERNAL_CIDRS, NODE, PLACES, SERVICE_CIDRS, twin

RECORDS = Path(__file__).parent / "records"
WEIGHTS = "svcnet.dev/weights"
SIZES = {"twenty": (20, "10.0.0.101"), "seventy": (70, "10.0.0.102")}
"""Services of many endpoints → (number, virtual IP)."""


def _no_file(path: Path) -> bytes:
    raise FileNotFoundError(path)


@dataclass(frozen=True)
class World:
    """One setting of the operator's: options as they stand on the command line."""

    name: str
    options: Mapping[str, str | bool]

    @property
    def config(self) -> Config:
        """All options."""
        cidrs = ",".join(SERVICE_CIDRS.values())
        external = ",".join(EXTERNAL_CIDRS.values())
        return load({"service-cidr": cidrs, "external-ips": external, **self.options}, {}, NODE, _no_file)

    @property
    def parameters(self) -> tuple[Parameters, ...]:
        """What the rules of both families are made with."""
        return parameters(self.config)


_PODS = ",".join(CLUSTER_CIDRS.values())
WORLDS = {
    world.name: world
    for world in (
        World("cluster-cidr", {"cluster-cidr": _PODS}),
        World("no-cluster-cidr", {}),
        World("masquerade-all", {"cluster-cidr": _PODS, "masquerade-all": True}),
    )
}


@cache
def snapshot() -> Snapshot:
    """What the tracker makes of all records."""
    config = WORLDS["cluster-cidr"].config
    tracker = Tracker(Networks(config.endpoint_deny), NODE, Networks(config.external_ips))
    tracker.fold(Put(record, rev) for rev, record in enumerate(_records(), 1))
    return tracker.snapshot


@cache
def wanted() -> Desired:
    """What the kernel of the minion under test should do."""
    rows: Desired = {}
    for port in snapshot().ports.values():
        rows |= desired(port, Minion(NODE, tuple(places["minion"] for places in PLACES.values())))
    return rows


def address_of(name: str, family: int) -> str:
    """The address of a host, or the virtual IP of [NAMESPACE/]SERVICE."""
    if name in PLACES[family]:
        return PLACES[family][name]
    namespace, _, service = name.rpartition("/")
    record = snapshot().services[Key("Service", namespace or "default", service)]
    return next(ip for ip in record.cluster_ips if (":" in ip) == (family == 6))


def _records() -> Iterable[Record]:
    for path in sorted(RECORDS.iterdir()):
        decoded = read(path.read_bytes(), path.name)
        assert not decoded.errors, decoded.errors
        yield from chain.from_iterable(_both_families(located.record) for located in decoded.records)
    for name, (number, virtual_ip) in SIZES.items():
        for record in _crowd(name, number, virtual_ip):
            yield from _both_families(record)


def _crowd(name: str, number: int, virtual_ip: str) -> Iterable[Record]:
    """A service of many pods, all on the other minion."""
    endpoints = "".join(f"- {{addresses: [10.244.2.{last}], nodeName: m2}}\n" for last in CROWD[:number])
    text = (
        f"{{kind: Service, apiVersion: v1, metadata: {{name: {name}}},\n"
        f" spec: {{clusterIP: {virtual_ip}, ports: [{{port: 80}}]}}}}\n"
        "---\nkind: EndpointSlice\napiVersion: discovery.k8s.io/v1\n"
        f"metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"addressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n{endpoints}"
    )
    # YAML is told from JSON by its first character, which may not be a brace.
    decoded = read(f"---\n{text}".encode(), name)
    assert not decoded.errors, decoded.errors
    return (located.record for located in decoded.records)


def _both_families(record: Record) -> Iterable[Record]:
    """A record that is written for IPv4 as a person would, for both families; SingleStack ones as they are."""
    match record:
        case Service() if record.cluster_ips and not record.headless and record.ip_family_policy != "SingleStack":
            yield replace(
                record,
                cluster_ips=(record.cluster_ips[0], twin(record.cluster_ips[0])),
                external_ips=_both(record.external_ips),
                ingress=tuple(replace(i, ip=ip) for i in record.ingress for ip in _both((i.ip,))),
                load_balancer_source_ranges=_both_ranges(record.load_balancer_source_ranges),
            )
        case EndpointSlice() if record.address_type == "IPv4":
            yield record
            meta = replace(record.meta, name=f"{record.meta.name}-six")
            twins = tuple(_twin(e) for e in record.endpoints)
            yield replace(record, meta=_twin_weights(meta), address_type="IPv6", endpoints=twins)
        case Endpoints():
            subsets = tuple(
                replace(s, endpoints=(*s.endpoints, *(_twin(e) for e in s.endpoints))) for s in record.subsets
            )
            yield replace(record, subsets=subsets)
        case Pod() if record.ips:
            yield replace(record, ips=(record.ips[0], twin(record.ips[0])))
        case _:
            yield record


def _both(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return (*addresses, *(twin(a) for a in addresses if a))


def _both_ranges(ranges: tuple[str, ...]) -> tuple[str, ...]:
    """The /24 of an address, and its twin's /112; all of IPv4, and of IPv6."""
    parts = (text.strip().partition("/") for text in ranges)
    return (*ranges, *("::/0" if length == "0" else f"{twin(address)}/112" for address, _, length in parts))


def _twin(endpoint: SliceEndpoint) -> SliceEndpoint:
    return replace(endpoint, addresses=tuple(twin(a) for a in endpoint.addresses))


def _twin_weights(meta: Meta) -> Meta:
    def both(key: str, value: str) -> str:
        if key != WEIGHTS:
            return value
        parts = (part.partition("=") for part in value.split(","))
        return ",".join(f"{twin(address)}={weight}" for address, _, weight in parts)

    annotations: Pairs = tuple((key, both(key, value)) for key, value in meta.annotations)
    return replace(meta, annotations=annotations)
