"""Other names: from the cache, or asked of the servers upstream, in bounded time. Shell.

Owns: what is in flight, who waits for it, when a server is probed, and what is counted. Must not know our zones. No
call blocks: every answer comes by `done`, at once where the cache has it.
"""

import random
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from svcnet.dns.answer import IN, REFUSED, SERVFAIL
from svcnet.dns.cache import STALE_SECONDS, Cache, Entry, Key
from svcnet.dns.exchange import CERTIFICATE, Exchange, Heard, Link, Loop, Timer, message
from svcnet.dns.inquiry import WHOLE_SECONDS, Inquiry, Peer
from svcnet.dns.mirror import Mirror
from svcnet.dns.private import OWN_NAMES, Trusted
from svcnet.dns.query import CD
from svcnet.dns.records import NS, PTR
from svcnet.dns.relay import relayed
from svcnet.dns.reply import FOUND, Reply
from svcnet.dns.responder import Ask
from svcnet.dns.upstream import MOST_FAILED_PROBES, MOST_IN_FLIGHT, PROBE_SECONDS, SEQUENTIAL, Server, Turns

CACHE_BYTES = 16 << 20
STALE_TTL = 30
"""Of an answer past its time (RFC 8767 §4)."""
STALE_AFTER_SECONDS = 1.8
"""A client that could have a stale answer waits so long for a new one (RFC 8767 §5)."""
QUIET_SECONDS = 30.0
"""After nobody could tell, the stale answer is given at once for so long (RFC 8767 §5)."""
DOWN_SECONDS = 1.0
"""For a question while every server is down: clients, and those that come after them, need not wait long for that."""
FAILURE_SECONDS = 2.0
"""How long a failure is kept where there is no answer (RFC 9520 §3.2: 1 s at least)."""
MIRROR_SECONDS, LOOPING_SECONDS = 30.0, 5.0
"""How often a server that is in use is asked for a name that shows a loop; and one that has shown it."""
TOO_MANY = Reply(REFUSED)
"""For a question above the most that may be in flight: nobody failed, we don't ask (as CoreDNS' max_concurrent)."""
LIFE = b"\0" + NS.to_bytes(2) + IN.to_bytes(2)
"""The root's servers: every resolver has them."""
Done = Callable[[bytes], None]
Links = Callable[[Server], Link]


class _Waiter(NamedTuple):
    ask: Ask
    done: Done


class _Flight:
    """A question that is being asked, and who waits for it."""

    def __init__(self) -> None:
        self.inquiry: Inquiry | None = None
        self.waiters: list[_Waiter] = []
        self.stale: Entry | None = None
        self.timer: Timer | None = None
        self.late = False
        """Whoever could have a stale answer waits no longer."""


class Options(NamedTuple):
    """How a forwarder is set up."""

    cache_bytes: int = CACHE_BYTES
    most_in_flight: int = MOST_IN_FLIGHT
    secret: str = ""
    """The same in every worker of a daemon; "" for one that is alone."""
    trusted: tuple[str, ...] = ()
    """Names that may lead to private addresses, besides OWN_NAMES."""
    whole_seconds: float = WHOLE_SECONDS
    policy: str = SEQUENTIAL
    max_fails: int = MOST_FAILED_PROBES


