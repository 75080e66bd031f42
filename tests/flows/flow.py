"""A row of the packet table: who connects to what, and what becomes of it, in words.

Owns: the words, and the comparison of what was expected with what was seen. Must not know how anything is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

Verdict = Literal["answered", "refused", "dropped"]
Source = Literal["kept", "masqueraded"]

SHARE_TOLERANCE = 1e-9


class Arrival(NamedTuple):
    """Where a connection ended: `place` is HOST:PORT, `source` says whose address was seen there."""

    place: str
    source: str

    def __str__(self) -> str:
        """As in a sentence."""
        return f"{self.place} (source {self.source})"


@dataclass(frozen=True)
class Expectation:
    """What becomes of a packet; of many packets to one address, for `arrivals` has weights."""

    verdict: Verdict
    arrivals: Mapping[Arrival, int] = field(default_factory=dict)
    stays: bool = False
    """All of a client's connections end at one of the arrivals, whichever."""

    def __or__(self, other: "Expectation") -> "Expectation":
        """Either of two ends."""
        assert self.verdict == other.verdict == "answered"
        return Expectation("answered", {**self.arrivals, **other.arrivals})


@dataclass(frozen=True)
class Seen:
    """What became of all packets of a row: every verdict, and each arrival with its share of 1.

    `exact`: the shares are worked out; else they are counted, and say no more than that something arrived.
    """

    verdicts: frozenset[str]
    arrivals: Mapping[Arrival, float]
    exact: bool


REFUSED = Expectation("refused")
DROPPED = Expectation("dropped")


def to(*places: str, source: Source = "kept") -> Expectation:
    """One of these HOST:PORT is reached; HOST:PORT*3 has three times the share of the others."""
    arrivals = {}
    for text in places:
        place, _, weight = text.partition("*")
        arrivals[Arrival(place, source)] = int(weight or 1)
    return Expectation("answered", arrivals)


def one_of(*places: str, source: Source = "kept") -> Expectation:
    """One of these HOST:PORT is reached, and only that one however often."""
    return replace(to(*places, source=source), stays=True)


def untouched(place: str) -> Expectation:
    """Not translated: the address itself answers, and sees the client's own address."""
    return to(place)


@dataclass(frozen=True, eq=False)
class Flow:
    """One row. `destination` is SERVICE:PORT (in another namespace NAMESPACE/SERVICE:PORT) or HOST:PORT.

    `tries` is the least number of connections; more are made until everything that may be reached was.
    `needs` names what a kernel must have to run it (tests/conftest.py).
    """

    name: str
    source: str
    destination: str
    expect: Expectation
    protocol: str = "tcp"
    world: str = "cluster-cidr"
    families: tuple[int, ...] = (4, 6)
    tries: int = 4
    needs: tuple[str, ...] = ()


class Case(NamedTuple):
    """A row in one family, 4 or 6."""

    flow: Flow
    family: int

    def __str__(self) -> str:
        """The test's id."""
        return f"{self.flow.name} (IPv{self.family})"


def complaint(expected: Expectation, seen: Seen) -> str:
    """What is wrong, or ""."""
    if expected.stays and not seen.exact:
        known = seen.verdicts == {expected.verdict} and seen.arrivals.keys() <= expected.arrivals.keys()
        if known and len(seen.arrivals) == 1:
            return ""
        wanted = ", ".join(sorted(map(str, expected.arrivals)))
        return f"expected one of {wanted}; saw {_sentence(seen.verdicts, seen.arrivals)}"
    if seen.verdicts != {expected.verdict} or seen.arrivals.keys() != expected.arrivals.keys():
        wanted = _sentence({expected.verdict}, expected.arrivals)
        return f"expected {wanted}; saw {_sentence(seen.verdicts, seen.arrivals)}"
    total = sum(expected.arrivals.values())
    for arrival, weight in expected.arrivals.items():
        if seen.exact and not expected.stays and abs(seen.arrivals[arrival] - weight / total) > SHARE_TOLERANCE:
            return f"{arrival}: expected a share of {weight}/{total}, saw {seen.arrivals[arrival]:.3f}"
    return ""


def _sentence(verdicts: set[Verdict] | frozenset[str], arrivals: Mapping[Arrival, float]) -> str:
    where = f" by {', '.join(sorted(map(str, arrivals)))}" if arrivals else ""
    return " and ".join(sorted(verdicts)) + where
