"""The columns of every kind in `svcnet get`. Pure: `now` is an argument.

Owns: what each cell says. A cell is text; "-" stands for nothing. Widths and colours are svcnet.cli.table's.
"""

from calendar import timegm
from collections.abc import Callable, Sequence
from time import strptime
from typing import Any, NamedTuple

from svcnet.cli.view import View
from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import Endpoints, EndpointSlice
from svcnet.model.meta import Pairs
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Pod
from svcnet.model.service import Service

SHOWN = 3
"""Endpoints that a narrow table lists before it counts the rest."""
PENDING = "<pending>"
"""A virtual IP that nobody has claimed yet."""


class Column(NamedTuple):
    """One column; `cell` gets (record, view, wide)."""

    title: str
    cell: Callable[[Any, View, bool], str]
    wide: bool = False


def age(created: str, now: float) -> str:
    """Return how old a creationTimestamp is, as kubectl words it; "-" when there is none. `now`: Unix seconds."""
    try:
        seconds = int(now - timegm(strptime(created[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def pairs_text(items: Pairs) -> str:
    """k=v,k=v."""
    return ",".join(f"{key}={value}" for key, value in items) or "-"


def address_port(address: str, port: int) -> str:
    """10.0.0.1:80, [fd00::1]:80."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def virtual_ip(service: Service) -> str:
    """The addresses of a service, or why it has none."""
    if service.type == "ExternalName":
        return "-"
    return ",".join(service.cluster_ips) or PENDING


def ports(service: Service) -> str:
    """80/TCP, 80:30080/TCP with its node port."""
    shown = (f"{p.port}:{p.node_port}/{p.protocol}" if p.node_port else f"{p.port}/{p.protocol}" for p in service.ports)
    return ",".join(shown) or "-"


def ready_of(service: Service, view: View) -> str:
    """2/3: those that traffic may go to, and all."""
    if service.type == "ExternalName":
        return "-"
    ready, known = view.counts(service)
    return f"{ready}/{known}"


def pod_status(pod: Pod) -> str:
    """Phase, and what keeps it from serving."""
    if pod.deletion:
        return "Terminating"
    if pod.phase in {"", "Running"}:
        return "NotReady" if pod.ready is False else "Running" if pod.ips else "Pending"
    return f"{pod.phase} ({pod.reason})" if pod.reason else pod.phase


def node_status(node: Node) -> str:
    """Ready, NotReady, Unknown; with SchedulingDisabled."""
    ready = {True: "Ready", False: "NotReady", None: "Unknown"}[node.ready]
    return f"{ready},SchedulingDisabled" if node.unschedulable else ready


def endpoint_list(record: Endpoints, wide: bool) -> str:
    """10.1.0.5:8080,10.1.0.6:8080 + 3 more."""
    found = [
        address_port(entry.addresses[0], number) if number else entry.addresses[0]
        for subset in record.subsets
        for number in [port.port for port in subset.ports if port.port] or [0]
        for entry in subset.endpoints
        if entry.ready is not False
    ]
    kept = found if wide else found[:SHOWN]
    more = f" + {len(found) - len(kept)} more" if len(found) > len(kept) else ""
    return ",".join(kept) + more or "<none>"


def _slice_endpoints(record: EndpointSlice, wide: bool) -> str:
    found = [address for entry in record.endpoints for address in entry.addresses[:1]]
    kept = found if wide else found[:SHOWN]
    return (",".join(kept) + (f" + {len(found) - len(kept)} more" if len(found) > len(kept) else "")) or "-"


def _slice_ready(record: EndpointSlice) -> str:
    return f"{sum(entry.ready is not False for entry in record.endpoints)}/{len(record.endpoints)}"


def _slice_ports(record: EndpointSlice) -> str:
    return ",".join(f"{port.port or '*'}/{port.protocol}" for port in record.ports) or "-"


def _controller_pods(record: ReplicationController, view: View) -> str:
    return f"{sum(pod.is_ready for pod in view.pods(record.key))}/{record.replicas}"


def _images(record: ReplicationController) -> str:
    return ",".join(container.image for container in record.template.containers if container.image) or "-"


def _pod_ports(pod: Pod) -> str:
    found = (f"{port.container_port}/{port.protocol}" for container in pod.spec.containers for port in container.ports)
    return ",".join(found) or "-"


def _count(kind: str) -> Callable[[Namespace, View, bool], str]:
    return lambda record, view, _wide: str(
        sum(r.key.kind == kind and r.key.namespace == record.meta.name for r in view.tracker.records())
    )


_NAME = Column("NAME", lambda r, _v, _w: r.meta.name)
_LABELS = Column("LABELS", lambda r, _v, _w: pairs_text(r.meta.labels))
_WIDE_LABELS = _LABELS._replace(wide=True)

COLUMNS: dict[str, Sequence[Column]] = {
    "Service": (
        _NAME,
        Column("TYPE", lambda r, _v, _w: r.type, wide=True),
        Column("VIRTUAL IP", lambda r, _v, _w: virtual_ip(r)),
        Column("EXTERNAL", lambda r, _v, _w: ",".join(r.external_ips) or r.external_name or "-", wide=True),
        Column("PORT(S)", lambda r, _v, _w: ports(r)),
        Column("ENDPOINTS", lambda r, v, _w: ready_of(r, v)),
        Column("SELECTOR", lambda r, _v, _w: pairs_text(r.selector)),
        Column("AFFINITY", lambda r, _v, _w: r.session_affinity, wide=True),
        _WIDE_LABELS,
    ),
    "Pod": (
        _NAME,
        Column("IP", lambda r, _v, wide: (",".join(r.ips) if wide else r.ips[0]) if r.ips else "-"),
        Column("MINION", lambda r, _v, _w: r.spec.node or r.host_ip or "-"),
        Column("STATUS", lambda r, _v, _w: pod_status(r)),
        Column("PORT(S)", lambda r, _v, _w: _pod_ports(r), wide=True),
        _LABELS,
    ),
    "Endpoints": (_NAME, Column("ENDPOINTS", lambda r, _v, wide: endpoint_list(r, wide)), _WIDE_LABELS),
    "EndpointSlice": (
        _NAME,
        Column("SERVICE", lambda r, _v, _w: r.service or "-"),
        Column("TYPE", lambda r, _v, _w: r.address_type),
        Column("PORT(S)", lambda r, _v, _w: _slice_ports(r)),
        Column("READY", lambda r, _v, _w: _slice_ready(r)),
        Column("ENDPOINTS", lambda r, _v, wide: _slice_endpoints(r, wide)),
        _WIDE_LABELS,
    ),
    "ReplicationController": (
        _NAME,
        Column("PODS", lambda r, v, _w: _controller_pods(r, v)),
        Column("SELECTOR", lambda r, _v, _w: pairs_text(r.selector)),
        Column("IMAGE(S)", lambda r, _v, _w: _images(r)),
        _WIDE_LABELS,
    ),
    "Node": (
        _NAME,
        Column("ADDRESS", lambda r, _v, _w: ",".join(a for kind, a in r.addresses if kind != "Hostname") or "-"),
        Column("POD CIDR", lambda r, _v, _w: ",".join(r.pod_cidrs) or "-"),
        Column("STATUS", lambda r, _v, _w: node_status(r)),
        Column("ZONE", lambda r, _v, _w: r.zone or "-", wide=True),
        _LABELS,
    ),
    "Namespace": (
        _NAME,
        Column("SERVICES", _count("Service")),
        Column("PODS", _count("Pod")),
        _LABELS,
    ),
}


def titles(kind: str, wide: bool, namespaced: bool) -> list[str]:
    """The header of a table; `namespaced` puts NAMESPACE first."""
    own = [column.title for column in COLUMNS[kind] if wide or not column.wide]
    return [*(["NAMESPACE"] if namespaced else []), *own, "AGE"]


def cells(record: Any, view: View, now: float, wide: bool, namespaced: bool) -> list[str]:
    """The cells of one record, as many as `titles`."""
    own = [column.cell(record, view, wide) for column in COLUMNS[record.key.kind] if wide or not column.wide]
    return [*([record.key.namespace] if namespaced else []), *own, age(record.meta.created, now)]
