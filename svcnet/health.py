"""Active health checks: which endpoints are asked what, when, and when one is out. Pure; time and chance are arguments.

Owns: the annotation's meaning, rise and fall, the order of checks. Must not know sockets, or what becomes of an
endpoint that fails.

An endpoint serves until its first check, which decides alone: a daemon that was just started learns at once who is
dead. From then on it takes `fall` failures in a row to go and `rise` passes to come back.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from svcnet.model.check import Check, Probe
from svcnet.model.event import Verdict
from svcnet.model.meta import Key, pair_get
from svcnet.model.pod import Pod
from svcnet.model.service import Service
from svcnet.model.snapshot import Endpoint
from svcnet.terms import options, seconds

HEALTH = "svcnet.dev/health"
SEND_PROXY = "svcnet.dev/send-proxy"
FIRST_SECONDS = 0.2
"""New endpoints are asked within this time: all of them in the same moment would be a herd."""
LEAST_SECONDS = 0.1
"""Between two checks of an endpoint, whatever a record asks."""
JITTER = 0.1
"""Of an interval, to both sides, so that checks of many minions don't fall together."""


def check_of(text: str, introduction: str = "") -> Check | None:
    """What an annotation asks: `tcp`, `http:/PATH`, `script:NAME`, with options after commas; None for `off` and "".

    `introduction`: the PROXY header that endpoints expect unless it says otherwise: `v1`, `v2`, `off` or "".
    ValueError for what the codec refuses.
    """
    probe, _, more = text.partition(",")
    if probe in {"", "off"}:
        return None
    kind, _, what = probe.partition(":")
    found = {"send-proxy": introduction, **(options(more, _READERS) if more else {})}
    values = {_FIELDS.get(name, name): value for name, value in found.items() if name not in {"send-proxy", "panic"}}
    if kind == "script":
        return Check(script=what, **values)
    return Check(what, introduction="" if found["send-proxy"] == "off" else found["send-proxy"], **values)


def is_panic(service: Service, passing: int, of: int) -> bool:
    """Whether so few of a port's endpoints pass their checks that the checks are not believed (option `panic`)."""
    more = pair_get(service.meta.annotations, HEALTH).partition(",")[2]
    least: int = options(more, _READERS).get("panic", 0) if more else 0
    return passing * 100 < least * of


_READERS: dict[str, Callable[[str], Any]] = {
    "interval": seconds,
    "timeout": seconds,
    "rise": int,
    "fall": int,
    "panic": int,
    "send-proxy": str,
}
_FIELDS = {"interval": "interval_seconds", "timeout": "timeout_seconds"}


def probes_of(
    service: Service, protocol: str, endpoints: Iterable[Endpoint], pods: Iterable[Pod], node: str
) -> dict[tuple[str, int], Probe]:
    """Which of a port's endpoints the minion `node` checks: its own, and those that no minion has; (address, port).

    Only TCP can be asked; endpoints that the records call not ready are out anyway, and a service that publishes them
    all the same wants no check. A pod's own annotation comes before its service's. A check says first what the proxy
    says first to endpoints: they would wait for it.
    """
    asked = pair_get(service.meta.annotations, HEALTH) if service.meta.annotations else ""
    own = {f"Pod/{pod.meta.namespace}/{pod.meta.name}": pod.meta.annotations for pod in pods if pod.meta.annotations}
    if not (asked or own) or protocol != "TCP" or service.publish_not_ready_addresses:
        return {}
    introduction = pair_get(service.meta.annotations, SEND_PROXY)
    found: dict[tuple[str, int], Probe] = {}
    for e in endpoints:
        if e.ready and e.port and e.node in {"", node}:
            check = check_of(pair_get(own.get(e.target, ()), HEALTH, asked), introduction)
            if check is not None:
                found[e.address, e.port] = Probe(e.address, e.port, check, own=bool(e.node))
    return found


ASKED = -1
"""In the place of a number in the queue: a check is being made."""


class _Standing:
    """How one endpoint stands in one check."""

    __slots__ = ("is_proven", "services", "streak", "turn", "why")

    def __init__(self) -> None:
        self.services: set[Key] = set()
        self.is_proven = False
        """Whether it was asked at all."""
        self.turn = ASKED
        """Its place in the queue, or ASKED."""
        self.streak = 0
        """So many answers in a row that speak against what is said of it."""
        self.why = ""
        """What is said of it: why it is out, or ""."""


