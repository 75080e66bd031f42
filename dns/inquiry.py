"""One question to the servers upstream, until one answers: failover within the query. Shell.

Owns: which server is asked when, and when to give up. Must not know the cache or who waits.

A server that is silent for longer than it usually takes is still listened to when the next is asked: the first good
reply counts. One that says SERVFAIL or the like is passed over at once.
"""

from collections.abc import Callable, Sequence

from svcnet.dns.answer import FORMERR, NOTIMP
from svcnet.dns.exchange import Exchange, Link, Loop, Timer, message
from svcnet.dns.ledger import RCODES
from svcnet.dns.query import RCODE
from svcnet.dns.reply import FOUND, Reply, read
from svcnet.dns.upstream import MOST_FAILED_PROBES, Health, Server, order

WHOLE_SECONDS = 4.0
"""For one question: a stub resolver asks again after 5 s."""
ROUNDS = 2
"""How often every server is asked: a datagram may be lost."""


class Peer:
    """One server upstream as this worker has it. `failed` hears of tries without a reply, `count` of all."""

    def __init__(
        self,
        loop: Loop,
        server: Server,
        link: Link,
        failed: Callable[[], None],
        count: Callable[..., None],
        max_fails: int = MOST_FAILED_PROBES,
    ) -> None:
        self._count = count
        self._label = str(server)
        self.loop = loop
        self.server = server
        self.link = link
        self.health = Health(max_fails)
        self.failed = failed

    def exchange(self, asked: bytes, heard: Callable[[bytes | None], None]) -> Exchange:
        """Ask it, once."""
        begin = self.loop.time()
        self._count("forward_requests", self._label)

        def note(reply: bytes | None) -> None:
            if reply is None:
                self.missed()
            else:
                rcode = reply[3] & RCODE
                self._count("forward_responses", self._label, RCODES.get(rcode, str(rcode)))
                self.health.replied(self.loop.time() - begin, reply[3] & 0xF in FOUND)
            heard(reply)

        return Exchange(self.loop, self.server, self.link, asked, note)

    def missed(self) -> None:
        """Note that it was waited for in vain."""
        self._count("forward_responses", self._label, "none")
        self.failed()


class Inquiry:
    """Runs from its making to the call of `over`: the reply, a failure that a server told, or None.

    `turn`: the numbers of the peers in the order in which they are asked, all else being equal; () as they come.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        question: bytes,
        flags: tuple[bool, bool],
        over: Callable[[Reply | None], None],
        whole_seconds: float = WHOLE_SECONDS,
        turn: Sequence[int] = (),
    ) -> None:
        self._loop = peers[0].loop
        self._peers = peers
        self._question = question
        self._flags = flags
        self._over = over
        self._open: dict[Exchange, Peer] = {}
        self._last: Reply | None = None
        self._ended = False
        self._patience: Timer | None = None
        chosen = order([peer.health for peer in peers], turn or range(len(peers)), self._loop.time())
        self._left = [peers[number] for number in chosen] * ROUNDS
        self._asked: list[Peer] = []
        self._deadline = self._loop.call_later(whole_seconds, self._finish)
        self._next()

    def abandon(self, peer: Peer) -> None:
        """Expect nothing of a server any more."""
        self._left = [other for other in self._left if other is not peer]
        for exchange in [exchange for exchange, other in self._open.items() if other is peer]:
            exchange.cancel()
            del self._open[exchange]
        if not self._ended and not self._open:
            self._next()

    def cancel(self) -> None:
        """End it; nobody is told."""
        self._ended = True
        self._deadline.cancel()
        if self._patience is not None:
            self._patience.cancel()
        for exchange in self._open:
            exchange.cancel()
        self._open.clear()

    def _next(self) -> None:
        """Ask one more server; without any left, wait for those that were asked."""
        if self._patience is not None:
            self._patience.cancel()
        if self._left:
            peer = self._left.pop(0)
            self._asked.append(peer)
            self._ask(peer, edns=True)
            self._patience = self._loop.call_later(peer.health.patience, self._next)
        elif not self._open:
            self._loop.call_later(0, self._finish)

    def _ask(self, peer: Peer, edns: bool) -> None:
        def heard(packet: bytes | None) -> None:
            del self._open[exchange]
            reply = _readable(packet, self._question)
            if reply is None or reply.rcode not in FOUND:
                self._last = reply or self._last
                old = edns and not self._flags[1] and reply is not None and reply.rcode in {FORMERR, NOTIMP}
                if old:  # a server from before EDNS (RFC 6891 §7)
                    self._ask(peer, edns=False)
                else:
                    self._next()
                return
            self._finish(reply, peer)

        exchange = peer.exchange(message(self._question, *self._flags, edns=edns), heard)
        self._open[exchange] = peer

    def _finish(self, reply: Reply | None = None, best: Peer | None = None) -> None:
        if self._ended:
            return
        silent = set(self._open.values())
        before = self._asked if best is None else self._asked[: self._asked.index(best)]
        self.cancel()
        for peer in dict.fromkeys(before):
            if best is not None:
                peer.health.passed_by(self._loop.time())
            if peer in silent:
                peer.missed()
        self._over(reply or self._last)


def _readable(packet: bytes | None, question: bytes) -> Reply | None:
    if packet is None:
        return None
    try:
        return read(packet, len(question))
    except ValueError:
        return None
