"""All that this server is authoritative for: one tree of services under several names, and the reverse zones. Pure.

Owns: where trees hang, what a name leads to, the difference that one changed service makes. Must not know packets.

The tree of services holds `tomcat.default`, and hangs at each short zone (`svc`) and at `svc.CLUSTER-DOMAIN`. A name
that has no records there is looked for again below `default`: that is how `tomcat.svc` and, for an endpoint,
`10-1-0-5.tomcat.svc` are found without being stored, and why a service A of namespace B comes before an endpoint A of
service B.

The census gives the names of pods (`10-1-0-5.default.pod.CLUSTER-DOMAIN`), and namespaces: a name that is one exists.
"""

import sys
from collections.abc import Generator, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from svcnet.dns import name
from svcnet.dns.journal import Journal, later
from svcnet.dns.records import (
    EXISTS,
    NS,
    PTR,
    RR,
    SOA,
    TXT,
    USUAL,
    ZONE_TTL,
    Serving,
    address_record,
    known_records,
    records_of,
    undashed,
)
from svcnet.dns.tree import NOTHING, RRsets, Tree, waits
from svcnet.feed import Change, Whole
from svcnet.model.meta import Key
from svcnet.topology import Place

Network = IPv4Network | IPv6Network
DEFAULT = name.label("default")
DNS_VERSION = b"\x051.1.0"
"""TXT at dns-version.CLUSTER-DOMAIN: the specification that the names follow."""
REFRESH_SECONDS, RETRY_SECONDS, EXPIRE_SECONDS = 7200, 1800, 86400
TTL_SECONDS = 5
"""Of answers, negative ones too, where nothing else is said (contract)."""
BARELY: RRsets = {EXISTS: (RR(b"", EXISTS, ZONE_TTL, b""),)}
"""A name that exists by itself, and has no records: a namespace, the place where a tree hangs."""


VERIFIED, INSECURE, DISABLED = "verified", "insecure", "disabled"
"""Names of pods: of addresses that a pod has; of any address in a namespace that exists; none."""


class Shape(NamedTuple):
    """What the zones are called. `servers`: addresses of this server, for the apex' NS."""

    zones: tuple[str, ...] = ("svc",)
    cluster_domain: str = "cluster.local"
    reverse: tuple[Network, ...] = ()
    servers: tuple[str, ...] = ()
    ttls: tuple[tuple[str, int], ...] = ()
    """(zone, seconds); zone "" stands for those that are not named."""
    node: str = ""
    """The minion whose endpoints are near."""
    serving: Serving = USUAL
    pods: str = VERIFIED
    """Which names of pods there are."""
    onward: tuple[str, ...] = ()
    """Zones of which names that are not there are asked for elsewhere, and all zones below them; "" is all zones."""


class Mount(NamedTuple):
    """A tree at a place. `apex` is the zone that it belongs to; `suffix` is `apex` or below it. Whole names."""

    suffix: bytes
    apex: bytes
    tree: Tree
    ttl: int
    """Seconds that its records live, and that names are known not to be there (RFC 2308)."""
    aliased: bool = False
    """Names are also looked for below `default`."""
    onward: bool = False
    """What is not there is asked for elsewhere."""

    def lives(self, rr: RR) -> int:
        """The TTL of a record that is found here."""
        return self.ttl if rr.ttl == ZONE_TTL else rr.ttl


class Node(NamedTuple):
    """What a name leads to."""

    mount: Mount
    rrsets: RRsets
    exists: bool
    by: bytes = b""
    """Another whole name by which it is there or not."""