class Forwarder:
    """`links` opens a way by stream to a server; `count` hears of events (svcnet.dns.ledger.EVENTS)."""

    def __init__(
        self,
        loop: Loop,
        servers: Sequence[Server],
        links: Links,
        count: Callable[..., None],
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        self._count = count
        self._loop = loop
        self._options = options
        self._cache = Cache(options.cache_bytes)
        self._flights: dict[Key, _Flight] = {}
        self._mirror = Mirror(options.secret or secrets.token_hex(8))
        self._mirrored: dict[int, float] = {}
        self._probing: set[int] = set()
        self._own: set[Exchange] = set()
        """Probes in flight."""
        self._trusted = Trusted((*OWN_NAMES, *options.trusted))
        self._peers = [
            Peer(loop, server, links(server), partial(self._suspect, number), count, options.max_fails)
            for number, server in enumerate(servers)
        ]
        self._turns = Turns(options.policy, len(servers), random.shuffle)

    def ask(self, ask: Ask, done: Done) -> None:
        """Call `done` with the reply to a question, now or in bounded time."""
        if self._returned(ask, done):
            return
        query = ask.query
        key = (ask.name + query.question[-4:], bool(query.flags & CD), query.wants_dnssec)
        now = self._loop.time()
        entry = self._cache.get(key, now)
        waiter = _Waiter(ask, done)
        if entry is not None and entry.fresh(now):
            self._count("cache_hits", "success" if entry.reply.counts[:2] != b"\0\0" else "denial")
            self._answer(waiter, entry.reply, int(now - entry.born))
            if entry.wants_refresh(now) and key not in self._flights and self._room():
                self._count("cache_prefetch")
                self._fly(key)
            return
        if entry is not None and now < entry.quiet_until:
            self._stale(waiter, entry)
            return
        self._count("cache_misses")
        self._wait(key, waiter, entry)

    def close(self) -> None:
        """Let go of every socket; whoever waits is not told."""
        for flight in self._flights.values():
            if flight.timer is not None:
                flight.timer.cancel()
            if flight.inquiry is not None:
                flight.inquiry.cancel()
        self._flights.clear()
        for exchange in self._own:
            exchange.cancel()
        self._own.clear()
        for peer in self._peers:
            peer.link.close()

    def levels(self) -> dict[str, float]:
        """Return the rows of `svcnet.dns.ledger.LEVELS` that are ours."""
        return {
            "cache_entries": float(len(self._cache)),
            "cache_bytes": float(self._cache.bytes),
            "forward_in_flight": float(len(self._flights)),
            "forward_servers_down": float(sum(not peer.health.up for peer in self._peers)),
        }

    @property
    def troubles(self) -> tuple[str, ...]:
        """Which servers can't be used as they are set up, and why."""
        loops = (f"upstream {peer.server} leads back to this server" for peer in self._peers if peer.health.loops)
        links = (
            f"upstream {peer.server}: {peer.link.why}" for peer in self._peers if peer.link.why.startswith(CERTIFICATE)
        )
        dead = self._peers and not any(peer.health.up for peer in self._peers)
        return (*loops, *links, *(("no server upstream gives a sign of life",) if dead else ()))

    def _wait(self, key: Key, waiter: _Waiter, entry: Entry | None) -> None:
        flight = self._flights.get(key)
        if flight is not None:
            self._count("forward_joined")
        elif not self._room():
            self._count("forward_max_concurrent_rejects")
            self._give_up(waiter, entry, TOO_MANY)
            return
        else:
            flight = self._fly(key)
            if flight is None:
                self._count("forward_failures")
                self._give_up(waiter, entry)
                return
        if entry is not None and flight.late:
            self._stale(waiter, entry)
            return
        flight.waiters.append(waiter)
        if entry is not None and flight.timer is None:
            flight.stale = entry
            flight.timer = self._loop.call_later(STALE_AFTER_SECONDS, self._give_stale, flight)

    def _room(self) -> bool:
        return len(self._flights) < self._options.most_in_flight

    def _fly(self, key: Key) -> _Flight | None:
        """Ask upstream; None: no server is left to ask."""
        if all(peer.health.loops for peer in self._peers):
            self._look_for_loops()
            return None
        flight = self._flights[key] = _Flight()
        over = partial(self._landed, key, flight)
        hope = any(peer.health.up and not peer.health.loops for peer in self._peers)
        seconds = self._options.whole_seconds if hope else min(self._options.whole_seconds, DOWN_SECONDS)
        flight.inquiry = Inquiry(self._peers, key[0], key[1:], over, seconds, self._turns.next())
        self._look_for_loops()
        return flight

    def _landed(self, key: Key, flight: _Flight, reply: Reply | None) -> None:
        """Keep what there is to keep; answer all who wait."""
        del self._flights[key]
        if flight.timer is not None:
            flight.timer.cancel()
        now = self._loop.time()
        if reply is not None and reply.rcode in FOUND:
            if reply.seconds:
                self._put(key, reply, reply.seconds)
            for waiter in flight.waiters:
                self._answer(waiter, reply, 0)
            return
        self._count("forward_failures")
        self._look_for_loops()
        entry = self._cache.get(key, now)
        if entry is not None and entry.reply.rcode in FOUND:
            entry.quiet_until = now + QUIET_SECONDS
        else:
            entry = None
            failure = Reply(SERVFAIL if reply is None else reply.rcode)
            self._put(key, failure, FAILURE_SECONDS, stale_seconds=0)
        for waiter in flight.waiters:
            if entry is not None:
                self._stale(waiter, entry)
            else:
                self._answer(waiter, reply, 0)

    def _put(self, key: Key, reply: Reply, seconds: float, stale_seconds: float = STALE_SECONDS) -> None:
        gone = self._cache.put(key, reply, self._loop.time(), seconds, stale_seconds)
        if gone:
            self._count("cache_evictions", by=gone)

    def _give_stale(self, flight: _Flight) -> None:
        """Whoever waited long enough gets what was."""
        waiters, flight.waiters, flight.late = flight.waiters, [], True
        assert flight.stale is not None
        for waiter in waiters:
            self._stale(waiter, flight.stale)

    def _give_up(self, waiter: _Waiter, entry: Entry | None, why: Reply | None = None) -> None:
        if entry is not None:
            self._stale(waiter, entry)
        else:
            self._answer(waiter, why, 0)

    def _stale(self, waiter: _Waiter, entry: Entry) -> None:
        self._count("cache_served_stale")
        waiter.done(relayed(waiter.ask, self._shown(waiter.ask, entry.reply), entry.reply.stale(STALE_TTL)))

    def _answer(self, waiter: _Waiter, reply: Reply | None, age: int) -> None:
        shown = self._shown(waiter.ask, reply) if reply is not None else None
        waiter.done(relayed(waiter.ask, shown, shown.aged(age) if shown is not None else b""))

    def _shown(self, ask: Ask, reply: Reply) -> Reply:
        """Return what this client may see; an alias of ours leads where its record's author wanted it to."""
        if not reply.private or ask.aliases or ask.query.type == PTR or ask.name in self._trusted:
            return reply
        self._count("forward_private_addresses")
        return Reply(reply.rcode)

    # Signs of life

    def _suspect(self, number: int) -> None:
        """A try had no reply: ask for a sign of life until there is one."""
        if self._options.max_fails and number not in self._probing:
            self._probing.add(number)
            self._loop.call_later(PROBE_SECONDS, self._probe, number)

    def _probe(self, number: int) -> None:
        peer = self._peers[number]

        def heard(reply: bytes | None) -> None:
            self._probing.discard(number)
            if reply is None:
                peer.health.failed_probes += 1
                self._count("forward_healthcheck_failures", str(peer.server))
                self._suspect(number)

        self._ask_ourselves(peer, LIFE, 2 * PROBE_SECONDS, heard)

    def _ask_ourselves(self, peer: Peer, question: bytes, seconds: float, heard: Heard) -> None:
        def over(reply: bytes | None) -> None:
            late.cancel()
            self._own.discard(exchange)
            heard(reply)

        def give_up() -> None:
            exchange.cancel()
            over(None)

        late = self._loop.call_later(seconds, give_up)
        exchange = peer.exchange(message(question, False, False), over)
        self._own.add(exchange)

    # Loops

    def _look_for_loops(self) -> None:
        """Ask every server for a name that shows whether it leads back, where that is due."""
        now = self._loop.time()
        for number, peer in enumerate(self._peers):
            due = self._mirrored.get(number, now)
            if now >= due:
                self._mirrored[number] = now + (LOOPING_SECONDS if peer.health.loops else MIRROR_SECONDS)
                self._look(number)

    def _look(self, number: int) -> None:
        peer = self._peers[number]
        question = self._mirror.question(number, secrets.token_hex(4))

        def heard(reply: bytes | None) -> None:
            if reply is not None:
                self._loops(number, self._mirror.shown(reply))

        self._ask_ourselves(peer, question, self._options.whole_seconds, heard)

    def _returned(self, ask: Ask, done: Done) -> bool:
        """Whether the question is one of ours that came back; then it is answered."""
        number = self._mirror.number(ask.name)
        if number is None:
            return False
        self._count("forward_loops")
        if number < len(self._peers):
            self._loops(number, True)
        done(self._mirror.reply(ask.query))
        return True

    def _loops(self, number: int, loops: bool) -> None:
        peer = self._peers[number]
        if peer.health.loops == loops:
            return
        peer.health.loops = loops
        self._mirrored[number] = self._loop.time() + LOOPING_SECONDS
        if loops:
            for flight in list(self._flights.values()):
                if flight.inquiry is not None:
                    flight.inquiry.abandon(peer)
