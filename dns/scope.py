"""Of a snapshot, what DNS serves: namespaces by name and by label, services by label. Pure.

Owns: what is let through, and what a namespace's labels change. Must not know records or zones.

What is not served isn't there: not for a question, not in a transfer. O(what changed): when a namespace comes into view
or leaves it, O(what is in it).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from immutables import Map
from msgspec.structs import replace

from svcnet.feed import changed
from svcnet.model.meta import Key, Pairs
from svcnet.model.selector import EVERYTHING, Selector
from svcnet.model.snapshot import Delta, Snapshot

if TYPE_CHECKING:
    from svcnet.model.service import Service

NAME_LABEL = "kubernetes.io/metadata.name"
"""Kubernetes gives it to every namespace: its name."""

Value = TypeVar("Value")


class Wanted(NamedTuple):
    """What is served; all three must hold. `namespaces` None: whatever the name."""

    namespaces: tuple[str, ...] | None = None
    namespace_labels: Selector = EVERYTHING
    service_labels: Selector = EVERYTHING


class Scope:
    """Told of every snapshot; says what of it is served, and what of that changed."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._by_label = wanted.namespace_labels != EVERYTHING
        self._whole = wanted == Wanted()
        self._begun = False
        self._inside: defaultdict[str, set[Key]] = defaultdict(set)
        """Namespace → all services and addresses in it, where its labels decide."""
        self._services: Map[Key, Service] = Map()
        self._census: Map[Key, Pairs] = Map()

    def follow(self, snapshot: Snapshot, delta: Delta) -> tuple[Snapshot, Delta]:
        """Return the snapshot without what is not served, and what changed of it."""
        if self._whole:
            return snapshot, delta
        keys = changed(delta) if self._begun else {*snapshot.services, *snapshot.census}
        self._begun = True
        if self._by_label:
            self._note(snapshot, keys)
            keys |= {inside for key in keys if self._turns(snapshot, key) for inside in self._inside[key.name]}
        old = self._services
        services = self._kept(old, snapshot.services, snapshot, (key for key in keys if key.kind == "Service"))
        known = {key for key in keys if key.kind != "Service"}
        census = self._kept(self._census, snapshot.census, snapshot, known)
        touched = (pair for key in sorted(keys - known) if (pair := (old.get(key), services.get(key))) != (None, None))
        turned = tuple(key for key in sorted(known) if (key in self._census) != (key in census))
        self._services, self._census = services, census
        return replace(snapshot, services=services, census=census), Delta(
            delta.rev, services=tuple(touched), census=turned
        )

    def _note(self, snapshot: Snapshot, keys: Iterable[Key]) -> None:
        for key in keys:
            if key.kind == "Namespace":
                continue
            if key in snapshot.services or key in snapshot.census:
                self._inside[key.namespace].add(key)
            else:
                self._inside[key.namespace].discard(key)
                if not self._inside[key.namespace]:
                    del self._inside[key.namespace]

    def _turns(self, snapshot: Snapshot, key: Key) -> bool:
        """Whether this is a namespace that comes into view, or leaves it."""
        return key.kind == "Namespace" and (key in self._census) != self._serves(snapshot, key)

    def _kept(
        self, old: Map[Key, Value], found: Map[Key, Value], snapshot: Snapshot, keys: Iterable[Key]
    ) -> Map[Key, Value]:
        """Return `old` with these keys as they are now."""
        kept = old.mutate()
        for key in keys:
            value = found.get(key)
            if value is not None and self._serves(snapshot, key):
                kept[key] = value
            elif key in kept:
                del kept[key]
        return kept.finish()

    def _serves(self, snapshot: Snapshot, key: Key) -> bool:
        """Whether what is there is served."""
        wanted = self._wanted
        namespace = key.name if key.kind == "Namespace" else key.namespace
        labels = snapshot.census.get(Key("Namespace", "", namespace))
        if labels is None or (wanted.namespaces is not None and namespace not in wanted.namespaces):
            return False
        if self._by_label and not wanted.namespace_labels(tuple(_named(labels, namespace))):
            return False
        return key.kind != "Service" or wanted.service_labels(snapshot.services[key].meta.labels)


def _named(labels: Pairs, namespace: str) -> Iterator[tuple[str, str]]:
    yield from labels
    yield NAME_LABEL, namespace
