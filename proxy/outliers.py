"""Which backends of a service fail dials, and are left alone for a while (contract, `eject`). Pure.

Owns: who is out. The rules:

* So many failed dials in a row, and a backend is out: for `base_seconds`, twice as long each next time, at most
  `most_seconds`. Afterwards one more failure is enough, until it has answered once.
* What it is remembered by decays: one time less for each `base_seconds` that passed since it was last out.
* At most `share` per cent are out. When more should be, nobody is: then it is not single backends that fail, and the
  few others would be overrun (Envoy calls that panic).
"""

from typing import NamedTuple

from svcnet.model.terms import Eject
from svcnet.proxy.row import Backend


class _Past(NamedTuple):
    """`times`: how often it was out; `until`: when it came, or comes, back."""

    times: int
    until: float


class Outliers:
    """Of one service and worker."""

    def __init__(self) -> None:
        self._terms: Eject | None = None
        self._past: dict[Backend, _Past] = {}
        self.condemned: frozenset[Backend] = frozenset()
        """Who should be out, be it that too many are."""
        self._most = 0
        self.strikes: dict[Backend, int] = {}
        """Failed dials since the last that was answered, of those who have some."""
        self.out: frozenset[Backend] = frozenset()
        """Who gets no new connections now."""

    @property
    def is_panic(self) -> bool:
        """Whether more should be out than may be."""
        return len(self.condemned) > self._most

    def update(self, terms: Eject | None, backends: frozenset[Backend]) -> None:
        """From now on these."""
        self._terms = terms
        self._most = len(backends) * terms.share // 100 if terms is not None else 0
        for known in (self._past, self.strikes):
            for gone in known.keys() - backends:
                known.pop(gone)
        self.condemned = self.condemned & backends if terms is not None else frozenset()
        self._decide()

    def failed(self, backend: Backend, now: float) -> float | None:
        """A dial failed. For how many seconds it is out from now on; None: it is not, or was before."""
        terms = self._terms
        if terms is None:
            return None
        strikes = self.strikes[backend] = self.strikes.get(backend, 0) + 1
        if strikes < terms.failures or backend in self.condemned:
            return None
        past = self._past.get(backend, _Past(0, now))
        times = max(0, past.times - int(max(0.0, now - past.until) / terms.base_seconds))
        seconds = min(terms.most_seconds, terms.base_seconds * 2.0 ** min(times, 64))
        self._past[backend] = _Past(times + 1, now + seconds)
        self.condemned |= {backend}
        self._decide()
        return seconds

    def answered(self, backend: Backend) -> None:
        """A dial was answered. One from before it went out says nothing of now."""
        if backend not in self.out:
            self.strikes.pop(backend, None)
            if backend in self.condemned:
                self.condemned -= {backend}
                self._decide()

    def look(self, now: float) -> None:
        """Let those back whose time is over."""
        self.condemned = frozenset(b for b in self.condemned if self._past[b].until > now)
        self._decide()

    def _decide(self) -> None:
        self.out = frozenset() if self.is_panic else self.condemned
