"""What the proxy is asked to do, in its own terms.

Owns: the values that go from the daemon to the workers. Must not know records, and how the kernel paths see them.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

from svcnet.model.level import Level, Levels
from svcnet.model.terms import USUAL, Eject, EndpointLimit, Locality, Terms


class Backend(NamedTuple):
    """Where connections go: an address of the frontend's family, and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        """ADDRESS:PORT."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Weights = Mapping[Backend, int]
"""Backends with their weights, 1 or more."""


class Choice(Enum):
    """How one of the backends is chosen for a new connection."""

    TURN = "turn"
    """Round robin by weight."""
    CHANCE = "chance"
    """By lot, by weight."""
    LEAST = "least"
    """The one with less open connections, by weight, of two that are drawn by lot."""
    HASH = "hash"
    """By the client's address: the same on every minion."""
    AFFINITY = "affinity"
    """Where the client was last, for `Service.seconds` after its last new connection; 0: for ever."""


class Reach(Enum):
    """Which backends a frontend leads to."""

    ALL = "all"
    LOCAL = "local"
    """Those of this minion."""
    BY_SOURCE = "by source"
    """All for pods and the minion itself, those of this minion for everybody else."""
    NOBODY = "nobody"
    """None: whoever comes gets no answer at all."""


class Service(NamedTuple):
    """One service port in one family: what its frontends share. `name` tells it from all others."""

    name: str
    targets: Weights
    local: Weights = {}  # noqa: RUF012 - a constant: nobody writes to it
    choice: Choice = Choice.TURN
    seconds: int = 0
    terms: Terms = USUAL
    levels: Levels = ()
    """Which of the targets are near (annotation `locality`)."""


class Rule(NamedTuple):
    """What happens at one frontend. Without targets it is refused: nobody listens."""

    service: Service
    reach: Reach = Reach.ALL
    ranges: tuple[str, ...] = ()
    """Networks of clients that may come in, others get no answer; () is everyone."""

    @property
    def listens(self) -> bool:
        """Whether a socket is there; the kernel refuses what has none."""
        return self.reach is Reach.NOBODY or bool(self.service.targets)

    def share(self, number: int, workers: int) -> "Rule":
        """What one of several workers obeys: limits are shared out, at least 1 for each."""
        terms, limit = self.service.terms, self.service.terms.endpoint_limit
        if workers == 1 or (not terms.most_connections and not terms.most_rate and limit is None):
            return self

        def mine(most: int) -> int:
            return max(1, most // workers + (number < most % workers)) if most else 0

        if limit is not None:
            limit = limit._replace(connections=mine(limit.connections), queue=mine(limit.queue))
        most, rate = mine(terms.most_connections), mine(terms.most_rate)
        terms = terms._replace(most_connections=most, most_rate=rate, endpoint_limit=limit)
        return self._replace(service=self.service._replace(terms=terms))

    def encoded(self) -> list[Any]:
        """As JSON; without the ranges, which the daemon sees to."""
        name, targets, local, choice, seconds, terms, levels = self.service
        told = None if terms == USUAL else terms
        return [name, _encoded(targets), _encoded(local), choice.value, seconds, told, self.reach.value, levels]

    @classmethod
    def decoded(cls, row: list[Any]) -> "Rule":
        """What `encoded` gave."""
        name, targets, local, choice, seconds, told, reach, near = row
        terms = USUAL if told is None else _terms(told)
        levels = tuple(Level(tuple((a, p) for a, p in members), passing) for members, passing in near)
        service = Service(name, _decoded(targets), _decoded(local), Choice(choice), seconds, terms, levels)
        return cls(service, Reach(reach))


def _terms(told: list[Any]) -> Terms:
    terms = Terms(*told)
    eject = Eject(*terms.eject) if terms.eject is not None else None
    limit = EndpointLimit(*terms.endpoint_limit) if terms.endpoint_limit is not None else None
    locality = Locality(*terms.locality) if terms.locality is not None else None
    ladder, trusted = tuple(terms.connect_seconds), tuple(terms.accept_proxy)
    return terms._replace(
        connect_seconds=ladder, accept_proxy=trusted, eject=eject, endpoint_limit=limit, locality=locality
    )


def _encoded(weights: Weights) -> list[list[Any]]:
    return [[*backend, weight] for backend, weight in weights.items()]


def _decoded(rows: list[list[Any]]) -> Weights:
    return {Backend(address, port): weight for address, port, weight in rows}
