"""What is counted between two scrapes.

Owns: the counts and histograms of the loop, as plain numbers. Must not import prometheus_client: the daemon counts from
its first moment, and pays for that import (140 ms) only when `/metrics` is first asked for (exposition.py).
"""

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svcnet.dns.ledger import Ledger
    from svcnet.prober import Prober
    from svcnet.status.proxy_exposition import Limits
    from svcnet.traffic import Traffic

BUCKETS = tuple(0.001 * 2**power for power in range(15))
"""Upper bounds in seconds, 1 ms to 16.4 s: those of kube-proxy's sync_proxy_rules_duration_seconds."""


class Histogram:
    """Observations in seconds, by BUCKETS."""

    def __init__(self) -> None:
        self.sum = 0.0
        self._counts = [0] * (len(BUCKETS) + 1)

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many were at most that), as Prometheus wants them: the last is +Inf."""
        bounds = [*(repr(bound) for bound in BUCKETS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True))


class Metrics:
    """The counts of one daemon; the loop calls the methods, from one thread."""

    def __init__(self, began: float | None = None) -> None:
        self.began = began
        """Unix seconds at which these counts were 0; None: when the process was started."""
        self.sync_seconds = Histogram()
        self.programming_seconds = Histogram()
        self.last_sync = 0.0
        """Unix seconds of the last sync that went through; 0 before the first."""
        self.changes = 0
        self.failures = 0
        self.flows = 0
        self.renders = 0
        self.traffic: Traffic | None = None
        """The accounts, where traffic is counted."""
        self.proxy: Limits | None = None
        """The userspace proxy, where it can be asked for."""
        self.checks: Prober | None = None
        """Who makes health checks."""
        self.dns: Ledger | None = None
        """What DNS workers counted, where there are any."""

    def synced(self, seconds: float, changes: int, rev: int, now: float) -> None:  # noqa: ARG002 - the report has rev
        """Count a sync that went through: how long, how many service ports changed, to which revision, Unix time."""
        self.sync_seconds.observe(seconds)
        self.changes += changes
        self.last_sync = now

    def sync_failed(self) -> None:
        """Count a sync that the kernel refused."""
        self.failures += 1

    def programmed(self, seconds: float) -> None:
        """Count a change of the store that is live now, `seconds` after it was seen."""
        self.programming_seconds.observe(seconds)

    def flows_deleted(self, count: int) -> None:
        """Count connection table entries that were removed."""
        self.flows += count

    def env_rendered(self, files: int) -> None:
        """Count env files that were written."""
        self.renders += files
