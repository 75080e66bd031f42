"""All records of one zone, and the difference between two moments of it. Pure.

Owns: which names a zone has when they are told one by one: the tree below each mount, once more without `default`, the
namespaces, the cuts where another zone of ours begins. Must not know messages.

It says what `Zone.find` would, of every name: a secondary answers as we do. A name that exists without records (a
service without addresses, an empty namespace) is told by a record of the type BARE, as only records can be transferred.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from svcnet.dns import name
from svcnet.dns.journal import Past
from svcnet.dns.records import BARE, EXISTS, NS, WAITS
from svcnet.dns.tree import NOTHING, RRsets, Tree, waits
from svcnet.dns.zone import BARELY, DEFAULT, Mount, Zone

Owners = Mapping[Tree, Mapping[bytes, RRsets]]
"""All that the trees hold at one moment."""
Look = Callable[[Tree, bytes], RRsets]
"""What an owner has at one moment, {} for nothing."""


class Record(NamedTuple):
    """One record of a zone; `owner` is relative to the apex."""

    owner: bytes
    type: int
    ttl: int
    data: bytes


class Contents:
    """The zone at `apex`."""

    def __init__(self, zone: Zone, apex: bytes) -> None:
        self._zone = zone
        self._mounts = [mount for mount in zone.mounts.values() if mount.apex == apex]
        self.apex = next(mount for mount in self._mounts if mount.suffix == apex)
        cuts = {mount.apex for mount in zone.mounts.values() if mount.apex != apex and mount.apex.endswith(apex)}
        self._cuts = sorted(cut for cut in cuts if not _is_below(cut, cuts - {cut}))
        self._below = {
            mount.suffix: {other for other in zone.mounts if other != mount.suffix and other.endswith(mount.suffix)}
            for mount in self._mounts
        }

    def whole(self, owners: Owners) -> Iterator[Record]:
        """Yield all records but the SOA."""

        def look(tree: Tree, key: bytes) -> RRsets:
            return owners.get(tree, tree.owners).get(key, NOTHING)

        yield from self._fixed()
        for mount in self._mounts:
            below = self._below[mount.suffix]
            for key in self._keys(mount, owners):
                if not below or not _is_below(key + mount.suffix, below):
                    yield from self._records(mount, key, look)

    def changes(self, past: Past, since: Look, now: Look) -> tuple[Iterator[Record], Iterator[Record]]:
        """Return the records that went and those that came; `past` holds the owners that differ."""

        def difference(less: Look, more: Look) -> Iterator[Record]:
            for mount in self._mounts:
                below = self._below[mount.suffix]
                for key in self._touched(mount, past):
                    if not below or not _is_below(key + mount.suffix, below):
                        gone = set(self._records(mount, key, more))
                        yield from (record for record in self._records(mount, key, less) if record not in gone)

        return difference(since, now), difference(now, since)

    def _fixed(self) -> Iterator[Record]:
        """The NS records: of the zone, and of the cuts where others begin."""
        yield Record(b"", NS, self.apex.ttl, self._zone.server)
        for cut in self._cuts:
            yield Record(cut[: -len(self.apex.suffix)], NS, self.apex.ttl, self._zone.server)

    def _keys(self, mount: Mount, owners: Owners) -> Iterator[bytes]:
        """Yield all names below a mount, relative to it."""
        if mount.suffix != mount.apex:
            yield b""
        own = owners.get(mount.tree, mount.tree.owners)
        if mount.tree is self._zone.reverse:
            yield from _under(own, mount.suffix)
            return
        yield from own
        if mount.aliased:
            yield from (key for key in _aliases(own) if key not in own)
        if self._zone.has_namespaces(mount):
            for key in owners[self._zone.namespaces]:
                if key not in own and not (mount.aliased and key + DEFAULT in own):
                    yield key

    def _touched(self, mount: Mount, past: Past) -> dict[bytes, None]:
        """The names below a mount that may differ, each once."""
        own = past.get(mount.tree, {})
        if mount.tree is self._zone.reverse:
            return dict.fromkeys(_under(own, mount.suffix))
        found = dict.fromkeys(own)
        if mount.aliased:
            found |= dict.fromkeys(_aliases(own))
        if self._zone.has_namespaces(mount):
            found |= dict.fromkeys(past.get(self._zone.namespaces, {}))
        return found

    def _records(self, mount: Mount, key: bytes, look: Look) -> Iterator[Record]:
        """Yield the records of one name. Those of one type have one TTL (RFC 2181 §5.2), and none is there twice."""
        owner = key + mount.suffix[: -len(mount.apex)]
        rrsets = self._at(mount, key, look)
        for kind, rrs in rrsets.items():
            if kind not in {EXISTS, WAITS}:
                ttl = min(map(mount.lives, rrs))
                for data in dict.fromkeys(rr.data for rr in rrs):
                    yield Record(owner, kind, ttl, data)
        if rrsets.keys() == {EXISTS}:
            yield Record(owner, BARE, mount.ttl, b"")

    def _at(self, mount: Mount, key: bytes, look: Look) -> RRsets:
        if not key:
            return BARELY
        if mount.tree is self._zone.reverse:
            return look(mount.tree, key + mount.suffix)
        found = look(mount.tree, key) or (look(mount.tree, key + DEFAULT) if mount.aliased else NOTHING)
        if (not found or waits(found)) and self._zone.has_namespaces(mount) and look(self._zone.namespaces, key):
            return BARELY
        return found


def _under(owners: Iterable[bytes], suffix: bytes) -> Iterator[bytes]:
    return (owner[: -len(suffix)] for owner in owners if owner.endswith(suffix) and len(owner) > len(suffix))


def _aliases(owners: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the names that are also found without `default`."""
    for owner in owners:
        at = len(owner) - len(DEFAULT)
        if owner.endswith(DEFAULT) and at in name.offsets(owner)[1:]:
            yield owner[:at]


def _is_below(whole: bytes, suffixes: set[bytes]) -> bool:
    return any(whole[at:] in suffixes for at in name.offsets(whole))
