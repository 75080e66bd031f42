"""Made-up clusters for the suites: N services with E endpoints each, as records or as files."""

from collections.abc import Iterator
from pathlib import Path

from svcnet.codec.writer import to_json
from svcnet.model.endpoint import EndpointPort, EndpointSlice, SliceEndpoint
from svcnet.model.meta import Meta, pairs
from svcnet.model.node import Node
from svcnet.model.record import Record
from svcnet.model.service import Service, ServicePort

MINIONS = 5
PORT, TARGET_PORT = 80, 8080


def virtual_ip(i: int) -> str:
    """Address of service i, from 10.0.0.0/14."""
    return f"10.{i >> 16 & 3}.{i >> 8 & 255}.{i & 255}"


def service(i: int) -> Service:
    """Service i (from 1)."""
    return Service(Meta(f"s{i}", "default"), (ServicePort(PORT, "http"),), cluster_ips=(virtual_ip(i),))


def address(i: int) -> str:
    """The i-th endpoint address, from 10.128.0.0/9."""
    return f"10.{128 + (i >> 16 & 127)}.{i >> 8 & 255}.{i & 255}"


def slice_of(i: int, endpoints: int, shift: int = 0) -> EndpointSlice:
    """Endpoints of service i; another `shift` gives others."""
    labels = pairs({"kubernetes.io/service-name": f"s{i}"})
    first = i * endpoints + shift
    ends = tuple(
        SliceEndpoint((address(first + j),), ready=True, node=f"m{(first + j) % MINIONS + 1}") for j in range(endpoints)
    )
    return EndpointSlice(Meta(f"s{i}-a", "default", labels), endpoints=ends, ports=(EndpointPort(TARGET_PORT, "http"),))


def one_endpoint(i: int, ip: str) -> EndpointSlice:
    """The slice of service i with one endpoint that really answers."""
    labels = pairs({"kubernetes.io/service-name": f"s{i}"})
    end = SliceEndpoint((ip,), ready=True, node="m1")
    return EndpointSlice(
        Meta(f"s{i}-a", "default", labels), endpoints=(end,), ports=(EndpointPort(TARGET_PORT, "http"),)
    )


def records(services: int, endpoints: int) -> Iterator[Record]:
    """All records: 2 N + 5."""
    for i in range(1, services + 1):
        yield service(i)
        yield slice_of(i, endpoints)
    for m in range(MINIONS):
        yield Node(Meta(f"m{m + 1}"))


def write(directory: Path, record: Record) -> None:
    """Put one record's file in place by rename, as any tool should."""
    kind, _, name = record.key
    fresh = directory / f".{kind}-{name}.new"
    fresh.write_bytes(to_json(record))
    fresh.rename(directory / f"{kind}-{name}.json")
