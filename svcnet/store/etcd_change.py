"""Changes of keys in etcd that hold together, and the transactions that carry them out.

Owns: the form of a transaction and etcd's limits of it. Must not know: what a key means.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from svcnet.model.errors import RecordError
from svcnet.store.etcd_client import EtcdClient, modules

MOST = 120
"""Comparisons or writes a transaction (etcd --max-txn-ops: 128)."""
MOST_BYTES = 1_400_000
"""Of values a transaction (etcd --max-request-bytes: 1.5 MiB)."""


class LostError(Exception):
    """Somebody else changed a key first: read again, decide again."""


class Change(NamedTuple):
    """Writes that are done together, or not at all."""

    revs: dict[bytes, int]
    """Keys that must have been changed last at this revision (0: must not be there)."""
    writes: dict[bytes, bytes | None]
    """Key → value; None deletes it."""
    present: set[bytes]
    """Keys that must be there."""
    absent: set[bytes]
    """Keys that must not."""

    @property
    def keys(self) -> int:
        """What of etcd's limit it takes."""
        return max(len(self.revs) + len(self.present) + len(self.absent), len(self.writes))

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return sum(len(value) for value in self.writes.values() if value)


def commit(
    client: EtcdClient, changes: Iterable[Change], done: Callable[[dict[bytes, bytes | None], int], None]
) -> int:
    """Carry changes out, as many a transaction as go in one; return the last revision (0: there were none).

    `done` is told of each transaction. LostError: what was compared is otherwise by now; transactions before that one
    stand. StoreError: it is not known whether the last one was done. RecordError: a change too large for etcd.
    """
    rev = 0
    for group in _grouped(changes):
        writes = {key: value for change in group for key, value in change.writes.items()}
        # A key that one change gives up and another takes is written once: taken.
        writes |= {key: value for change in group for key, value in change.writes.items() if value is not None}
        answer = client.txn(list(_comparisons(group)), [_operation(*item) for item in writes.items()], [])
        if not answer.succeeded:
            raise LostError
        rev = answer.header.revision
        done(writes, rev)
    return rev


def _grouped(changes: Iterable[Change]) -> Iterator[list[Change]]:
    group: list[Change] = []
    count = size = 0
    for change in changes:
        if change.keys > MOST or change.size > MOST_BYTES:
            name = next(iter(change.writes), b"").decode()
            raise RecordError(
                f"{name}: {change.keys} keys and {change.size} bytes in one transaction, "
                f"expected at most {MOST} and {MOST_BYTES}"
            )
        if group and (count + change.keys > MOST or size + change.size > MOST_BYTES):
            yield group
            group, count, size = [], 0, 0
        group.append(change)
        count, size = count + change.keys, size + change.size
    if group:
        yield group


def _comparisons(group: list[Change]) -> Iterator[Any]:
    make = modules().rpc.Compare
    for key, rev in {key: rev for change in group for key, rev in change.revs.items()}.items():
        yield make(result=make.EQUAL, target=make.MOD, key=key, mod_revision=rev)
    for key in {key for change in group for key in change.present}:
        yield make(result=make.GREATER, target=make.VERSION, key=key, version=0)
    for key in {key for change in group for key in change.absent}:
        yield make(result=make.EQUAL, target=make.VERSION, key=key, version=0)


def _operation(key: bytes, value: bytes | None) -> Any:
    rpc = modules().rpc
    if value is None:
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
