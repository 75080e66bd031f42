"""What the workers of the userspace proxy counted, beside traffic, as metrics.

Owns: their names and labels (docs/contract.md lists them). Must not know where anything is counted.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, Protocol

from svcnet.proxy.counts import (
    AT_LIMIT,
    BAD_HEADERS,
    CARRIED,
    CELLS,
    CLIENT_RESETS,
    CONNECTIONS,
    DIAL_BOUNDS,
    DIAL_MICROSECONDS,
    DRAINED,
    EJECTED_NOW,
    EJECTIONS,
    GIVEN_UP,
    IDLE,
    LIFE_BOUNDS,
    LIFE_MILLISECONDS,
    LIMITED_NOW,
    LOG_LOST,
    NO_ROOM,
    NOW,
    QUEUE_TIMEOUTS,
    QUEUED_NOW,
    REDISPATCHES,
    REFUSED,
    RETRIES,
    SERVER_RESETS,
    TIMED_OUT,
    UNREACHABLE,
    part_of,
)
from svcnet.traffic import OTHER, ServiceId, Total, Traffic

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SERVICE, ENDPOINT, REASON = ServiceId._fields, "endpoint", "reason"
Row = tuple[tuple[str, ...], Total]
_NOTHING = (0,) * CELLS


class Family(NamedTuple):
    """A counter with a series for each reason."""

    name: str
    text: str
    reasons: dict[str, int]
    """Label → cell; "" is a counter without that label."""
    by_endpoint: bool = True


FAMILIES = (
    Family(
        "dial_failures",
        "Dials of endpoints that failed.",
        {"refused": REFUSED, "timeout": TIMED_OUT, "unreachable": UNREACHABLE},
    ),
    Family("dial_retries", "Dials of the same endpoint after one that failed.", {"": RETRIES}),
    Family("dial_redispatches", "Dials of this one after another one failed.", {"": REDISPATCHES}),
    Family("ejections", "How often dials failed so often that no more were made for a while.", {"": EJECTIONS}),
    Family(
        "aborts",
        "Connections that did not end in order.",
        {"client reset": CLIENT_RESETS, "server reset": SERVER_RESETS, "idle": IDLE, "drained": DRAINED},
    ),
    Family(
        "rejections",
        "Clients that were led to no endpoint.",
        {
            "no endpoint answered": GIVEN_UP,
            "no room": NO_ROOM,
            "queue timeout": QUEUE_TIMEOUTS,
            "bad PROXY header": BAD_HEADERS,
        },
        by_endpoint=False,
    ),
    Family(
        "connection_limit_reached",
        "How often a worker stopped to accept, as it had as many connections as it may.",
        {"": AT_LIMIT},
        by_endpoint=False,
    ),
    Family("proxy_log_lost", "Lines of the connection log that were lost.", {"": LOG_LOST}, by_endpoint=False),
)
Histograms = tuple[tuple[str, str, Sequence[float], int, int, float], ...]
HISTOGRAMS: Histograms = (
    ("dial_duration_seconds", "Dials that were answered.", DIAL_BOUNDS, 1, DIAL_MICROSECONDS, 1e-6),
    ("connection_duration_seconds", "Connections that ended.", LIFE_BOUNDS, 2, LIFE_MILLISECONDS, 1e-3),
)
"""Name, text, bounds, which part of Total.proxied has the buckets, the cell with the sum, its unit in seconds. Of
services alone: with thousands of endpoints they would be most of all series."""


class Limits(Protocol):
    """The userspace proxy as a whole (svcnet.proxy.userspace)."""

    @property
    def listeners(self) -> int:
        """Frontends that it listens for."""
        ...

    @property
    def most_frontends(self) -> int:
        """How many those can be."""
        ...

    @property
    def most_connections(self) -> int:
        """How many all workers can have."""
        ...

    @property
    def worker_starts(self) -> int:
        """Worker processes that began to serve."""
        ...

    @property
    def faults(self) -> int:
        """Exceptions in them that nobody expected."""
        ...


def limit_metrics(proxy: Limits) -> "Iterator[Metric]":
    """Yield what the proxy has and can have."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - see metrics.py

    for name, text, value in (
        ("listeners", "Ports that the userspace proxy listens at.", proxy.listeners),
        ("most_listeners", "How many those can be.", proxy.most_frontends),
        ("most_connections", "How many connections all workers can have.", proxy.most_connections),
    ):
        yield GaugeMetricFamily(f"svcnet_proxy_{name}", text, value)
    yield CounterMetricFamily(
        "svcnet_proxy_worker_starts", "Worker processes that began to serve.", proxy.worker_starts
    )
    yield CounterMetricFamily("svcnet_proxy_faults", "Exceptions in workers that nobody expected.", proxy.faults)


