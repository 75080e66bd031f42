"""What the records say against what the kernel would do now. Pure.

Owns: the verdict, and the words for every way in which the two can differ.
"""

from collections.abc import Iterator

from svcnet.iptables.tracer import Arrival, Outcome
from svcnet.trace.expectation import TRANSLATED, Said

TOLERANCE = 1e-3
"""Of a share: iptables prints probabilities with 11 digits, and slots can't express every weight."""


def differences(said: Said, outcome: Outcome, *, pinned: bool) -> list[str]:
    """In how far they differ; [] is the same. `pinned`: the kernel's answer is for this one client, not for all."""
    if said.verdict != outcome.verdict:
        return [f"by the records it is {said.verdict}, in the kernel {outcome.verdict}"]
    if said.verdict != TRANSLATED:
        return []
    return list(_arrivals(said, outcome, pinned=pinned))


def _arrivals(said: Said, outcome: Outcome, *, pinned: bool) -> Iterator[str]:
    wanted = {(a.address, a.port): (a, share) for a, share in said.arrivals.items()}
    found = {(a.address, a.port): (a, share) for a, share in outcome.arrivals.items()}
    for place in sorted(found.keys() - wanted.keys()):
        yield f"the kernel sends to {text(found[place][0])}, which the records don't have"
    for place in sorted(wanted.keys() - found.keys()) if not pinned else ():
        yield f"the kernel never sends to {text(wanted[place][0])}"
    for place in sorted(wanted.keys() & found.keys()):
        (want, share), (there, its) = wanted[place], found[place]
        if want.masqueraded != there.masqueraded:
            yield f"to {text(want)} the source is {_source(there)} in the kernel, by the records {_source(want)}"
        if said.exact and not pinned and abs(share - its) > TOLERANCE:
            yield f"{text(want)} has {percent(its)} in the kernel, by the records {percent(share)}"


def text(arrival: Arrival) -> str:
    """ADDRESS:PORT."""
    host = f"[{arrival.address}]" if ":" in arrival.address else arrival.address
    return f"{host}:{arrival.port}"


def percent(share: float) -> str:
    """A share as a person reads it."""
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + " %"


def _source(arrival: Arrival) -> str:
    return "masqueraded" if arrival.masqueraded else "kept"
