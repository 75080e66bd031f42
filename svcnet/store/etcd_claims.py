"""The claims in etcd: the table as it was seen, and the transactions that change it.

Owns: what each claim key holds and at which revision, and what a change of the table must compare. Must not know: how
an address is chosen, who watches.

Two keys a claim. A holder's key says who has one address or node port: that alone decides, and two creators who want
the same meet there, as each compares it with what it saw. A service's claim says which of them are its own, and in what
order; what another holds by now is not among them. So whoever takes what a vanished service held writes nothing of
that service.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from svcnet.model.claim import NOTHING, Claim, Resource, claim_id, claim_key
from svcnet.model.errors import ConfigError
from svcnet.model.meta import Key
from svcnet.store.etcd_change import Change, commit
from svcnet.store.etcd_client import EtcdClient
from svcnet.store.etcd_keys import Keyspace, end, resource_of
from svcnet.virtual_ip import FULL, Allocation, Claims

_CLAIM = msgspec.json.Decoder(Claim)


class _Seen(NamedTuple):
    """A claim key: what it holds, the revision of its last change (0: it is not there)."""

    claim: Claim
    rev: int


class _Holder(NamedTuple):
    """A holder's key."""

    name: str
    rev: int


_NOBODY = _Holder("", 0)
_NOT_SEEN = _Seen(NOTHING, 0)


class _Table(Claims):
    """Claims that note whose have changed."""

    def __init__(self, allocation: Allocation) -> None:
        super().__init__(allocation)
        self.dirty: dict[str, None] = {}
        """Who was given another claim."""
        self.losers: set[str] = set()
        """Who lost a part to one of them."""

    def hold(self, name: str, claim: Claim) -> tuple[Resource, ...]:
        """Hold as Claims does."""
        if claim != self.held.get(name, NOTHING):
            self.dirty[name] = None
            self.losers.update(holder for resource in claim.resources() if (holder := self.holder(resource)))
        return super().hold(name, claim)

    def clean(self) -> None:
        """Forget the notes."""
        self.dirty.clear()
        self.losers.clear()
        self.changed = False


