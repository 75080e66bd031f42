"""What DNS workers counted, as metrics.

Owns: their names and labels (docs/contract.md lists them), which are CoreDNS' behind our prefix where it has them. Must
not know where anything is counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from svcnet.dns.counts import SECONDS
from svcnet.dns.ledger import EVENTS, LEVELS, SIZES, Ledger

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, Metric

OVERFLOW = "receive buffer full"


def dns_metrics(ledger: Ledger) -> "Iterator[Metric]":
    """Yield every metric of this moment."""
    from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily  # noqa: PLC0415 - see metrics.py

    requests = ledger.requests.items()
    yield _counter("requests", "Queries, by transport, address family and type.", ("proto", "family", "type"), requests)
    codes = [((code,), number) for code, number in ledger.responses.items()]
    yield _counter("responses", "Replies, by code.", ("rcode",), codes)
    took = _buckets(SECONDS, ledger.took)
    text = "From reading a query to its reply being sent."
    yield HistogramMetricFamily("svcnet_dns_request_duration_seconds", text, buckets=took, sum_value=ledger.seconds)
    sizes = HistogramMetricFamily("svcnet_dns_response_size_bytes", "Size of replies.", labels=["proto"])
    for transport, numbers in ledger.sizes.items():
        sizes.add_metric([transport], _buckets(SIZES, numbers), ledger.bytes[transport])
    yield sizes
    for event in EVENTS:
        rows = [(key[1:], number) for key, number in ledger.events.items() if key[0] == event.what]
        if event.what == "dropped":
            rows.append(((OVERFLOW,), ledger.overflow()))
        yield _counter(event.what, event.text, event.labels, rows if event.labels else rows or [((), 0)])
    yield _counter("worker_starts", "Worker processes that began to answer.", (), [((), ledger.starts)])
    for level in LEVELS:
        yield GaugeMetricFamily(f"svcnet_dns_{level.what}", level.text, ledger.level(level))


def _buckets(bounds: Sequence[float], numbers: Sequence[int]) -> list[tuple[str, float]]:
    """(upper bound, how many were at most that), as Prometheus wants them: the last is +Inf."""
    return list(zip([*(repr(float(bound)) for bound in bounds), "+Inf"], map(float, accumulate(numbers)), strict=True))


def _counter(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], int]]
) -> "CounterMetricFamily":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - see metrics.py

    family = CounterMetricFamily(f"svcnet_dns_{name}", text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family
