"""What minions say of their endpoints' health, by etcd: keys that last as long as the minion keeps its lease.

Owns: reading them as verdicts, and writing our own. Must not know: how health is found out, what becomes of it.
A minion that dies takes its words with it after LEASE_SECONDS: from then on the records alone count.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from svcnet.model.event import Verdict
from svcnet.model.meta import Key
from svcnet.store.etcd_change import MOST
from svcnet.store.etcd_client import EtcdClient, modules
from svcnet.store.etcd_keys import Keyspace

LEASE_SECONDS = 30
Failing = Mapping[tuple[Key, str, int], str]
"""(service, address, port) → why."""


class Heard:
    """What all minions say, of one list or watch."""

    def __init__(self, space: Keyspace) -> None:
        self._space = space
        self._said: dict[str, str] = {}
        self._missing: set[str] = set()
        self._news: list[Verdict] = []

    def begin(self) -> None:
        """Everything is read anew."""
        self._missing = set(self._said)

    def take(self, name: str, value: bytes | None) -> None:
        """A key as it is now, or (None) gone; others than ours are passed over."""
        if not name.startswith(self._space.health):
            return
        self._missing.discard(name)
        why = "" if value is None else (_text(value) or "it does not say why")
        verdict = self._space.verdict_of(name, why)
        if verdict is None or self._said.get(name, "") == why:
            return
        if why:
            self._said[name] = why
        else:
            self._said.pop(name, None)
        self._news.append(verdict)

    def end(self) -> None:
        """Everything was read: what did not come is not there any more."""
        for name in sorted(self._missing):
            self.take(name, None)

    def verdicts(self) -> list[Verdict]:
        """What is new since the last time."""
        news, self._news = self._news, []
        return news


class Speaker:
    """Says for one minion which of its endpoints fail. Calls block; StoreError, NotPermittedError."""

    def __init__(self, client: EtcdClient, space: Keyspace, node: str, seconds: int = LEASE_SECONDS) -> None:
        self._client, self._space, self._node, self._seconds = client, space, node, seconds
        self._lease = 0
        self._said: dict[bytes, str] = {}

    def say(self, failing: Failing) -> None:
        """Say exactly this, and stay alive; to be called every third of the lease's seconds, and with every change."""
        wanted = {
            self._space.verdict(self._node, Verdict(service, address, port, why)): why
            for (service, address, port), why in failing.items()
        }
        if self._lease and not self._client.keep_alive(self._lease):
            self._lease, self._said = 0, {}  # etcd was away for longer than it lasts
        if not self._lease:
            if not wanted:
                return
            self._lease = self._client.grant(self._seconds)
        ops = list(self._ops(wanted))
        for start in range(0, len(ops), MOST):
            self._client.txn([], ops[start : start + MOST], [])
        self._said = wanted

    def close(self) -> None:
        """Give the connection up. What was said stays as long as the lease: the next start says it again by then."""
        self._client.close()

    def _ops(self, wanted: Mapping[bytes, str]) -> Iterator[Any]:
        rpc = modules().rpc
        for name in sorted(self._said.keys() - wanted.keys()):
            yield rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=name))
        for name, why in wanted.items():
            if self._said.get(name) != why:
                put = rpc.PutRequest(key=name, value=msgspec.json.encode(why), lease=self._lease)
                yield rpc.RequestOp(request_put=put)


def _text(value: bytes) -> str:
    """JSON text; "" for anything else."""
    with suppress(msgspec.DecodeError, msgspec.ValidationError):
        return msgspec.json.decode(value, type=str)
    return ""
