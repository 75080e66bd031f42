"""What the lab needs of a record store. Every store of svcnet has it; any object with these two methods does."""

from collections.abc import Callable
from typing import Protocol

from svcnet.lab.spec import LabSpec
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


Opener = Callable[[LabSpec, str], Registry]
"""Opens the store of a lab: (its spec, the store's URL) → the store."""