class Schedule:
    """Every check of one minion. Ask `due`, make those checks, tell what came of each."""

    def __init__(self) -> None:
        self._standings: dict[Probe, _Standing] = {}
        self._of: dict[Key, frozenset[Probe]] = {}
        self._queue: list[tuple[float, int, Probe]] = []
        self._order = count()
        self.failing = 0
        """How many of them have taken their endpoint out."""

    def __len__(self) -> int:
        """How many checks there are."""
        return len(self._standings)

    def follow(self, service: Key, probes: frozenset[Probe], now: float, chance: Iterator[float]) -> list[Verdict]:
        """A service wants these from now on; what is known of them already. `chance`: numbers from 0 to 1."""
        before = self._of.get(service, frozenset())
        known: list[Verdict] = []
        for gone in sorted(before - probes):
            standing = self._standings[gone]
            standing.services.discard(service)
            if standing.why:
                known.append(Verdict(service, gone.address, gone.port, ""))
            if not standing.services:
                self.failing -= bool(standing.why)
                del self._standings[gone]  # its place in the queue is passed over when it comes
        for new in sorted(probes - before):
            there = self._standings.get(new)
            if there is None:
                there = self._standings[new] = _Standing()
                self._queue_up(new, there, now + next(chance) * min(FIRST_SECONDS, new.check.interval_seconds))
            there.services.add(service)
            if there.why:
                known.append(Verdict(service, new.address, new.port, there.why))
        if probes:
            self._of[service] = probes
        else:
            self._of.pop(service, None)
        return known

    def services(self, probe: Probe) -> list[Key]:
        """Who wants a check."""
        standing = self._standings.get(probe)
        return sorted(standing.services) if standing is not None else []

    def of_scripts(self) -> Iterator[tuple[Key, str]]:
        """(service, name) of every check by a script. O(all)."""
        for service, probes in self._of.items():
            for name in sorted({probe.check.script for probe in probes if probe.check.script}):
                yield service, name

    def next_at(self) -> float | None:
        """When the next check is due; None: there is none."""
        while self._queue and not self._is_wanted(self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def due(self, now: float) -> list[Probe]:
        """Those to make now; each until `told` was called for it, or it is not wanted any more."""
        found: list[Probe] = []
        while (at := self.next_at()) is not None and at <= now:
            probe = heapq.heappop(self._queue)[2]
            self._standings[probe].turn = ASKED
            found.append(probe)
        return found

    def told(self, probe: Probe, why: str, now: float, chance: Iterator[float]) -> list[Verdict]:
        """A check failed for a reason, or passed (""); what that changes."""
        standing = self._standings.get(probe)
        if standing is None or standing.turn != ASKED:  # not wanted any more, or asked for anew meanwhile
            return []
        check = probe.check
        self._ask_again(probe, standing, now, next(chance))
        was_proven, standing.is_proven = standing.is_proven, True
        if bool(why) == bool(standing.why):
            standing.streak = 0
            return []
        standing.streak += 1
        if was_proven and standing.streak < (check.fall if why else check.rise):
            return []
        self.failing += bool(why) - bool(standing.why)
        standing.streak, standing.why = 0, why
        return [Verdict(service, probe.address, probe.port, why) for service in sorted(standing.services)]

    def missed(self, probe: Probe, now: float, chance: Iterator[float]) -> None:
        """A check could not be made: it says nothing of the endpoint."""
        standing = self._standings.get(probe)
        if standing is not None and standing.turn == ASKED:
            self._ask_again(probe, standing, now, next(chance))

    def _ask_again(self, probe: Probe, standing: _Standing, now: float, chance: float) -> None:
        interval = max(LEAST_SECONDS, probe.check.interval_seconds)
        self._queue_up(probe, standing, now + interval * (1 + JITTER * (2 * chance - 1)))

    def _queue_up(self, probe: Probe, standing: _Standing, at: float) -> None:
        standing.turn = next(self._order)
        heapq.heappush(self._queue, (at, standing.turn, probe))

    def _is_wanted(self, entry: tuple[float, int, Probe]) -> bool:
        standing = self._standings.get(entry[2])
        return standing is not None and standing.turn == entry[1]
