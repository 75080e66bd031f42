"""Label selectors: Kubernetes' syntax, equality and sets.

Owns: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas; all must hold. Pure.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from svcnet.model.meta import Pairs

_KEY = r"(?P<key>[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?)"
_VALUE = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|"
_FORMS = (
    re.compile(rf"{_KEY}\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)"),
    re.compile(rf"{_KEY}\s*(?P<word>==?|!=)\s*(?P<values>{_VALUE})"),
    re.compile(rf"(?P<word>!?)\s*{_KEY}"),
)
_COMMA = re.compile(r",(?![^()]*\))")
SYNTAX = "KEY=VALUE, KEY!=VALUE, KEY in (A,B), KEY notin (A,B), KEY or !KEY, separated by commas"


class Term(NamedTuple):
    """One condition. `values` None: the key alone counts."""

    key: str
    values: frozenset[str] | None
    wanted: bool

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether labels meet it; as in Kubernetes `!=` and `notin` hold when the key is absent."""
        if self.values is None:
            return (self.key in labels) == self.wanted
        return (labels.get(self.key) in self.values) == self.wanted


@dataclass(frozen=True, slots=True)
class Selector:
    """A predicate on labels; without terms it takes all."""

    text: str = ""
    """As it was given."""
    terms: tuple[Term, ...] = ()

    def __call__(self, labels: Pairs) -> bool:
        """Whether labels meet every term."""
        return all(term.holds(dict(labels)) for term in self.terms)


EVERYTHING = Selector()


def parse(text: str) -> Selector:
    """Return what a selector says; "" takes all. ValueError: what can't be read."""
    text = text.strip()
    return Selector(text, tuple(_term(part.strip()) for part in _COMMA.split(text)) if text else ())


def _term(text: str) -> Term:
    for form in _FORMS:
        if match := form.fullmatch(text):
            word, values = match["word"], match.groupdict().get("values")
            if values is None:
                return Term(match["key"], None, word != "!")
            named = frozenset(value.strip() for value in values.split(","))
            if all(re.fullmatch(_VALUE, value) for value in named):
                return Term(match["key"], named, word not in {"!=", "notin"})
    raise ValueError(f"{text!r} is no label selector, expected {SYNTAX}")