class Zone:
    """The records of all services at one revision."""

    def __init__(self, shape: Shape) -> None:
        self.rev = 0
        self.serial = 0
        """Of every SOA; rises with every change (RFC 1982)."""
        self.place = Place(shape.node)
        """Where this server is. Another one needs a whole."""
        self.loaded = False
        """Nothing is known before the first whole."""
        self.changed: dict[bytes, int] = {}
        """Apex → the serial since which that zone's records have been as they are."""
        self._apexes: set[bytes] = set()
        """The zones that have changed in what is not told yet."""
        self.mounts: dict[bytes, Mount] = {}
        self._records: dict[Key, tuple[RR, ...]] = {}
        self._missing: dict[Key, tuple[RR, ...]] | None = None
        """While everything is told: what has not been yet, and was there before; then not in `_records`."""
        self._parts: set[bytes] | None = None
        """What has changed in the parts so far of something that comes in several; nothing of it is told yet."""
        self._services, self.reverse, self._pods, self.namespaces = Tree(), Tree(), Tree(), Tree()
        self._trees: dict[str, tuple[tuple[Tree, bool], ...]] = {
            "Service": ((self._services, False), (self.reverse, True)),
            "Address": ((self._pods, False),),
            "Namespace": ((self.namespaces, False),),
        }
        self._changing = (self._services, self.reverse, self._pods, self.namespaces)
        self.journal = Journal(self._changing)
        self._serving, self._insecure = shape.serving, shape.pods == INSECURE
        self._onward = {name.absolute(zone) for zone in shape.onward}
        domain = name.absolute(shape.cluster_domain)
        self._home = name.label("svc") + domain
        self.server = name.relative("ns.dns") + domain
        """What the NS of every zone leads to."""
        self._hostmaster = name.label("hostmaster") + domain
        self._hang_all(shape, domain)
        mounts = self.mounts.values()
        self._relative = tuple(m.suffix for m in mounts if m.tree is not self.reverse)
        self._zones_of = {tree: frozenset(m.apex for m in mounts if m.tree is tree) for tree in self._changing}
        self._zones_of[self.namespaces] = frozenset(m.apex for m in mounts if self.has_namespaces(m))

    def _hang_all(self, shape: Shape, domain: bytes) -> None:
        ttls = {name.absolute(zone): seconds for zone, seconds in shape.ttls}
        ttl = self._ttl = ttls.pop(name.ROOT, TTL_SECONDS)
        of_domain = ttls.get(domain, ttl)
        for zone in map(name.absolute, shape.zones):
            self._hang(Mount(zone, zone, self._services, ttls.get(zone, ttl), aliased=True))
        self._hang(Mount(self._home, domain, self._services, of_domain, aliased=True))
        if shape.pods == DISABLED:
            del self._trees["Address"]
        else:
            self._hang(Mount(name.label("pod") + domain, domain, self._pods, of_domain))
        self._hang(Mount(domain, domain, _fixed(shape.servers), of_domain))
        for zone in (z for network in shape.reverse for z in reverse_zones(network)):
            self._hang(Mount(zone, zone, self.reverse, ttl))

    def taking(self, frame: Whole | Change) -> Generator[None, None, set[bytes]]:
        """Take a frame in, in steps of less than one service; return the keys of trees that changed, once all is there.

        O(what changed). Between steps, and until the last frame of what comes in several, all is as it was before.
        """
        whole = isinstance(frame, Whole)
        if isinstance(frame, Whole):
            self.place = self.place._replace(zone=frame.zone)
            if self._missing is None:  # no copy, which would stop answers for milliseconds
                self._missing, self._records = self._records, {}
        last = frame.last and (whole or self._missing is None)
        touched: set[bytes] = set()
        several = not last or whole or self._parts is not None or len(frame.entries) + len(frame.census) > 1
        if several:
            touched = self._hold()
        for key, rrs in self._told(frame):
            yield
            touched |= self._replace(key, rrs)
            if several:
                yield
        if not last:
            return set()
        while self._missing:
            yield
            key, left = self._missing.popitem()
            self._records[key] = left
            touched |= self._replace(key, frozenset())
        self._release()
        self._advance(frame.rev, bool(touched))
        if whole:
            self._missing, self.loaded = None, True
        return touched

    def _told(self, frame: Whole | Change) -> Iterator[tuple[Key, frozenset[RR]]]:
        for e in frame.entries:
            serving = self._home, self.place, self._serving
            new = records_of(e.service, e.ports, *serving) if e.service else frozenset[RR]()
            yield Key("Service", sys.intern(e.namespace), e.name), new
        for known in (k for k in frame.census if k.kind in self._trees):
            new = known_records(known) if known.there else frozenset[RR]()
            yield Key(sys.intern(known.kind), sys.intern(known.namespace), known.name), new

    def _hold(self) -> set[bytes]:
        """Tell the state before until the end; return what has changed since then."""
        if self._parts is None:
            self._parts = set()
            for tree in self._changing:
                tree.hold()
        return self._parts

    def _release(self) -> None:
        if self._parts is not None:
            self._parts = None
            for tree in self._changing:
                tree.release()

    def find(self, wanted: bytes) -> Node | None:
        """Return what a whole, lower-case name leads to; None: it is in no zone of ours."""
        for at in name.offsets(wanted):
            mount = self.mounts.get(wanted[at:])
            if mount is not None:
                return self._look(mount, wanted[:at], wanted)
        # An endpoint elsewhere, as of a pod in its host's network: a zone of one name.
        rrsets = self.reverse.get(wanted)
        return Node(Mount(wanted, wanted, self.reverse, self._ttl), rrsets, True) if rrsets else None

    def names(self, touched: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the whole names that may lead to these keys of trees."""
        relative = self._relative
        for key in touched:
            yield key
            for suffix in relative:
                yield key + suffix
            if key.endswith(DEFAULT):
                short = key[: -len(DEFAULT)]
                for suffix in relative:
                    yield short + suffix

    def soa(self, mount: Mount, serial: int | None = None) -> RR:
        """The SOA of a zone (RFC 1035 §3.3.13); its last number is the TTL of negative answers (RFC 2308 §4)."""
        numbers = (self.serial if serial is None else serial, REFRESH_SECONDS, RETRY_SECONDS, EXPIRE_SECONDS, mount.ttl)
        data = self.server + self._hostmaster + b"".join(n.to_bytes(4) for n in numbers)
        return RR(mount.apex, SOA, mount.ttl, data)

    def _look(self, mount: Mount, key: bytes, whole: bytes) -> Node:
        if not key and mount.suffix == mount.apex:
            own: RRsets = {SOA: (self.soa(mount),), NS: (RR(mount.apex, NS, mount.ttl, self.server),)}
            return Node(mount, own, True)
        tree = mount.tree
        keys: tuple[bytes, ...]
        keys = (whole,) if tree is self.reverse else (key, key + DEFAULT) if mount.aliased and key else (key,)
        for number, k in enumerate(keys, 1):
            rrsets = tree.get(k)
            if waits(rrsets):
                keys = keys[:number]
                break
            if rrsets:
                return Node(mount, rrsets, True)
        if not key or (self.has_namespaces(mount) and self.namespaces.get(key)):
            return Node(mount, BARELY, True)
        if self._insecure and tree is self._pods:
            return self._any_pod(mount, key)
        return Node(mount, NOTHING, any(map(tree.exists, keys)))

    def _any_pod(self, mount: Mount, key: bytes) -> Node:
        """Any address has a name in a namespace that exists, which we learn from no record of its own."""
        at = key[0] + 1
        address = undashed(key[1:at])
        if address is None or len(name.offsets(key)) != len((b"address", b"namespace")):
            return Node(mount, NOTHING, self._pods.exists(key))
        by = key[at:] + mount.suffix
        if not self.namespaces.get(key[at:]):
            return Node(mount, NOTHING, False, by)
        rr = address_record(key, ZONE_TTL, address)
        return Node(mount, {rr.type: (rr,)}, True, by)

    def has_namespaces(self, mount: Mount) -> bool:
        """Whether a namespace is a name there, be it empty."""
        return mount.tree is self._services or mount.tree is self._pods

    def _replace(self, key: Key, new: frozenset[RR]) -> set[bytes]:
        known = self._records.get(key, ())
        if not known and self._missing and key in self._missing:
            known = self._records[key] = self._missing.pop(key)
        old = frozenset(known)
        if old == new:
            return set()
        gone, fresh = old - new, new - old
        if new:
            self._records[key] = *(old - gone), *fresh  # takes a seventh of the room; those that stay are the tree's
        else:
            self._records.pop(key, None)
        touched: set[bytes] = set()
        for tree, reverse in self._trees[key.kind]:
            less = [rr for rr in gone if (rr.type == PTR) == reverse]
            more = [rr for rr in fresh if (rr.type == PTR) == reverse]
            if not less and not more:
                continue
            touched |= tree.change(less, more)
            if reverse:
                self._apexes.update(self._reverse_zone(rr.owner) for rrs in (less, more) for rr in rrs)
            else:
                self._apexes |= self._zones_of[tree]
        return touched

    def _advance(self, rev: int, changed: bool) -> None:
        """Move the serial: to the revision, or one on where that would not be later (RFC 1982 §3.2).

        Also where a revision changed nothing: several workers, told in different portions, come to one serial.
        """
        self.rev = max(self.rev, rev)
        old = self.serial
        if not self.loaded or later(rev, old):
            self.serial = rev & 0xFFFFFFFF
        elif changed:
            self.serial = (old + 1) & 0xFFFFFFFF
        if self.loaded:
            self.journal.end(old, self.serial)
            apexes = self._apexes - {b""}
        else:
            self.journal.begin()
            apexes = {mount.apex for mount in self.mounts.values()}
        self._apexes = set()
        self.changed |= dict.fromkeys(apexes, self.serial)

    def _reverse_zone(self, owner: bytes) -> bytes:
        """Return the apex of the zone that a PTR record belongs to; b"" where we have none."""
        for at in name.offsets(owner):
            if owner[at:] in self.mounts:
                return self.mounts[owner[at:]].apex
        return b""

    def _hang(self, mount: Mount) -> None:
        onward = any(mount.apex[at:] in self._onward for at in name.offsets(mount.apex))
        self.mounts.setdefault(mount.suffix, mount._replace(onward=onward))


def reverse_zones(network: Network) -> Iterator[bytes]:
    """Yield the zones below in-addr.arpa or ip6.arpa that make up a network exactly (RFC 1035 §3.5, RFC 3596 §2.5)."""
    step = 8 if network.version == 4 else 4
    for part in network.subnets(new_prefix=-(-network.prefixlen // step) * step):
        labels = part.network_address.reverse_pointer.split(".")
        yield name.absolute(".".join(labels[(part.max_prefixlen - part.prefixlen) // step :]))


def _fixed(servers: Iterable[str]) -> Tree:
    tree = Tree()
    here = [address_record(name.relative("ns.dns"), ZONE_TTL, address) for address in servers]
    tree.change((), [*here, RR(name.label("dns-version"), TXT, ZONE_TTL, DNS_VERSION)])
    return tree
