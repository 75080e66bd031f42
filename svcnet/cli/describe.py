"""`svcnet describe`: one record, what hangs on it, and what is wrong with it.

Owns: the page. Facts come from the record, the view and the store's problems.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

from svcnet.cli import candidate, column
from svcnet.cli.context import open_store
from svcnet.cli.kind import key_of, said, targets
from svcnet.cli.option import STORE, with_config
from svcnet.cli.status import fetch
from svcnet.cli.view import View
from svcnet.codec.writer import to_v1
from svcnet.config import Config, Loaded
from svcnet.env import environment
from svcnet.model.errors import SvcnetError
from svcnet.model.event import Problem
from svcnet.model.meta import Key
from svcnet.model.pod import Pod
from svcnet.model.record import Record
from svcnet.model.service import Service

DAEMON_SECONDS = 1.0
"""How long to wait for what the daemon knows: the records are told without."""
Section = tuple[str, str | list[str]]
"""A title with its text, or with lines below it."""


@click.command()
@click.argument("kind", shell_complete=candidate.kinds)
@click.argument("names", nargs=-1, metavar="NAME…", shell_complete=candidate.names)
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NS", shell_complete=candidate.namespaces
)
@with_config(*STORE, "status_listen")
def describe(loaded: Loaded, kind: str, names: tuple[str, ...], namespace: str) -> int:
    """Show records of a KIND with all details: endpoints, variables, names, problems."""
    wanted, names = targets(kind, names)
    if not names:
        raise click.UsageError(f"expected the name of a {wanted.names[0]}")
    listing = open_store(loaded.config, remember=False).list()
    view = View.of(listing, loaded.config.endpoint_deny)
    pages, code = [], 0
    for name in names:
        key = key_of(wanted, namespace, name)
        record = view.record(key)
        if record is None:
            click.echo(f"svcnet: {said(key)} not found", err=True)
            code = SvcnetError.exit_code
        else:
            pages.append(page(sections(record, view, loaded.config, listing.problems)))
    click.echo("\n".join(pages), nl=False)
    return code


def sections(record: Record, view: View, config: Config, problems: Iterable[Problem]) -> Iterator[Section]:
    """Yield what is to say about a record."""
    meta = record.meta
    yield "Name", meta.name
    if meta.namespace:
        yield "Namespace", meta.namespace
    yield "Labels", [f"{key}={value}" for key, value in meta.labels]
    yield "Annotations", [f"{key}={value}" for key, value in meta.annotations]
    yield "Age", column.age(meta.created, time.time())
    if isinstance(record, Service):
        yield from _service(record, view, config)
    elif isinstance(record, Pod):
        yield from _pod(record, view)
    else:
        yield from _plain(record)
    found = [f"{p.where}: {p.what}" for p in problems if p.what and _is_about(record.key, p.where, p.what)]
    found += [f"{o.what}: {o.reason}" for o in view.tracker.left_out() if _is_about(record.key, o.what)]
    yield "Problems", found or "none"


def page(found: Iterable[Section]) -> str:
    """Return sections as aligned text; empty ones are left out."""
    kept = [(title, body) for title, body in found if body]
    width = max(len(title) for title, _ in kept) + 1
    lines = []
    for title, body in kept:
        texts = [body] if isinstance(body, str) else body
        lines += [f"{title + ':':<{width}}  {texts[0]}", *(f"{'':<{width}}  {text}" for text in texts[1:])]
    return "\n".join(lines) + "\n"


def _service(service: Service, view: View, config: Config) -> Iterator[Section]:
    yield "Type", service.type
    yield "Virtual IP", column.virtual_ip(service)
    yield "External name", service.external_name
    yield "External IPs", ",".join(service.external_ips)
    yield "Selector", [f"{key}={value}" for key, value in service.selector]
    yield "Ports", [_port(port) for port in service.ports]
    if service.type != "ExternalName":
        yield "Endpoints", _endpoints(service, view) or "none"
        yield "Not served", _not_served(service, view)
        yield from _said(service, config)
    affinity = service.session_affinity
    yield "Affinity", f"{affinity}, {service.session_affinity_seconds} s" if affinity != "None" else affinity
    yield "Policies", f"internal {service.internal_traffic_policy}, external {service.external_traffic_policy}"
    place = f".{service.meta.namespace}" if service.meta.namespace != "default" else ""
    yield "DNS", f"{service.meta.name}{place}.{config.zone[0]}"
    yield "Environment", [f"{name}={value}" for name, value in environment([service]).variables.items()]


def _port(port: Any) -> str:
    text = f"{port.port}/{port.protocol} → {port.target_port or port.port}"
    if port.name:
        text = f"{port.name} {text}"
    return f"{text}, node port {port.node_port}" if port.node_port else text


def _endpoints(service: Service, view: View) -> list[str]:
    found = []
    for port in view.tracker.ports_of(service.key):
        title = port.name or str(port.key.port or "any port")
        for e in port.endpoints:
            target = e.target.rpartition("/")[2]
            extra = [target, f"on {e.node}" if e.node else "", f"weight {e.weight}" if e.weight != 1 else ""]
            extra += ["terminating"] if e.terminating else []
            shown = ", ".join(text for text in extra if text)
            to = column.address_port(e.address, e.port) if e.port else e.address
            found.append(f"{title} → {to}" + (f" ({shown})" if shown else ""))
    return found


def _not_served(service: Service, view: View) -> list[str]:
    """Pods that belong to the service and get no traffic, with the reason."""
    if view.sources(service.key):
        return []
    served = {e.address for port in view.tracker.ports_of(service.key) for e in port.endpoints}
    idle = (pod for pod in view.pods(service.key) if not served.intersection(pod.ips))
    return [f"pod {pod.meta.name} ({','.join(pod.ips) or 'no address'}): {column.pod_status(pod)}" for pod in idle]


def _said(service: Service, config: Config) -> Iterator[Section]:
    """Endpoints that this machine's daemon leaves alone, and what of the service it left out; nothing without one."""
    try:
        report = fetch(config.status_listen, DAEMON_SECONDS)
    except SvcnetError:
        return
    of = f" of {service.meta.namespace}/{service.meta.name}:"
    both = (where.partition(of) for where in report.get("ejected") or [] if of in where)
    yield (
        "Ejected",
        [f"{port} → {endpoint} (too many dials failed: none is made for a while)" for endpoint, _, port in both],
    )
    mine = f" of {service.key}"
    left = [(str(e.get("what", "")), e.get("reason", "")) for e in report.get("left_out") or []]
    yield "Left out", [f"{what.removesuffix(mine)} ({why})" for what, why in left if what.endswith(mine)]


