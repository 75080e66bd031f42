"""One change in a store."""

import msgspec

from svcnet.model.meta import Key
from svcnet.model.record import Record


class Put(msgspec.Struct, frozen=True):
    """A record is new or changed."""

    record: Record
    rev: int


class Delete(msgspec.Struct, frozen=True):
    """A record was deleted while the store was watched: never held by the brake."""

    key: Key
    rev: int


class Problem(msgspec.Struct, frozen=True):
    """Something in the store that can't be served: a broken file, a record twice, an address taken.

    `where` names it (file, file:line, or key) and is its identity; an empty `what` means that it is mended.
    """

    where: str
    what: str


class Synced(msgspec.Struct, frozen=True):
    """A list is complete at `rev`. `keys` are all records that exist; what the reader knows beyond them is gone.

    The brake looks at this event: a list that lacks most services is held.
    """

    rev: int
    keys: frozenset[Key]


class Away(msgspec.Struct, frozen=True):
    """The store can't be reached since the last event; the last state serves on. The next Synced ends it."""

    reason: str


class Verdict(msgspec.Struct, frozen=True):
    """What health checks say of an endpoint of a service: `why` it fails, or "" that it passes.

    `node`: the minion that says it, of its own endpoints; "" is this one.
    """

    service: Key
    address: str
    port: int
    why: str
    node: str = ""


Event = Put | Delete | Problem | Synced | Away | Verdict
