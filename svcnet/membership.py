"""Which pods a selector matches, and which services a pod belongs to: kept both ways as either changes. Pure.

Owns: the label indexes. A pod looks at services filed under one of its own labels, a new selector at the pods of its
rarest label; neither looks at all of the other side.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from svcnet.model.meta import Key, Pairs, matches
from svcnet.model.pod import Pod

K = TypeVar("K")
Label = tuple[str, str, str]
"""(namespace, key, value)."""


class Membership:
    """Services and pods, joined by labels."""

    def __init__(self) -> None:
        self._selectors: dict[Key, Pairs] = {}
        self._filed: dict[Key, Label] = {}
        self._by_label: defaultdict[Label, set[Key]] = defaultdict(set)
        self._pods: dict[Key, Pod] = {}
        self._pods_by_label: defaultdict[Label, set[Key]] = defaultdict(set)
        self._pods_of: dict[Key, set[Key]] = {}
        self._services_of: dict[Key, set[Key]] = {}

    def pods(self, service: Key) -> list[Pod]:
        """The pods that a service selects, sorted by name."""
        return [self._pods[key] for key in sorted(self._pods_of.get(service, ()))]

    def set_service(self, key: Key, selector: Pairs) -> None:
        """A service has this selector now; () selects nothing."""
        if self._selectors.get(key, ()) == selector:
            return
        self._selectors.pop(key, None)
        filed = self._filed.pop(key, None)
        if filed:
            _discard(self._by_label, filed, key)
        for pod in self._pods_of.pop(key, ()):
            _discard(self._services_of, pod, key)
        if not selector:
            return
        labels = [(key.namespace, *pair) for pair in selector]
        # Under the label that fewest services are filed under: `env=prod` on all of them must not slow any.
        rarest = min(labels, key=lambda label: len(self._by_label.get(label, ())))
        self._selectors[key], self._filed[key] = selector, rarest
        self._by_label[rarest].add(key)
        pods = min((self._pods_by_label.get(label, set()) for label in labels), key=len)
        for pod in pods:
            if matches(selector, self._pods[pod].meta.labels):
                self._join(key, pod)

    def set_pod(self, key: Key, pod: Pod | None) -> set[Key]:
        """A pod is this now (None: gone). Return the services that it belonged or belongs to."""
        touched = set(self._services_of.get(key, ()))
        old = self._pods.get(key)
        if old is not None and pod is not None and old.meta.labels == pod.meta.labels:
            self._pods[key] = pod
            return touched
        for service in touched:
            _discard(self._pods_of, service, key)
        self._services_of.pop(key, None)
        if old is not None:
            del self._pods[key]
            for label in _labels(key, old.meta.labels):
                _discard(self._pods_by_label, label, key)
        if pod is None:
            return touched
        self._pods[key] = pod
        for label in _labels(key, pod.meta.labels):
            self._pods_by_label[label].add(key)
            for service in self._by_label.get(label, ()):
                if matches(self._selectors[service], pod.meta.labels):
                    self._join(service, key)
                    touched.add(service)
        return touched

    def _join(self, service: Key, pod: Key) -> None:
        self._pods_of.setdefault(service, set()).add(pod)
        self._services_of.setdefault(pod, set()).add(service)


def _labels(key: Key, labels: Pairs) -> Iterable[Label]:
    return ((key.namespace, k, v) for k, v in labels)


def _discard(index: dict[K, set[Key]], where: K, key: Key) -> None:
    members = index.get(where)
    if members is not None:
        members.discard(key)
        if not members:
            del index[where]
