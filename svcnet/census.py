"""Which namespaces exist, and which addresses the pods of each have: what DNS knows besides services. Pure.

Owns: the counts, and the labels of namespaces. A namespace exists when a Namespace record or any record in it does
(contract); an address is there while a pod of the namespace has it and has not ended.
"""

from svcnet.model.meta import Key, Pairs
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Pod
from svcnet.model.record import Record

_NAMESPACE, _ADDRESS = "Namespace", "Address"
ENDED = frozenset({"Succeeded", "Failed"})


class Census:
    """Told of every record that comes, changes or goes; says what is there for the first time, and no longer."""

    def __init__(self) -> None:
        self._number: dict[Key, int] = {}
        self._labels: dict[str, Pairs] = {}
        """Of the namespaces that have some."""
        self._before: dict[Key, Pairs | None] = {}

    def note(self, old: Record | None, new: Record | None) -> None:
        """A record was `old` and is `new`, of the same key; None: absent."""
        record = new or old
        if record is None:
            return
        place = record.meta.name if isinstance(record, Namespace) else record.meta.namespace
        if isinstance(record, Namespace):
            self._label(place, new.meta.labels if new is not None else ())
        step = (new is not None) - (old is not None)
        if step and place and not isinstance(record, Node):
            self._count(_NAMESPACE, "", place, step)
        if isinstance(record, Pod):
            had, has = _addresses(old), _addresses(new)
            if had != has:
                for address in had:
                    self._count(_ADDRESS, place, address, -1)
                for address in has:
                    self._count(_ADDRESS, place, address, 1)

    def changes(self) -> dict[Key, Pairs | None]:
        """What came, went or has other labels since this was asked last.

        Kind Namespace with its labels, or Address with the address as name and (); None is gone.
        """
        before, self._before = self._before, {}
        now = {key: self._state(key) for key in before}
        return {key: state for key, state in now.items() if state != before[key]}

    def _state(self, key: Key) -> Pairs | None:
        if key not in self._number:
            return None
        return self._labels.get(key.name, ()) if key.kind == _NAMESPACE else ()

    def _label(self, namespace: str, labels: Pairs) -> None:
        if labels != self._labels.get(namespace, ()):
            key = Key(_NAMESPACE, "", namespace)
            self._before.setdefault(key, self._state(key))
            if labels:
                self._labels[namespace] = labels
            else:
                del self._labels[namespace]

    def _count(self, kind: str, namespace: str, name: str, step: int) -> None:
        key = Key(kind, namespace, name)
        number = self._number.get(key, 0)
        if number in {0, -step}:  # it comes, or goes
            self._before.setdefault(key, self._state(key))
        if number + step:
            self._number[key] = number + step
        else:
            del self._number[key]


def _addresses(pod: Record | None) -> tuple[str, ...]:
    if not isinstance(pod, Pod) or pod.deletion or pod.phase in ENDED:
        return ()
    return pod.ips
