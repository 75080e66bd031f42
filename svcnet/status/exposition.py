"""Counts and report as Prometheus text or OpenMetrics.

Owns: the names of the metrics (docs/contract.md lists them). Must not count anything itself.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import svcnet
from svcnet.status.dns_exposition import dns_metrics
from svcnet.status.metrics import Metrics
from svcnet.status.proxy_exposition import limit_metrics, proxy_metrics
from svcnet.status.report import RUNNING, Report
from svcnet.status.traffic_exposition import traffic_metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    from svcnet.prober import Prober

START = "process_start_time_seconds"


class Exposition:
    """A registry of its own: importing svcnet into another program adds nothing to that program's metrics."""

    def __init__(self, metrics: Metrics, report: Callable[[], Report]) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415 - 140 ms, see metrics.py

        self.metrics = metrics
        self.report = report
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Source(self))
        self.registry.register(_Process(ProcessCollector(registry=None), metrics.began))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return (body, Content-Type) in the form that an Accept header asks for."""
        return self.collect().render(accept)

    def collect(self) -> "Collected":
        """What there is at this moment; the text of thousands of series takes long, and may be made in a thread."""
        return Collected(list(self.registry.collect()))


class Collected:
    """Metrics that no longer change."""

    def __init__(self, families: "list[Metric]") -> None:
        self._families = families

    def collect(self) -> "list[Metric]":
        """As a registry, to prometheus_client."""
        return self._families

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return (body, Content-Type)."""
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - as above

        encode, content_type = choose_encoder(accept)
        return encode(cast("CollectorRegistry", self)), content_type


class _Process:
    """What the kernel tells of this process. After a reload (execv) that is older than what it counts."""

    def __init__(self, collector: "Collector", began: float | None) -> None:
        self._collector, self._began = collector, began

    def collect(self) -> "Iterator[Metric]":
        """Yield it; the start is that of the counts, so that a scraper knows why they fell."""
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - as above

        for family in self._collector.collect():
            if family.name == START and self._began is not None:
                yield GaugeMetricFamily(family.name, family.documentation, self._began)
            else:
                yield family


class _Source:
    """What prometheus_client calls a custom collector."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def collect(self) -> "Iterator[Metric]":
        """Yield every metric of this moment."""
        report = self._exposition.report()
        metrics = self._exposition.metrics
        yield from _counted(metrics)
        if metrics.checks is not None:
            yield from _checked(metrics.checks)
        if metrics.traffic is not None:
            yield from traffic_metrics(metrics.traffic)
            yield from proxy_metrics(metrics.traffic)
        if metrics.proxy is not None:
            yield from limit_metrics(metrics.proxy)
        if metrics.dns is not None:
            yield from dns_metrics(metrics.dns)
        yield from _reported(report)


def _counted(metrics: Metrics) -> "Iterator[Metric]":
    from prometheus_client.core import (  # noqa: PLC0415 - as above
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    sync, programming = metrics.sync_seconds, metrics.programming_seconds
    for name, text, value in (
        ("sync_proxy_rules_duration_seconds", "How long one sync took.", sync),
        (
            "network_programming_duration_seconds",
            "From a change seen in the store to its rule being live.",
            programming,
        ),
    ):
        yield HistogramMetricFamily(f"svcnet_{name}", text, buckets=value.buckets, sum_value=value.sum)
    yield GaugeMetricFamily(
        "svcnet_sync_proxy_rules_last_timestamp_seconds",
        "Unix time of the last sync that went through.",
        metrics.last_sync,
    )
    for name, text, count in (
        ("sync_proxy_rules_service_changes", "Service ports whose rules a sync changed.", metrics.changes),
        ("sync_proxy_rules_failures", "Syncs that the kernel refused.", metrics.failures),
        ("conntrack_reconciler_deleted_entries", "Connection table entries removed.", metrics.flows),
        ("env_renders", "Env files written.", metrics.renders),
    ):
        yield CounterMetricFamily(f"svcnet_{name}", text, count)


def _checked(checks: "Prober") -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - as above

    made = CounterMetricFamily("svcnet_health_checks", "Health checks made.", labels=["result"])
    made.add_metric(["passed"], checks.passed)
    made.add_metric(["failed"], checks.failed)
    yield made
    yield GaugeMetricFamily("svcnet_health_failing", "Checks that have taken an endpoint out.", checks.failing)


def _reported(report: Report) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - as above

    store = report.store
    for name, text, value in (
        ("store_connected", "Whether records flow from the store.", float(store.connected)),
        ("store_staleness_seconds", "Time since records last flowed; 0 while they do.", store.staleness_seconds),
        ("store_revision", "Last revision seen.", report.revision_seen),
        ("applied_revision", "Last revision that is live.", report.revision_applied),
        ("oldest_unapplied_seconds", "Age of the oldest change that is not live.", report.oldest_unapplied_seconds),
        ("services", "Services served.", report.services),
        ("endpoints", "Endpoints served.", report.endpoints),
        ("records_left_out", "Records and addresses that are not served.", len(report.left_out)),
        ("store_held_services", "Services that a held list lacks.", store.held.missing if store.held else 0),
        ("ready", "Whether the first sync is applied.", float(report.ready)),
    ):
        yield GaugeMetricFamily(f"svcnet_{name}", text, value)
    yield CounterMetricFamily("svcnet_rule_drift", "Times the kernel held something else than written.", report.drift)
    parts = GaugeMetricFamily("svcnet_part_running", "Whether a part of the daemon runs.", labels=["part"])
    for name, state in sorted(report.parts.items()):
        parts.add_metric([name], float(state.startswith(RUNNING)))
    yield parts
    build = GaugeMetricFamily("svcnet_build_info", "Always 1.", labels=["version", "node", "mode"])
    build.add_metric([svcnet.__version__, report.node, report.mode], 1)
    yield build
