"""`svcnet status` and `svcnet release`: what the daemon of this machine says and can be told.

Owns: the client side of the status server and of the control socket. The JSON's fields are the contract's; fields
that are missing (an older daemon) are shown as "-".
"""

import json
import time
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException
from typing import Any

import click

from svcnet.cli import table
from svcnet.cli.control import ask
from svcnet.cli.option import with_config
from svcnet.config import Loaded
from svcnet.model.errors import SvcnetError
from svcnet.option_kind import Listen

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.05
MOST_SHOWN = 20
"""Of what is left out, or ejected, so that one record with ten thousand bad addresses doesn't scroll the rest away."""


class NotConvergedError(SvcnetError):
    """The daemon did not get there in time."""

    exit_code = 4


@click.command()
@click.option("--wait", "waiting", is_flag=True, help="Until it is ready and has applied all that it has seen.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait waits; then exit 4.",
)
@click.option("-o", "--output", type=click.Choice(["json"]), help="The JSON as it came.")
@with_config("status_listen")
def status(loaded: Loaded, waiting: bool, timeout: float, output: str | None) -> None:
    """Show what svcnet-proxy on this machine does. Exit 1 when it doesn't answer."""
    listen = loaded.config.status_listen
    report = _wait(listen, timeout) if waiting else fetch(listen)
    if output == "json":
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(report)))


@click.command()
@with_config("state_dir")
def release(loaded: Loaded) -> None:
    """Let through a list that lacks most services, and that svcnet-proxy holds because it looks like an accident."""
    click.echo(ask(loaded.config.state_dir, "release")["message"])


def fetch(listen: Listen, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    """Return /status of the daemon. SvcnetError when it doesn't answer so soon, or something else does."""
    # A daemon that listens on every address is asked on loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - compared, not bound
    connection = HTTPConnection(host, listen.port, timeout=seconds)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        report = json.loads(answer.read())
    except (OSError, HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SvcnetError(f"svcnet-proxy doesn't answer at {listen} (--status-listen): {why}") from None
    except ValueError:
        report = None
    finally:
        connection.close()
    if not isinstance(report, dict) or "revision_seen" not in report:
        raise SvcnetError(f"what answers at {listen} is not svcnet-proxy, expected JSON with revision_seen")
    return report


def _wait(listen: Listen, timeout: float) -> dict[str, Any]:
    """Ask until all that was seen is applied. A daemon that doesn't answer yet may be starting."""
    end = time.monotonic() + timeout
    while True:
        try:
            report = fetch(listen)
            if is_converged(report):
                return report
            lacks = _lacks(report)
        except SvcnetError as error:
            lacks = str(error)
        if time.monotonic() + POLL_SECONDS > end:
            raise NotConvergedError(f"not converged in {timeout:g} s: {lacks}")
        time.sleep(POLL_SECONDS)


def is_converged(report: dict[str, Any]) -> bool:
    """Whether the first sync is applied, and everything seen since."""
    return bool(report.get("ready", True)) and 0 < report.get("revision_seen", 0) <= report.get("revision_applied", 0)


def _lacks(report: dict[str, Any]) -> str:
    parts = [f"revision {report.get('revision_applied')} of {report.get('revision_seen')} applied"]
    if not report.get("ready", True):
        parts.append("first sync not applied")
    if reason := (report.get("store") or {}).get("reason"):
        parts.append(f"store away: {reason}")
    if report.get("last_error"):
        parts.append(f"last error: {report['last_error']}")
    return ", ".join(parts)


def lines(report: dict[str, Any]) -> Iterable[str]:
    """Return the report as a person reads it."""
    store = report.get("store") or {}
    seen, applied = report.get("revision_seen", 0), report.get("revision_applied", 0)
    age = report.get("oldest_unapplied_seconds") or 0.0
    sync = f"behind by {age:.1f} s" if report.get("ready", True) else "not ready"
    if is_converged(report) and not age:
        sync = "in sync"
    held = store.get("held")
    rows = [
        ("Minion", report.get("node", "-")),
        ("Mode", " ".join(filter(None, [report.get("mode", "-"), _aside(report.get("mode_reason"))]))),
        ("Records", _store_text(report, store)),
        ("Revision", f"{applied} applied, {seen} seen: {sync}"),
        ("Serves", f"{report.get('services', '-')} services, {report.get('endpoints', '-')} endpoints"),
        ("Drift", str(report.get("drift", 0) or "none")),
        ("Parts", ", ".join(f"{name} {state}" for name, state in sorted((report.get("parts") or {}).items())) or "-"),
    ]
    if held:
        rows.append(("Held", f"a list lacks {held.get('missing')} of {held.get('known')} services: svcnet release"))
    if report.get("last_error"):
        rows.append(("Last error", f"{report['last_error']}{_since(report.get('last_error_at'))}"))
    width = max(len(name) for name, _ in rows)
    yield from (_coloured(name, f"{name:<{width}}   {text}", text) for name, text in rows)
    if batch := report.get("last_error_batch"):
        yield f"Not done then ({report.get('last_error_changes', len(batch))})"
        yield from (f"  {line}" for line in batch)
    yield from _listed("Ejected, as dials failed", report.get("ejected") or [])
    left_out = report.get("left_out") or []
    yield from _listed("Left out", [f"{item.get('what', '-')}: {item.get('reason', '-')}" for item in left_out])


def _listed(title: str, items: list[str]) -> Iterable[str]:
    """A list under its number, and not more of it than fits on a screen."""
    if items:
        yield f"{title} ({len(items)})"
        yield from (f"  {item}" for item in items[:MOST_SHOWN])
    if len(items) > MOST_SHOWN:
        yield f"  and {len(items) - MOST_SHOWN} more: svcnet status -o json has all"


def _aside(text: str | None) -> str:
    return f"({text})" if text else ""


def _store_text(report: dict[str, Any], store: dict[str, Any]) -> str:
    if store.get("connected"):
        return "connected"
    served = "the checkpoint" if report.get("services") else "nothing"
    serves = "the last state" if report.get("ready", True) else served
    why = f": {store['reason']}" if store.get("reason") else ""
    return f"away for {store.get('staleness_seconds') or 0.0:.0f} s, {serves} serves{why}"


def _since(at: float | None) -> str:
    return f" ({max(0, int(time.time() - at))} s ago)" if at else ""


def _coloured(name: str, text: str, value: str) -> str:
    bad = name in {"Held", "Last error"} or "failed" in value or "away" in value or "not ready" in value
    return click.style(text, fg="red") if bad and table.colourful() else text
