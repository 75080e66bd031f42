"""`svcnet doctor`: what of this machine makes services hang, why, and the command that mends it.

Owns: the command, the facts' way from the machine to the checks, and how findings are told. Changes nothing.
"""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from svcnet.cli import machine, table
from svcnet.cli.option import with_config
from svcnet.cli.status import fetch
from svcnet.config import BY_NAME, Loaded, show
from svcnet.doctor.examination import Result, State, examine
from svcnet.doctor.facts import Facts
from svcnet.doctor.finding import Finding, Level
from svcnet.model.errors import NotPermittedError, SvcnetError

_ASKED = ("mode", "service_cidr", "cluster_cidr", "masquerade_all", "dns_listen", "status_listen")
_START = ("records", "node", *_ASKED)
_COLOURS = {State.OK: "green", State.FINDING: "red", State.NOTE: "yellow", State.UNREAD: "yellow"}


@click.command()
@click.option("-o", "--output", type=click.Choice(["json"]), help="All of it as JSON.")
@with_config("records", "node", *_ASKED)
def doctor(loaded: Loaded, output: str | None) -> int:
    """Say what of this machine makes services hang, and which command mends it. Changes nothing.

    Exit 0 when all is well, 1 on a finding; 5 when there is none, and not all could be read.
    """
    facts = collect(loaded)
    results = examine(facts)
    if output == "json":
        click.echo(json.dumps(_json(facts, results), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(facts, results)))
    if any(result.state is State.FINDING for result in results):
        for what in facts.unread.values():
            click.echo(f"svcnet: not all was read: {what}", err=True)
        return 1
    if any(result.state is State.UNREAD for result in results):
        raise NotPermittedError("\n".join(f"not all was read: {what}" for what in facts.unread.values()))
    return 0


def collect(loaded: Loaded) -> Facts:
    """Read the daemon's status and this machine."""
    config = loaded.config
    report, silence = None, ""
    try:
        report = fetch(config.status_listen)
    except SvcnetError as error:
        silence = str(error)
    known = machine.routes(config.service_cidr, config.cluster_cidr)
    held = machine.rules() if config.mode != "none" else {"unread": {}}
    return Facts(
        mode=_mode(report, known, held) if config.mode == "auto" else config.mode,
        service_cidr=config.service_cidr,
        cluster_cidr=config.cluster_cidr,
        masquerade_all=config.masquerade_all,
        dns_listen=tuple(listen.host for listen in config.dns_listen),
        start=_start(loaded),
        report=report,
        silence=silence,
        programs=machine.installed(["ipset"]),
        unread={**known.pop("unread", {}), **held.pop("unread")},
        **machine.settings(),
        **machine.counters(),
        **machine.interfaces(),
        **known,
        **held,
    )


def _mode(report: Mapping[str, Any] | None, routes: Mapping[str, Any], rules: Mapping[str, Any]) -> str:
    """What the daemon says, or else what it has left in the kernel."""
    if report is not None and report.get("mode"):
        return str(report["mode"])
    if any(way.kind == "local" for way in routes.get("ways", ())):
        return "userspace"
    return "iptables" if rules.get("own_chains") else "nftables"


def _start(loaded: Loaded) -> str:
    """The daemon's command line: the options that doctor was given as flags; it finds all others by itself."""
    given = [BY_NAME[name] for name in _START if loaded.sources[name] == BY_NAME[name].flag]
    flags = [o.flag if o.name == "masquerade_all" else f"{o.flag}={show(o, loaded.config)}" for o in given]
    return shlex.join(["svcnet-proxy", *flags])


def lines(facts: Facts, results: Iterable[Result]) -> Iterator[str]:
    """Return what a person reads: every check in one line, then what was found."""
    told = list(results)
    rows = [(r.check.name, r.state.value, _summary(r)) for r in told]
    wide = table.widths([("CHECK", "STATE", "WHAT"), *rows])
    yield f"Mode {facts.mode}"
    yield table.header(("CHECK", "STATE", "WHAT"), wide)
    yield from (_coloured(table.line(row, wide), r.state) for row, r in zip(rows, told, strict=True))
    findings = [(result.check.name, finding) for result in told for finding in result.findings]
    for name, finding in sorted(findings, key=lambda item: item[1].level is Level.NOTE):
        yield ""
        yield from _paragraph(name, finding)
    if any(command.startswith("sysctl") for _, finding in findings for command in finding.mend):
        yield "\nA setting lasts until the next boot; a line NAME=VALUE in /etc/sysctl.d/svcnet.conf keeps it."


def _summary(result: Result) -> str:
    if not result.findings:
        return result.check.about if result.state is State.OK else "-"
    first = min(result.findings, key=lambda finding: finding.level is Level.NOTE)
    return first.what + (f" (and {len(result.findings) - 1} more)" if len(result.findings) > 1 else "")


def _paragraph(name: str, finding: Finding) -> Iterator[str]:
    state = State.FINDING if finding.level is Level.FINDING else State.NOTE
    yield _coloured(f"{finding.level.value} {name}: {finding.what}", state)
    yield f"  {finding.why}"
    if finding.mend:
        yield "  As root:"
        yield from (f"    {command}" for command in finding.mend)


def _coloured(text: str, state: State) -> str:
    return click.style(text, fg=_COLOURS[state]) if state in _COLOURS and table.colourful() else text


def _json(facts: Facts, results: Iterable[Result]) -> dict[str, Any]:
    return {
        "mode": facts.mode,
        "checks": [
            {"check": r.check.name, "state": r.state.value, "findings": [_finding(f) for f in r.findings]}
            for r in results
        ],
        "unread": dict(facts.unread),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"level": finding.level.value, "what": finding.what, "why": finding.why, "mend": list(finding.mend)}
