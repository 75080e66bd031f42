"""What a store can do. One adapter a file; reconnect, compaction and resume stay inside the adapter."""

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from svcnet.model.event import Event, Problem
from svcnet.model.meta import Key
from svcnet.model.record import Record


class Listing(NamedTuple):
    """All records at one revision, sorted by key, and what could not be read."""

    rev: int
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]


class Store(Protocol):
    """Records, kept somewhere. Errors: StoreError (can't be reached), RecordError, ConflictError."""

    def list(self) -> Listing:
        """Return everything once. Services carry their claimed addresses and node ports."""
        ...

    def watch(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield batches for ever: the first list ends with Synced, then changes as they come.

        Never raises for a store that can't be reached: yields Away, retries inside, and yields a new Synced
        (after the Puts that differ) once it is back.
        """
        ...

    def put(self, *records: Record, create: bool = False) -> tuple[Record, ...]:
        """Write records; claim addresses that services lack; return them as stored.

        `create`: ConflictError when a record of that key exists (nothing is written then).
        """
        ...

    def delete(self, *keys: Key) -> tuple[Key, ...]:
        """Delete records and give up their claims; return the keys that existed."""
        ...
