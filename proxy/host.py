"""What a connection knows of the frontend that it came to."""

from typing import Protocol

from svcnet.proxy.counts import Tally
from svcnet.proxy.origin import Introduction
from svcnet.proxy.row import Backend


class Host(Protocol):
    """The frontend that a connection came to."""

    name: str
    """Of the service."""
    idle_seconds: float
    half_closed_seconds: float
    introduction: Introduction | None
    """Of a backend's clients to it; only for relays with an origin."""

    def tally(self, backend: Backend) -> Tally:
        """Where what happens with a backend is counted."""
        ...

    @property
    def own_tally(self) -> Tally:
        """Where what happens without one is."""
        ...