def _pod(pod: Pod, view: View) -> Iterator[Section]:
    yield "Status", column.pod_status(pod)
    yield "Reason", pod.message
    yield "IP", ",".join(pod.ips)
    yield "Minion", pod.spec.node or pod.host_ip
    containers = []
    for container in pod.spec.containers:
        ports = ",".join(f"{port.container_port}/{port.protocol}" for port in container.ports)
        containers.append(" ".join(filter(None, [container.name, container.image, ports])))
    yield "Containers", containers
    services = [r for r in view.records("Service") if r.key.namespace == pod.meta.namespace]
    yield "Services", [s.meta.name for s in services if pod in view.pods(s.key)] or "none"


def _plain(record: Record) -> Iterator[Section]:
    """Everything else: the v1 form, field by field."""
    for title, value in to_v1(record).items():
        if title not in {"apiVersion", "kind", "metadata"}:
            yield title[:1].upper() + title[1:], list(_tree(value))


def _tree(value: Any) -> Iterator[str]:
    """Yield the lines of nested values, indented as YAML is."""
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, dict | list):
                yield f"{name}:"
                yield from (f"  {line}" for line in _tree(item))
            else:
                yield f"{name}: {item}"
    elif isinstance(value, list):
        for item in value:
            first, *rest = list(_tree(item)) or ["{}"]
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield str(value)


def _is_about(key: Key, *texts: str) -> bool:
    """Whether a problem names this record: by its key, as problems do, or by NAMESPACE/NAME of a port."""
    place = f"{key.namespace}/{key.name}" if key.namespace else key.name
    marks = (f"{key!s} ", f"{place} ") if key.kind == "Service" else (f"{key} ",)
    return any(mark in f"{text} ".replace(":", " ").replace(",", " ") for text in texts for mark in marks)
