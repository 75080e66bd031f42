"""DNS in the daemon: binds its sockets, says what a worker is told, keeps the workers.

Owns: --dns-… options → sockets and Settings, and what happens when an address can't be had: the rest is served, the
state says what lacks, and it is tried again. Must not know how a question is answered.

The sockets belong to this process: that a port is taken is known at the start, and a query that comes while a worker is
started again waits in the socket for it.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from socket import SOCK_DGRAM
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from svcnet.cli.name_left import NameLeft, Sets
from svcnet.config import Config
from svcnet.dns.ledger import Ledger
from svcnet.dns.scope import Scope, Wanted
from svcnet.feed import changed
from svcnet.model.snapshot import Delta, Snapshot
from svcnet.option_kind import DNS_PORT, Listen, Upstream
from svcnet.overlap import RESOLV_CONF, parse_name_servers, parse_search_domains
from svcnet.pacing import Backoff
from svcnet.store.revision import Revisions
from svcnet.supervisor import STARTING, Crew, Program

if TYPE_CHECKING:
    from svcnet.dns.settings import Settings

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "svcnet.dns.worker")
BACKLOG = 128
KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
REAP_SECONDS = 0.5
"""How often it is looked whether a worker of an earlier program has ended."""
RECEIVE_BYTES = 1 << 20
"""Queries that wait for a worker: some thousands (the kernel may grant less)."""
SO_MEMINFO, MEMINFO_BYTES = 55, 36
"""asm-generic/socket.h; nine numbers, the last of them the drops."""
HALF_OF_SERIALS, ALL_SERIALS = 1 << 31, 1 << 32
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 (to know them)


class Bound(NamedTuple):
    """One address with the sockets on it, one set a worker."""

    listen: Listen
    sockets: Sets


class NameService:
    """Satisfies the agent's Follower. `on_state` hears what `/status` says of DNS."""

    def __init__(self, options: Config, on_state: Callable[[str], None], left: NameLeft | None = None) -> None:
        self._options = options
        self._left = left or NameLeft()
        self._leaving = False
        self._loaded: set[int] = set()
        """Workers that answer from records."""
        self._known = asyncio.Event()
        """There are records."""
        self._on_state = on_state
        self._bound: list[Bound] = []
        self._missing: dict[Listen, str] = {}
        self._crew: Crew | None = None
        self._crew_state = STARTING
        self._troubles: dict[int, tuple[str, ...]] = {}
        """Worker → what it says is wrong with servers upstream."""
        self._told: tuple[str, ...] = ()
        self._scope = Scope(Wanted(options.dns_namespaces, options.dns_namespace_labels, options.dns_labels))
        self._snapshot: Snapshot | None = None
        self._served = False
        self._numbers = Revisions(options.state_dir, time.time(), "serial")
        self.ledger = Ledger()
        self.ledger.overflow = self._overflow
        taken = self._left.take(options.dns_listen, options.dns_workers)
        self._bound += [Bound(listen, sets) for listen, sets in taken.items()]
        self._bind(listen for listen in options.dns_listen if listen not in taken)
        self._tell(STARTING)

    def publish(self, snapshot: Snapshot, delta: Delta) -> None:
        """Hand a sync on to the workers, with a number of ours for its revision: the serial of the zones.

        It is the revision where that rose. It rises too where that did not: when the store is an older one than before,
        or what changed was not in the store.
        """
        snapshot, delta = self._scope.follow(snapshot, delta)
        if self._snapshot is None or changed(delta):
            self._number(snapshot.rev)
        self._snapshot = snapshot = structs.replace(snapshot, rev=self._numbers.last)
        self._known.set()
        if self._crew is not None:
            self._crew.publish(snapshot, delta)

    async def run(self, begin: asyncio.Event) -> None:
        """Serve until cancelled, from `begin` on: a start must delay no packet."""
        backoff = Backoff()
        try:
            await begin.wait()
            if self._left.has_unwanted:  # in the way, perhaps, of what could not be bound
                self._left.end()
                self._bind(tuple(self._missing))
                self._tell(self._crew_state)
            self._bound = [Bound(bound.listen, filled(*bound)) for bound in self._bound]
            while True:
                serving = asyncio.create_task(self._serve()) if self._bound else None
                try:
                    await self._until_more(backoff)
                finally:
                    self._crew = None
                    if serving is not None:
                        serving.cancel()
                        await asyncio.gather(serving, return_exceptions=True)
        finally:
            if not self._leaving:
                self._left.end()
            for one in (s for bound in self._bound for sockets in bound.sockets for s in sockets):
                one.close()

    def leave(self) -> None:
        """When `run` is cancelled let the workers be, for the next program."""
        self._leaving = True
        if self._crew is not None:
            self._crew.stay()

    async def _serve(self) -> None:
        if self._left.serves():
            await self._known.wait()  # they know more than nothing
        from svcnet.dns import serials  # noqa: PLC0415 (what DNS needs is not read on the way to the first packet)

        shared = serials.block(self._options.dns_workers)
        try:
            others = serials.Serials(shared, self._options.dns_workers)
            if self._left.serves():
                others.before(self._numbers.last)
            await self._serve_by(Crew(self._programs(shared), self._tell, self._hear), partial(others.set, 0))
        finally:
            os.close(shared)

    async def _serve_by(self, crew: Crew, alone: Callable[[], None]) -> None:
        """Serve by these workers; `alone` is called when no others answer any more."""
        if self._snapshot is not None:
            if self._served:  # other addresses are other records: a number stands for one state of the zones alone
                self._snapshot = structs.replace(self._snapshot, rev=self._number(0))
            crew.publish(self._snapshot, Delta(self._snapshot.rev))
        self._crew, self._served = crew, True
        log.info("dns answers at=%s", ",".join(str(bound.listen) for bound in self._bound))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(crew.run())
            tasks.create_task(self._relieve(alone))

    async def _relieve(self, alone: Callable[[], None]) -> None:
        """See to the end of those who answered before us."""
        while self._left.serves() or self._left.reap():  # noqa: ASYNC110 (they are none of our children by asyncio)
            await asyncio.sleep(REAP_SECONDS)
        alone()

    async def _until_more(self, backoff: Backoff) -> None:
        """Return when an address that lacked is there."""
        while True:
            await asyncio.sleep(backoff.failed() if self._missing else float("inf"))
            had = len(self._bound)
            self._bind(tuple(self._missing))
            self._tell(self._crew_state)
            if len(self._bound) > had:
                return

    def _number(self, rev: int) -> int:
        """Go on to a revision; where it is so far ahead that it would count as earlier (RFC 1982 §3.2), by one.

        Never to a number whose serial is 0: among workers that is one who serves nothing yet (dns/serials.py).
        """
        found = self._numbers.next(rev if rev - self._numbers.last < HALF_OF_SERIALS else 0)
        return found if found % ALL_SERIALS else self._numbers.next()

    def _bind(self, listens: Iterable[Listen]) -> None:
        for listen in listens:
            try:
                self._bound.append(Bound(listen, bind(listen, self._options.dns_workers)))
            except OSError as error:
                why = f"{listen}: {error.strerror or error}"
                if self._missing.get(listen) != why:
                    log.warning("dns can't listen address=%s why=%s", listen, error.strerror or error)
                self._missing[listen] = why
            else:
                self._missing.pop(listen, None)

    def _hear(self, worker: int, payload: bytes) -> None:
        said = self.ledger.hear(worker, payload)
        if said.loaded:
            self._loaded.add(worker)
            if len(self._loaded) == self._options.dns_workers:
                self._left.retire()
        self._troubles[worker] = said.troubles
        told = tuple(dict.fromkeys(trouble for each in self._troubles.values() for trouble in each))
        if told != self._told:
            for trouble in set(told) - set(self._told):
                log.warning("dns asks others in vain why=%s", trouble)
            self._told = told
            self._tell(self._crew_state)

    def _overflow(self) -> int:
        datagram = (s for bound in self._bound for sockets in bound.sockets for s in sockets if s.type == SOCK_DGRAM)
        return sum(drops(one) for one in datagram)

    def _tell(self, state: str) -> None:
        self._crew_state = state
        wrong = (*self._missing.values(), *self._told)
        self._on_state(f"failed: {'; '.join(wrong)}" if wrong else state)

    def _programs(self, shared: int) -> list[Program]:
        """A program for each worker; `shared`: the block of their serials."""
        import msgspec  # noqa: PLC0415 (as above)

        settings, programs = self._settings(), list[Program]()
        for number in range(self._options.dns_workers):
            greeting = msgspec.msgpack.encode(structs.replace(settings, number=number, serials=shared))
            sockets = [s for bound in self._bound for s in bound.sockets[number]]
            programs.append(Program("dns", WORKER, greeting, sockets, (shared,)))
        return programs

    def _settings(self) -> "Settings":
        from svcnet.dns.settings import Settings  # noqa: PLC0415 (as above)
        from svcnet.dns.upstream import Server  # noqa: PLC0415 (as above)

        options = self._options
        own = tuple(bound.listen for bound in self._bound)
        return Settings(
            zones=options.zone,
            cluster_domain=options.cluster_domain,
            reverse=tuple(map(str, (*options.service_cidr, *options.cluster_cidr))),
            servers=advertised(_reachable(listen.host) for listen in own),
            node=options.node,
            ttls=options.dns_ttl,
            endpoints=options.dns_endpoints,
            pod_names=options.dns_endpoint_pod_names,
            empty_services=options.dns_empty_services,
            pods=options.dns_pods,
            onward=options.dns_fallthrough,
            upstreams=tuple(Server(*one) for one in upstreams(options.dns_upstream, own, _resolv_conf)),
            policy=options.dns_upstream_policy,
            max_fails=options.dns_upstream_max_fails,
            most_in_flight=options.dns_upstream_concurrent,
            trusted=(*trusted(options.dns_private, _resolv_conf), *_handed_on(options)),
            secret=secrets.token_hex(8),
            allow=tuple(map(str, options.dns_allow)),
            transfer_to=tuple(map(str, options.dns_transfer_to)),
            notify=tuple((one.host, one.port) for one in options.dns_notify),
            log_every=options.dns_log_every,
            owner=owner(options.state_dir),
        )


