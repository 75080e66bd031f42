"""Slow start: an endpoint that is new, or back, gets its share bit by bit (contract, `slow-start`). Pure.

Owns: what part of its weight each has now.
"""

from svcnet.proxy.row import Backend, Weights

STEPS = 10
"""From its first connection to its share: a tenth of its weight more at a time."""


class Ramp:
    """Of one service and worker. `seconds`: how long it takes; 0: no time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun: dict[Backend, float] = {}

    @property
    def step_seconds(self) -> float:
        """How long one step lasts; 0: nobody is on the way."""
        return self.seconds / STEPS if self._begun else 0.0

    def begin(self, backend: Backend, now: float) -> None:
        """It is new, or back."""
        if self.seconds:
            self._begun[backend] = now

    def look(self, now: float) -> None:
        """Forget who has arrived."""
        if self._begun:
            self._begun = {b: at for b, at in self._begun.items() if now - at < self.seconds}

    def scaled(self, weights: Weights, now: float) -> Weights:
        """What they weigh now, in proportion to each other."""
        if not self._begun or self._begun.keys().isdisjoint(weights):
            return weights
        return {b: weight * self._tenths(b, now) for b, weight in weights.items()}

    def _tenths(self, backend: Backend, now: float) -> int:
        at = self._begun.get(backend)
        return STEPS if at is None else min(STEPS, 1 + int((now - at) / self.seconds * STEPS))