def proxy_metrics(traffic: Traffic) -> "Iterator[Metric]":
    """Yield every metric of this moment; none where no proxy counts. Of what the kernel carries there are none."""
    every = traffic.is_proxied
    services: list[Row] = [(tuple(mine), total) for mine, total in traffic.services() if every or total.proxied]
    endpoints: list[Row] = [((*mine, at), total) for mine, at, total in traffic.endpoints() if every or total.proxied]
    if not every and not services:
        return
    for name, labels, rows in (("service", SERVICE, services), ("endpoint", (*SERVICE, ENDPOINT), endpoints)):
        yield _gauge(f"{name}_open_connections", f"Connections of this {name} now.", labels, rows, open_now)
        for family in FAMILIES:
            if name == "service" or family.by_endpoint:
                yield _counter(f"{name}_{family.name}", family, labels, rows)
    of = (*SERVICE, ENDPOINT)
    yield _gauge("service_queued_connections", "Clients that wait for an endpoint now.", SERVICE, services, queued_now)
    yield _gauge("service_connections_limited", "Whether a worker accepts none now.", SERVICE, services, is_limited)
    yield _gauge("endpoint_ejected", "Whether a worker makes no dials of it now.", of, endpoints, is_ejected)
    yield from _histograms(services)


def is_ejected(total: Total) -> bool:
    """Whether any worker leaves an endpoint alone now."""
    return _now(total, EJECTED_NOW) > 0


def is_limited(total: Total) -> bool:
    """Whether any worker has as many connections of a service as it may."""
    return _now(total, LIMITED_NOW) > 0


def queued_now(total: Total) -> int:
    """How many clients wait for an endpoint with room."""
    return _now(total, QUEUED_NOW)


def _now(total: Total, part: tuple[int, int]) -> int:
    return part_of(total.proxied[0][NOW], part) if total.proxied else 0


def ejected_now(traffic: Traffic | None) -> Iterator[str]:
    """Yield the endpoints that some worker leaves alone now, as ADDRESS:PORT of NAMESPACE/SERVICE:PORT/PROTOCOL."""
    for of, where, total in traffic.endpoints() if traffic is not None else ():
        if of is not OTHER and is_ejected(total):
            yield f"{where} of {of.namespace}/{of.service}:{of.port}/{of.protocol}"


def open_now(total: Total) -> int:
    """How many connections (of UDP: flows) there are."""
    if not total.proxied:
        return 0
    cells, _, lives = total.proxied
    return max(0, cells[CONNECTIONS] + cells[CARRIED] - sum(lives))


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: list[Row], take: Callable[[Total], int]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - see metrics.py

    family = GaugeMetricFamily(f"svcnet_{name}", text, labels=labels)
    for values, total in rows:
        family.add_metric(values, take(total))
    return family


def _counter(name: str, one: Family, labels: tuple[str, ...], rows: list[Row]) -> "Metric":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - see metrics.py

    labelled = "" not in one.reasons
    family = CounterMetricFamily(f"svcnet_{name}", one.text, labels=(*labels, REASON) if labelled else labels)
    for values, total in rows:
        cells = total.proxied[0] if total.proxied else _NOTHING
        for reason, cell in one.reasons.items():
            family.add_metric((*values, reason) if labelled else values, cells[cell])
    return family


def _histograms(rows: list[Row]) -> "Iterator[Metric]":
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 - see metrics.py

    for name, text, bounds, part, cell, unit in HISTOGRAMS:
        family = HistogramMetricFamily(f"svcnet_service_{name}", text, labels=SERVICE)
        for values, total in rows:
            if total.proxied:
                counts = map(float, accumulate(total.proxied[part]))
                buckets = list(zip([*map(repr, bounds), "+Inf"], counts, strict=True))
                family.add_metric(values, buckets, total.proxied[0][cell] * unit)
        yield family