def owner(state_dir: Path) -> str:
    """Return by what name workers of a daemon go."""
    return str(state_dir.absolute())


def filled(listen: Listen, sets: Sets) -> Sets:
    """Return sockets on one address for each worker, where some have none yet; (): not to be had."""
    if all(sets):
        return sets
    opened = [one for each in sets for one in each]
    for one in opened:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        return tuple(each or tuple(_bind_one(listen, kind, shared=True) for kind in KINDS) for each in sets)
    except OSError as error:
        log.warning("dns workers without a socket address=%s why=%s", listen, error.strerror or error)
        return sets


def bind(listen: Listen, workers: int) -> tuple[tuple[socket.socket, ...], ...]:
    """Return a UDP and a TCP socket for each worker, bound to one address. OSError: not to be had."""
    opened: list[socket.socket] = []

    def one(kind: socket.SocketKind, port: int, shared: bool) -> socket.socket:
        opened.append(_bind_one(Listen(listen.host, port), kind, shared=shared))
        return opened[-1]

    try:
        # Alone first: a port that is shared would let another daemon of ours in without a word.
        stream = one(socket.SOCK_STREAM, listen.port, shared=False)
        port = stream.getsockname()[1]
        datagram = one(socket.SOCK_DGRAM, port, shared=False)
        if workers == 1:
            return ((datagram, stream),)
        stream.close()
        datagram.close()
        return tuple(tuple(one(kind, port, shared=True) for kind in KINDS) for _ in range(workers))
    except OSError:
        for each in opened:
            each.close()
        raise


