"""Current state and wanted state → what to do, as a value that can be read before it is done.

Owns: the difference. Knows neither what a key is nor how a change is carried out; keys sort.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


EXCERPT_LINES, LINE_LENGTH = 20, 200
"""What an excerpt has at most."""


class Excerpt(NamedTuple):
    """The first lines of a plan, and how many changes it has in all."""

    lines: tuple[str, ...] = ()
    total: int = 0


NOTHING = Excerpt()


class Change(NamedTuple, Generic[K, V]):
    """One key: `before` is None for a create, `after` for a delete."""

    key: K
    before: V | None
    after: V | None

    def __str__(self) -> str:
        """+ key → after, - key → before, ~ key → before ⇒ after."""
        if self.before is None:
            return f"+ {self.key} → {self.after}"
        if self.after is None:
            return f"- {self.key} → {self.before}"
        return f"~ {self.key} → {self.before} ⇒ {self.after}"


class Plan(NamedTuple, Generic[K, V]):
    """Sorted changes: deletes, creates, updates."""

    deletes: tuple[Change[K, V], ...] = ()
    creates: tuple[Change[K, V], ...] = ()
    updates: tuple[Change[K, V], ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.deletes or self.creates or self.updates)

    def __len__(self) -> int:
        """Number of changes."""
        return len(self.deletes) + len(self.creates) + len(self.updates)

    def changes(self) -> Iterator[Change[K, V]]:
        """All of them, deletes first: an address that moves between services is free before it is taken."""
        yield from self.deletes
        yield from self.creates
        yield from self.updates

    def excerpt(self) -> Excerpt:
        """A bounded part of what `render` says."""
        texts = (str(change) for change in islice(self.changes(), EXCERPT_LINES))
        return Excerpt(tuple(t if len(t) <= LINE_LENGTH else f"{t[: LINE_LENGTH - 1]}…" for t in texts), len(self))

    def render(self) -> str:
        """One line a change, and a last line that counts."""
        lines = [str(c) for c in self.changes()]
        count = f"{len(self.creates)} to create, {len(self.updates)} to update, {len(self.deletes)} to delete"
        return "\n".join([*lines, count])


def diff(current: Mapping[Any, Any], desired: Mapping[Any, Any]) -> Plan[Any, Any]:
    """What turns `current` into `desired`. O(len(current) + len(desired)): pass the changed part alone."""
    deletes = [Change(k, v, None) for k, v in current.items() if k not in desired]
    creates, updates = [], []
    for key, after in desired.items():
        before = current.get(key)
        if before is None:
            creates.append(Change(key, None, after))
        elif before != after:
            updates.append(Change(key, before, after))
    return Plan(tuple(sorted(deletes, key=_key)), tuple(sorted(creates, key=_key)), tuple(sorted(updates, key=_key)))


def _key(change: Change[Any, Any]) -> Any:
    return change.key
