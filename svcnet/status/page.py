"""The report as a page for people: plain HTML, readable without scripts, styles or pictures. Pure."""

from collections.abc import Mapping
from heapq import nsmallest
from html import escape

from svcnet.model.snapshot import PortKey, ServedPort
from svcnet.status.report import Report

SHOWN = 200
"""Most rows of a table on the page; `/status` has all that was left out, `svcnet get services` all services."""
ENDPOINTS_SHOWN = 8
"""Most endpoints of a row."""

STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;"
    "margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem 1rem .25rem 0;vertical-align:top;"
    "border-bottom:1px solid #8884}th{font-weight:600;white-space:nowrap}td{overflow-wrap:anywhere}"
)


def page(report: Report, ports: Mapping[PortKey, ServedPort] | None = None) -> str:
    """Return the whole document; `ports` are the service ports that this minion serves."""
    sections = [_table("State", _state(report)), _table("Parts", sorted(report.parts.items()))]
    if report.last_error_batch:
        batch = [(line[:1], line[2:]) for line in report.last_error_batch]
        sections.append(_table(f"What the last error left undone ({report.last_error_changes})", batch))
    if ports:
        shown = [_port(ports[key]) for key in nsmallest(SHOWN, ports)]
        sections.append(_table(f"Service ports ({len(ports)})", shown))
    if ports and len(ports) > SHOWN:
        sections.append(f"<p>The first {SHOWN}; all of them: <code>svcnet get services -A</code>.</p>")
    if report.ejected:
        rows = [(where, "too many dials failed: none is made for a while") for where in report.ejected[:SHOWN]]
        sections.append(_table(f"Ejected ({len(report.ejected)})", rows))
    if report.left_out:
        rows = [(entry.what, entry.reason) for entry in report.left_out[:SHOWN]]
        sections.append(_table(f"Not served ({len(report.left_out)})", rows))
    if len(report.left_out) > SHOWN:
        sections.append(f"<p>The first {SHOWN}; all of them are in <a href='/status'>/status</a>.</p>")
    title = f"svcnet on {escape(report.node)}"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        "<meta name='viewport' content='width=device-width'><meta http-equiv='refresh' content='10'>"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p><strong>{escape(summary(report))}</strong></p>"
        f"{''.join(sections)}<p><a href='/status'>status as JSON</a> · <a href='/metrics'>metrics</a></p>"
        "</body></html>\n"
    )


def summary(report: Report) -> str:
    """Return one line: does it serve, and what."""
    serving = f"{report.services} services, {report.endpoints} endpoints"
    if report.store.held:
        held = report.store.held
        return f"Held: a list lacks {held.missing} of {held.known} services. Let it through with: svcnet release"
    if not report.ready:
        return f"Not ready: the first sync is not applied yet. {serving}"
    if not report.store.connected:
        return f"Store away for {report.store.staleness_seconds:.0f} s; the last state serves on. {serving}"
    if report.oldest_unapplied_seconds:
        return f"A change waits for {report.oldest_unapplied_seconds:.3f} s. {serving}"
    return f"In sync. {serving}"


def _state(report: Report) -> list[tuple[str, str]]:
    store = "connected" if report.store.connected else f"away for {report.store.staleness_seconds:.0f} s"
    return [
        ("Mode", f"{report.mode} ({report.mode_reason})" if report.mode_reason else report.mode),
        ("Store", store),
        ("Revision", f"{report.revision_applied} live, {report.revision_seen} seen"),
        ("Drift", str(report.drift) if report.drift else "none"),
        ("Last error", report.last_error or "none"),
    ]


def _port(port: ServedPort) -> tuple[str, str]:
    """(service and port, where it is and where it leads)."""
    ends = [f"{e.address}:{e.port}" if ":" not in e.address else f"[{e.address}]:{e.port}" for e in port.endpoints]
    more = f" and {len(ends) - ENDPOINTS_SHOWN} more" if len(ends) > ENDPOINTS_SHOWN else ""
    leads = f"{', '.join(ends[:ENDPOINTS_SHOWN])}{more}" if ends else "no endpoint: refused"
    return str(port.key), f"{port.virtual_ip or 'no virtual IP'} → {leads}"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<h2>{escape(title)}</h2><table>{body}</table>"
