"""What `svcnet trace` found, as a person reads it and as JSON.

Owns: the words and the order. Works nothing out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click

from svcnet.cli import table
from svcnet.iptables.desired import Treatment
from svcnet.iptables.tracer import Outcome
from svcnet.trace.addressee import Addressee, Kind
from svcnet.trace.answer import Answer
from svcnet.trace.comparison import percent, text
from svcnet.trace.expectation import PASSED, TRANSLATED, Said
from svcnet.trace.question import Question
from svcnet.trace.standing import Candidate

SHOWN = 16
"""Endpoints, and elements, that the page shows at most; the JSON has them all."""
HEADER = ("ENDPOINT", "SHARE", "KERNEL", "MINION", "POD", "WHY")


class Told(NamedTuple):
    """All of it. `same` is None where the kernel was not asked; `failure` says why."""

    asked: Question
    report: Mapping[str, Any] | None
    silence: str
    whose: Addressee = Addressee(Kind.NOT_OURS)
    treatment: Treatment | None = None
    said: Said = Said(PASSED, {}, "")
    candidates: tuple[Candidate, ...] = ()
    answer: Answer | None = None
    failure: str = ""
    wrong: tuple[str, ...] = ()
    same: bool | None = None


def lines(told: Told) -> Iterator[str]:
    """Return the page."""
    packet, said = told.asked.packet, told.said
    way = "made here" if packet.outgoing else "coming in"
    yield f"From      {packet.source}{_aside(told.asked.source)}, {way}"
    host = f"[{packet.destination}]" if packet.family == 6 else packet.destination
    yield f"To        {host}:{packet.port}/{packet.protocol}: {told.whose}"
    yield ""
    yield f"Records   {_verdict(said.verdict)}: {said.why}"
    if said.choice:
        yield f"          chosen {said.choice}"
        yield f"          masqueraded: {said.masquerade}"
    yield from _endpoints(told)
    yield ""
    yield from _kernel(told)
    yield ""
    yield from _judgement(told)


def _endpoints(told: Told) -> Iterator[str]:
    if not told.candidates:
        return
    rows = [_row(told, c) for c in sorted(told.candidates, key=lambda c: not c.used)]
    wide = table.widths([HEADER, *rows[:SHOWN]])
    yield "  " + table.header(HEADER, wide)
    yield from (f"  {table.line(row, wide)}" for row in rows[:SHOWN])
    if len(rows) > SHOWN:
        yield f"  and {len(rows) - SHOWN} more: -o json has them all"


def _row(told: Told, candidate: Candidate) -> tuple[str, ...]:
    place = (candidate.address, candidate.port)
    share = _shares(told.said.arrivals).get(place)
    there = _shares(told.answer.outcome.arrivals).get(place) if told.answer else None
    why = candidate.why
    if candidate.used and share is None and told.said.verdict == TRANSLATED:
        why = why or "over the limit of endpoints of a service port"
    pod = candidate.target.split("/", 1)[-1] if candidate.target.startswith("Pod/") else candidate.target
    return (
        _place(candidate),
        percent(share) if share is not None else "-",
        percent(there) if there is not None else "-" if told.answer else "?",
        candidate.node or "-",
        pod or "-",
        why or "-",
    )


def _place(candidate: Candidate) -> str:
    host = f"[{candidate.address}]" if ":" in candidate.address and candidate.port else candidate.address
    return f"{host}:{candidate.port}" if candidate.port else host or "-"


def _kernel(told: Told) -> Iterator[str]:
    answer = told.answer
    if answer is None:
        yield f"Kernel    not known: {told.failure}"
        return
    outcome = answer.outcome
    yield f"Kernel    {_verdict(outcome.verdict)}{_ends(outcome)} ({answer.what})"
    if answer.remark:
        yield f"          {answer.remark}"
    yield from _some([f"  {number}. {step}" for number, step in enumerate(outcome.steps, 1)], "rules")
    yield from _some([f"     {element}" for element in answer.elements], "elements")


def _some(found: list[str], what: str) -> Iterator[str]:
    yield from found[:SHOWN]
    if len(found) > SHOWN:
        yield f"     and {len(found) - SHOWN} more {what}: -o json has them all"


def _ends(outcome: Outcome) -> str:
    ends = sorted(outcome.arrivals.items())
    if not ends:
        return ""
    if len(ends) > 1:
        return f" to one of {len(ends)}"
    arrival, _ = ends[0]
    return f" to {text(arrival)}, source {'masqueraded' if arrival.masqueraded else 'kept'}"


def _judgement(told: Told) -> Iterator[str]:
    if told.same is None:
        yield f"Verdict   by the records {_verdict(told.said.verdict)}; the kernel was not asked"
        return
    if told.same:
        yield _coloured(f"Verdict   the same in records and kernel: {_verdict(told.said.verdict)}", "green")
        return
    what = "records and kernel differ" if told.wrong else "the kernel's answer is not known"
    yield _coloured(f"Verdict   {what}", "red")
    yield from (f"          {wrong}" for wrong in told.wrong)
    yield f"          {_daemon(told)}"


def _daemon(told: Told) -> str:
    report = told.report
    if report is None:
        return f"{told.silence}: nobody brings the kernel to the records"
    age, error = float(report.get("oldest_unapplied_seconds") or 0), report.get("last_error")
    said = f"svcnet-proxy runs in mode {report.get('mode')}"
    if not report.get("ready", True):
        said += ", its first sync is not done"
    if age:
        said += f", its oldest change has waited for {age:.1f} s"
    return said + (f"; last error: {error}" if error else "")


def _verdict(verdict: str) -> str:
    return "passed on untouched" if verdict == PASSED else verdict


def _shares(arrivals: Mapping[Any, float]) -> dict[tuple[str, int], float]:
    return {(a.address, a.port): share for a, share in arrivals.items()}


def _aside(words: str) -> str:
    return f" ({words})" if words else ""


def _coloured(words: str, colour: str) -> str:
    return click.style(words, fg=colour) if table.colourful() else words


def as_json(told: Told) -> dict[str, Any]:
    """Return all of it for programs. Shares are of 1."""
    packet, said, answer = told.asked.packet, told.said, told.answer
    key = told.whose.port.key if told.whose.port else None
    return {
        "source": {"address": packet.source, "what": told.asked.source, "outgoing": packet.outgoing},
        "destination": {
            "address": packet.destination,
            "port": packet.port,
            "protocol": packet.protocol,
            "kind": told.whose.kind.value,
            "service": f"{key.namespace}/{key.service}" if key else None,
            "remark": told.whose.remark,
        },
        "records": {
            "verdict": said.verdict,
            "why": said.why,
            "choice": said.choice,
            "masquerade": said.masquerade,
            "arrivals": _arrivals(said.arrivals),
            "endpoints": [c._asdict() for c in told.candidates],
        },
        "kernel": None
        if answer is None
        else {
            "what": answer.what,
            "verdict": answer.outcome.verdict,
            "arrivals": _arrivals(answer.outcome.arrivals),
            "steps": list(answer.outcome.steps),
            "elements": list(answer.elements),
            "this_client_alone": answer.pinned,
            "remark": answer.remark,
        },
        "failure": told.failure,
        "same": told.same,
        "differences": list(told.wrong),
    }


def _arrivals(arrivals: Mapping[Any, float]) -> list[dict[str, Any]]:
    return [a._asdict() | {"share": share} for a, share in sorted(arrivals.items())]
