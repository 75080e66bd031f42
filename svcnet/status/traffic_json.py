"""The accounts of traffic as JSON: all that is known of each service and each of its endpoints, in one object each.

Owns: the names of its fields (docs/traffic.md). The numbers are those of /metrics; histograms are those of endpoints
too, which as series would be most of all. Must not know where anything is counted.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from svcnet.status.proxy_exposition import (
    FAMILIES,
    HISTOGRAMS,
    is_ejected,
    is_limited,
    open_now,
    queued_now,
)
from svcnet.traffic import ServiceId, Total, Traffic

Numbers = dict[str, Any]
Rows = list[tuple[ServiceId, str, Total]]


class TrafficNow:
    """What there is at this moment; to write thousands of rows may be left to a thread."""

    def __init__(self, traffic: Traffic | None) -> None:
        self._services: Rows = []
        self._endpoints: Rows = []
        self._bytes = False
        if traffic is not None:
            self._bytes = traffic.bytes_known
            self._services = [(mine, "", total.copy()) for mine, total in traffic.services()]
            self._endpoints = [(mine, where, total.copy()) for mine, where, total in traffic.endpoints()]

    def render(self) -> bytes:
        """`{"services": [{…, "endpoints": [{…}]}]}`."""
        ends: dict[ServiceId, list[Numbers]] = {}
        for mine, where, total in self._endpoints:
            more = {"ejected": is_ejected(total)} if total.proxied else {}
            ends.setdefault(mine, []).append({"endpoint": where, **self._numbers(total, of_service=False), **more})
        found = [
            {**mine._asdict(), **self._numbers(total, of_service=True), "endpoints": ends.get(mine, [])}
            for mine, _, total in self._services
        ]
        return msgspec.json.encode({"services": found}) + b"\n"

    def _numbers(self, total: Total, *, of_service: bool) -> Numbers:
        found: Numbers = {"connections": total.connections}
        if self._bytes:
            found |= {"bytes_in": total.bytes_in, "bytes_out": total.bytes_out}
        if total.proxied:
            found["open_connections"] = open_now(total)
            found |= dict(_counts(total, of_service=of_service))
            if of_service:
                found |= {"queued_connections": queued_now(total), "connections_limited": is_limited(total)}
        return found


def _counts(total: Total, *, of_service: bool) -> Iterable[tuple[str, Any]]:
    cells = total.proxied[0]
    for family in FAMILIES:
        if of_service or family.by_endpoint:
            of = {reason: cells[cell] for reason, cell in family.reasons.items()}
            yield family.name, of.get("", of)
    for name, _, bounds, part, cell, unit in HISTOGRAMS:
        counts = total.proxied[part]
        buckets = [[bound, count] for bound, count in zip((*bounds, None), counts, strict=True)]
        yield name, {"count": sum(counts), "sum": cells[cell] * unit, "buckets": buckets}
