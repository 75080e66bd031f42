"""What the lab needs of a record store. Every store of svcnet has it; any object with these methods does."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol, runtime_checkable

from svcnet.lab.spec import LabSpec
from svcnet.model.event import Event
from svcnet.model.meta import Key
from svcnet.model.record import Record


class Registry(Protocol):
    """Where pods and minions are registered. Errors: StoreError (can't be reached), RecordError, ConflictError."""

    def put(self, *records: Record, create: bool = False) -> tuple[Record, ...]:
        """Write records; return them as stored."""
        ...

    def delete(self, *keys: Key) -> tuple[Key, ...]:
        """Delete records; return the keys that existed."""
        ...


@runtime_checkable
class Watched(Registry, Protocol):
    """A registry that tells of changes: only with one of these a lab has controllers."""

    def watch(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield batches for ever, as svcnet.store.protocol says."""
        ...


Opener = Callable[[LabSpec, str], Registry]
"""Opens the store of a lab: (its spec, the store's URL) → the store."""
