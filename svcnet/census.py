"""Which namespaces exist, and which addresses the pods of each have: what DNS knows besides services. Pure.

Owns: the counts. A namespace exists when a Namespace record or any record in it does (contract); an address is there
while a pod of the namespace has it and has not ended.
"""

from collections import Counter

from svcnet.model.meta import Key
from svcnet.model.node import Namespace
from svcnet.model.pod import Pod
from svcnet.model.record import Record

ENDED = frozenset({"Succeeded", "Failed"})


class Census:
    """Told of every record that comes, changes or goes; says what is there for the first time, and no longer."""

    def __init__(self) -> None:
        self._number: Counter[Key] = Counter()
        self._before: dict[Key, bool] = {}

    def note(self, old: Record | None, new: Record | None) -> None:
        """A record was `old` and is `new`; None: absent."""
        less, more = _what(old), _what(new)
        for key in less ^ more:
            self._before.setdefault(key, key in self._number)
            self._number[key] += 1 if key in more else -1
            if not self._number[key]:
                del self._number[key]

    def changes(self) -> dict[Key, bool]:
        """What came (True) and went since this was asked last: kind Namespace, or Address with the address as name."""
        before, self._before = self._before, {}
        return {key: key in self._number for key, was in sorted(before.items()) if was != (key in self._number)}


def _what(record: Record | None) -> set[Key]:
    if record is None:
        return set()
    place = record.meta.name if isinstance(record, Namespace) else record.key.namespace
    found = {Key("Namespace", "", place)} if place else set()
    if isinstance(record, Pod) and not record.deletion and record.phase not in ENDED:
        found |= {Key("Address", place, address) for address in record.ips}
    return found
