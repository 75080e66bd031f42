"""The accounts of traffic as metrics.

Owns: their names and labels (docs/contract.md lists them). Must not know where flows are seen.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from svcnet.traffic import ServiceId, Total, Traffic

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, Metric

SERVICE, DIRECTION, ENDPOINT = ServiceId._fields, "direction", "endpoint"
WAYS: tuple[tuple[str, Callable[[Total], int]], ...] = (("in", lambda t: t.bytes_in), ("out", lambda t: t.bytes_out))


def traffic_metrics(traffic: Traffic) -> "Iterator[Metric]":
    """Yield every metric of this moment; none of bytes where they are not known, as 0 would be a lie."""
    yield _counter("traffic_events_lost", "Messages about flows that never came.", (), [((), traffic.lost)])
    services = [(tuple(mine), total) for mine, total in traffic.services()]
    endpoints = [((*mine, where), total) for mine, where, total in traffic.endpoints()]
    for name, labels, rows in (("service", SERVICE, services), ("endpoint", (*SERVICE, ENDPOINT), endpoints)):
        counts = [(of, total.connections) for of, total in rows]
        yield _counter(f"{name}_connections", f"Connections to this {name}, and flows of UDP.", labels, counts)
        if traffic.bytes_known:
            sums = [((*of, way), take(total)) for of, total in rows for way, take in WAYS]
            yield _counter(f"{name}_bytes", f"Bytes to (in) and from (out) this {name}.", (*labels, DIRECTION), sums)


def _counter(
    name: str, text: str, labels: tuple[str, ...], rows: list[tuple[tuple[str, ...], int]]
) -> "CounterMetricFamily":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - see metrics.py

    family = CounterMetricFamily(f"svcnet_{name}", text, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family