class Ledger:
    """Claims of one prefix. `claims` may run ahead of etcd until `save`, which makes it true or takes it back."""

    def __init__(self, client: EtcdClient, space: Keyspace, allocation: Allocation) -> None:
        self._client = client
        self._space = space
        self._table = _Table(allocation)
        self._seen: dict[str, _Seen] = {}
        self._holders: dict[Resource, _Holder] = {}
        self._cidrs = ("", 0)
        self._stale: set[str] = set()
        self.written: dict[bytes, int] = {}
        """Records that `write` has written: key → revision."""

    @property
    def claims(self) -> Claims:
        """The table."""
        return self._table

    @property
    def names(self) -> set[str]:
        """The claim ids of which there is a key."""
        return {name for name, seen in self._seen.items() if seen.rev}

    def clear(self) -> None:
        """Begin to read anew: what is not taken again before `load` is gone."""
        self._seen.clear()
        self._holders.clear()
        self._cidrs = ("", 0)
        self._stale = set(self._table.held)

    def take(self, name: str, value: bytes | None, rev: int) -> None:
        """Note what a key below claims/ holds (None: it is gone) since revision `rev`; `load` makes it count."""
        space = self._space
        if name.startswith(space.holders):
            resource = resource_of(name.removeprefix(space.holders))
            before = self._holders.get(resource, _NOBODY)
            if rev >= before.rev:
                after = _NOBODY if value is None else _Holder(value.decode(errors="replace"), rev)
                self._holders[resource] = after
                self._stale |= {before.name, after.name} - {""}
                if after is _NOBODY:
                    del self._holders[resource]
        elif name.startswith(space.services):
            of = name.removeprefix(space.services)
            if rev >= self._seen.get(of, _NOT_SEEN).rev:
                self._stale.add(of)
                if value is None:
                    self._seen.pop(of, None)
                else:
                    self._seen[of] = _Seen(_claim(value), rev)
        elif name.encode() == space.cidrs and rev >= self._cidrs[1]:
            self._cidrs = ("", 0) if value is None else (value.decode(errors="replace"), rev)

    def load(self) -> tuple[list[str], tuple[Resource, ...]]:
        """Let the table be what was taken; return whose claim is another one now, and what nobody holds any more."""
        before = {name: self._table.held.get(name, NOTHING) for name in self._stale}
        for name in before:
            self._table.hold(name, NOTHING)
        after = {name: self._effective(name) for name in before}
        for name, claim in after.items():
            self._table.hold(name, claim)
        self._table.lapsed &= self._table.held.keys()
        self._stale.clear()
        self._table.clean()
        given_up = {resource for claim in before.values() for resource in claim.resources()}
        free = tuple(resource for resource in given_up if self._table.holder(resource) is None)
        return [name for name in before if before[name] != after[name]], free

    def read(self) -> None:
        """Read all claims. StoreError; ConfigError when they come from other service CIDRs."""
        self.clear()
        for page in self._client.pages(self._space.claims.encode(), end(self._space.claims)):
            for kv in page.kvs:
                self.take(kv.key.decode(errors="replace"), kv.value, kv.mod_revision)
        self.load()
        self.check()

    def check(self) -> None:
        """ConfigError when claims come from other service CIDRs than ours."""
        theirs, allocation = self._cidrs[0], self._table.allocation
        if theirs and theirs != str(allocation) and self._table.held:
            raise ConfigError(
                f"--service-cidr is {allocation}, but the virtual IPs in {self._space.claims} come from {theirs}"
            )

    def lapse(self, wanted: Iterable[Resource]) -> bool:
        """Let holders of what is wanted lapse whose record is gone (nobody was there to see it go). StoreError."""
        claims = self._table
        wanted = set(wanted)
        holders = {name for resource in wanted if (name := claims.holder(resource)) is not None}
        if wanted & FULL:
            holders |= claims.held.keys()
            there = self._all_services()
        else:
            there = {name for name in holders if self._client.range(key=self._record(name), keys_only=True).kvs}
        claims.lapsed |= holders - there
        return bool(holders - there)

    def save(self) -> None:
        """Write what has changed in the table. LostError, StoreError: it is taken back."""
        self.write(lambda: [self.change(name, record=None) for name in self._table.dirty])

    def write(self, changes: Callable[[], Iterable[Change]]) -> None:
        """Carry out changes of claims and records. LostError, StoreError: the table is again as it was seen."""
        try:
            text = str(self._table.allocation)
            if self._table.dirty and self._cidrs[0] != text:
                first = Change({self._space.cidrs: self._cidrs[1]}, {self._space.cidrs: text.encode()}, set(), set())
                commit(self._client, [first], self._committed)
            commit(self._client, changes(), self._committed)
        except BaseException:
            self._stale |= self._table.dirty.keys() | self._table.losers
            self.load()
            raise
        self._table.clean()

    def change(self, name: str, *, record: bytes | None) -> Change:
        """Return what makes the table's claim of a service true, together with its record.

        `record`: the service's new record; None where a reader claims for a record that it found, which must still be
        there then.
        """
        space, after, seen = self._space, self._table.held.get(name, NOTHING), self._seen.get(name, _NOT_SEEN)
        change = Change({space.claim(name): seen.rev}, {}, set(), set())
        if record is not None:
            change.writes[self._record(name)] = record
        elif after != NOTHING:
            change.present.add(self._record(name))
        for resource in after.resources():
            self._want(change, name, resource)
        for resource in set(seen.claim.resources()) - set(after.resources()):
            holder = self._holders.get(resource, _NOBODY)
            if holder.name == name:
                change.revs[space.holder(resource)] = holder.rev
                change.writes[space.holder(resource)] = None
        if after == NOTHING:
            if seen.rev:
                change.writes[space.claim(name)] = None
            return change
        if after != seen.claim:
            change.writes[space.claim(name)] = msgspec.json.encode(after)
        change.revs[space.cidrs] = self._cidrs[1]
        return change

    def removal(self, key: Key) -> Change:
        """Return what deletes a service's record and gives up its claim."""
        self._table.free(claim_id(key))
        change = self.change(claim_id(key), record=None)
        change.writes[self._space.record(key)] = None
        return change

    def lapsed_change(self, name: str) -> Change:
        """Return what gives up the claim of a service that has no record any more."""
        self._table.free(name)
        change = self.change(name, record=None)
        change.absent.add(self._record(name))
        return change

    def _want(self, change: Change, name: str, resource: Resource) -> None:
        key, holder = self._space.holder(resource), self._holders.get(resource, _NOBODY)
        change.revs[key] = holder.rev
        if holder.name != name:
            change.writes[key] = name.encode()
            if holder.name in self._table.lapsed:
                change.absent.add(self._record(holder.name))

    def _committed(self, writes: dict[bytes, bytes | None], rev: int) -> None:
        for key, value in writes.items():
            self.take(key.decode(), value, rev)
            if key.startswith(self._space.records.encode()):
                self.written[key] = rev
        # The table holds it already, and is ahead of what other changes will bring.
        self._stale.clear()

    def _effective(self, name: str) -> Claim:
        claim = self._seen.get(name, _NOT_SEEN).claim
        for resource in tuple(claim.resources()):
            if self._holders.get(resource, _NOBODY).name != name:
                claim = claim.without(resource)
        return claim

    def _record(self, name: str) -> bytes:
        return self._space.record(claim_key(name))

    def _all_services(self) -> set[str]:
        start = f"{self._space.records}Service/"
        pages = self._client.pages(start.encode(), end(start), keys_only=True)
        return {kv.key.decode(errors="replace").removeprefix(start) for page in pages for kv in page.kvs}


def _claim(value: bytes) -> Claim:
    """Return the claim of a value; what nobody can read claims nothing, and is written over."""
    try:
        return _CLAIM.decode(value)
    except msgspec.DecodeError:
        return NOTHING
