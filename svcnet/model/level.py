"""How near endpoints are: the steps in which a minion goes from the nearest to all others."""

from typing import NamedTuple


class Level(NamedTuple):
    """Endpoints that are equally near."""

    members: tuple[tuple[str, int], ...]
    """(address, port), sorted; those that fail health checks are not among them."""
    passing: float = 1.0
    """What part of the level they are, by weight: the rest of it fails health checks."""


Levels = tuple[Level, ...]
"""The nearest first; () where it does not matter who is near."""