def _bind_one(listen: Listen, kind: socket.SocketKind, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    fresh = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            fresh.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        if shared:
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        fresh.bind((listen.host, listen.port))
        if kind == socket.SOCK_STREAM:
            fresh.listen(BACKLOG)
    except OSError:
        fresh.close()
        raise
    return fresh


def drops(bound: socket.socket) -> int:
    """Return how many packets the kernel dropped since the socket was made (linux/sock_diag.h SK_MEMINFO_DROPS)."""
    with contextlib.suppress(OSError):  # it is closed
        return int.from_bytes(bound.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO_BYTES)[-4:], sys.byteorder)
    return 0


def upstreams(
    given: tuple[Upstream, ...] | None, own: Iterable[Listen], resolv_conf: Callable[[], str]
) -> tuple[Upstream, ...]:
    """Return the servers that other names go to: the given ones, else this machine's; never this server itself."""
    own = tuple(own)
    if given is None:
        given = tuple(Upstream(str(address), DNS_PORT) for address in parse_name_servers(resolv_conf()))
    return tuple(one for one in given if not any(_leads_to(one, listen) for listen in own))


def trusted(given: tuple[str, ...] | None, resolv_conf: Callable[[], str]) -> tuple[str, ...]:
    """Return the names that may lead to private addresses: the given ones, else the search domains that are names."""
    from svcnet.dns.name import absolute  # noqa: PLC0415 (what DNS needs is not read on the way to the first packet)

    if given is not None:
        return given
    found = []
    for domain in parse_search_domains(resolv_conf()):
        with contextlib.suppress(ValueError):
            absolute(domain)
            found.append(domain)
    return tuple(found)


def _handed_on(options: Config) -> tuple[str, ...]:
    """The zones whose names others may have too: of services, so that they lead to private addresses."""
    return (*options.zone, options.cluster_domain) if "" in options.dns_fallthrough else options.dns_fallthrough


def _leads_to(server: Upstream, listen: Listen) -> bool:
    same_family = (":" in server.host) == (":" in listen.host)  # a wildcard is one family's
    local = listen.host in WILDCARDS and same_family and ipaddress.ip_address(server.host.partition("%")[0]).is_loopback
    return server.port == listen.port and (local or server.host == listen.host)


def advertised(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return what the name in our NS records leads to: never loopback, unless only this machine can ask us at all."""
    found = tuple(dict.fromkeys(addresses))
    return tuple(a for a in found if not ipaddress.ip_address(a).is_loopback) or found


def _resolv_conf() -> str:
    with contextlib.suppress(OSError):
        return RESOLV_CONF.read_text(errors="replace")
    return ""


def _reachable(host: str) -> str:
    """Return the address that others know a listener by: for a wildcard the source of the default route."""
    if host not in WILDCARDS:
        return host.partition("%")[0]
    family, far = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((far, DNS_PORT))  # nothing is sent
        return str(probe.getsockname()[0])
    return "::1" if ":" in host else "127.0.0.1"
