"""Of a service port's endpoints, those that this minion uses: for everybody, and what must stay on the minion. Pure.

Owns: readiness, hints, preferences. The order is kube-proxy's (facts: EndpointSlice conditions; KEP-1669, KEP-2433,
KEP-3015): topology narrows the ready ones; when none at all is ready, those serve that still do while they end.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from svcnet.model.snapshot import Endpoint


class Hint(NamedTuple):
    """EndpointSlice.endpoints[].hints: whom an endpoint is meant for."""

    nodes: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where this minion is: its name, and its zone ("" unknown)."""

    node: str = ""
    zone: str = ""


Hints = Mapping[tuple[str, int], Hint]
"""By (address, port); an endpoint without hints is not in it."""


def everywhere(found: Sequence[Endpoint], place: Place, hints: Hints, preference: str) -> list[Endpoint]:
    """Scope `all`. `preference` is Service.spec.trafficDistribution, which counts where no endpoint has a hint."""
    ready = [e for e in found if e.ready]
    if not ready:
        return [e for e in found if e.serving and e.terminating]
    if hints:
        return _hinted(ready, place, hints)
    return _preferred(ready, place, preference) if preference else ready


def here(found: Sequence[Endpoint], place: Place) -> list[Endpoint]:
    """Scope `local`: the same two steps on this minion's own; hints don't count."""
    mine = [e for e in found if e.node and e.node == place.node]
    return [e for e in mine if e.ready] or [e for e in mine if e.serving and e.terminating]


def _hinted(ready: list[Endpoint], place: Place, hints: Hints) -> list[Endpoint]:
    """All must have hints, and one must mean us: half a set of hints would send everybody to the same few."""
    of = [(e, hints.get((e.address, e.port), Hint())) for e in ready]
    if all(hint.nodes for _, hint in of):
        ours = [e for e, hint in of if place.node in hint.nodes]
        if ours:
            return ours
    if place.zone and all(hint.zones for _, hint in of):
        ours = [e for e, hint in of if place.zone in hint.zones]
        if ours:
            return ours
    return ready


def _preferred(ready: list[Endpoint], place: Place, preference: str) -> list[Endpoint]:
    """PreferSameNode: this minion, else its zone; PreferSameZone and its older name PreferClose: the zone; else all."""
    if preference == "PreferSameNode":
        ours = [e for e in ready if e.node and e.node == place.node]
        if ours:
            return ours
    return [e for e in ready if e.zone and e.zone == place.zone] or ready
