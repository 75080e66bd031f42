"""Where the userspace proxy listens for services whose other addresses the kernel leads to it.

Owns: which address and port of this minion stands for which service port and reach, and when it is given up. Nobody is
told the number: a rule of the kernel leads there, and nothing else does.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import PortKey
from svcnet.probe import probe
from svcnet.proxy.listening import TAKEN
from svcnet.proxy.route import Network
from svcnet.proxy.row import Reach, Rule
from svcnet.proxy.userspace import Userspace

log = logging.getLogger(__name__)

PORTS = range(49_152, 65_536)
"""Those that no server has by convention (RFC 6335). A client that gets one of them has another address."""
TRIES = 64
"""Ports that are tried before an entrance is given up as one that can't be."""
LINGER_SECONDS = 10.0
"""How long an entrance stays open when nobody new is led there: for handshakes whose packets were lost."""
START_SECONDS = 10.0
LOOK_SECONDS = 0.01


class Key(NamedTuple):
    """Whose entrance: frontends of one service port with one reach share it."""

    owner: PortKey
    reach: Reach


def own_addresses(networks: Iterable[Network]) -> dict[int, str]:
    """Family → the address that entrances are on: the network address of the service CIDR.

    No service ever has it, and what was not translated never gets there: the rules drop it as unallocated.
    """
    return {network.version: str(network.network_address) for network in networks}


class Entrances:
    """Nothing happens before the first `open`. For one thread at a time; `at` and `failed` may be read by any."""

    def __init__(self, proxy: Userspace, addresses: Mapping[int, str], is_needed: Callable[[Frontend], bool]) -> None:
        """`is_needed`: whether somebody still sends to an entrance that nobody new is led to."""
        self._proxy = proxy
        self._addresses = addresses
        self._is_needed = is_needed
        self._keys: dict[Frontend, Key] = {}
        self._closing: dict[Key, float] = {}
        self._in_use: set[Frontend] = set()
        """By other programs, which listen on all addresses."""
        self.at: dict[Key, Frontend] = {}
        """Those that are open, those that are about to be closed too."""
        self.failed: dict[Key, str] = {}
        """Those that are wanted and can't be, and why."""
        self.is_started = False

    def place(self, key: Key) -> Frontend | None:
        """Where one is, if people can be led there."""
        return None if key in self.failed else self.at.get(key)

    def guess(self, key: Key) -> Frontend:
        """Where one most likely is, as another process would have it."""
        return self.at.get(key) or next(iter(self._places(key)))

    def adopt(self, places: Mapping[Key, Frontend]) -> None:
        """Have entrances where rules of a daemon before this one lead: those who serve there serve the same."""
        for key, front in places.items():
            if front.address == self._addresses.get(key.owner.family) and front not in self._keys:
                self.at[key], self._keys[front] = front, key

    def open(self, wanted: Mapping[Key, Rule]) -> None:
        """Listen for these, or obey another rule; when it returns the workers accept. KernelError."""
        rules: dict[Frontend, Rule] = {}
        for key, rule in wanted.items():
            self._closing.pop(key, None)
            if why := self._refusal(key):
                self.failed[key] = why
                continue
            front = self.at.get(key) or self._take(key)
            if front is not None:
                rules[front] = rule
        self._serve(rules)
        for _ in range(TRIES):
            taken = [front for front in rules if self._proxy.why_not(front) == TAKEN]
            if not taken:
                break
            fresh = {after: rules.pop(front) for front in taken if (after := self._move(front)) is not None}
            self._proxy.apply({**dict.fromkeys(taken), **fresh})
            rules |= fresh
        for front in rules:
            self._judge(front)

    def renew(self) -> None:
        """See to it that the addresses are local, and forget what has been in the way. KernelError."""
        self._in_use.clear()
        if self.is_started:
            self._proxy.sync(dict(self._proxy.rows))
            for front in self._keys:
                self._judge(front)

    def follow(self, rules: Mapping[Key, Rule]) -> None:
        """Rules of those that nobody new is led to, as far as they are open."""
        told = {self.at[key]: rule for key, rule in rules.items() if key in self._closing}
        if told:
            self._proxy.apply(told)

    def retire(self, gone: Iterable[Key]) -> None:
        """From now on nobody new is led to these."""
        for key in gone:
            self.failed.pop(key, None)
            if key in self.at:
                self._closing.setdefault(key, time.monotonic())

    def tend(self) -> frozenset[Key]:
        """Close those that nobody needs any more; return them."""
        due = time.monotonic() - LINGER_SECONDS
        over = [(key, self.at[key]) for key, since in self._closing.items() if since <= due]
        over = [(key, front) for key, front in over if not (self._proxy.waiting(front) or self._is_needed(front))]
        if over:
            self._proxy.apply({front: None for _, front in over})
        for key, front in over:
            del self._closing[key], self.at[key], self._keys[front]
        return frozenset(key for key, _ in over)

    @property
    def is_better(self) -> bool:
        """Whether one that could not be can be now."""
        return any(key in self.at and not self._proxy.why_not(self.at[key]) for key in self.failed)

    def _serve(self, rules: dict[Frontend, Rule]) -> None:
        if self.is_started:
            self._proxy.apply(rules)
        elif rules:
            self._proxy.sync(rules)
            self.is_started = True
            end = time.monotonic() + START_SECONDS
            while not all(worker.counters for worker in self._proxy.workers) and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)  # clients would wait in the queue for a process to start

    def _refusal(self, key: Key) -> str:
        family = key.owner.family
        return "" if family in self._addresses else f"there is no IPv{family} service CIDR"

    def _judge(self, front: Frontend) -> None:
        key, why = self._keys[front], self._proxy.why_not(front)
        if why:
            self.failed[key] = why
        else:
            self.failed.pop(key, None)

    def _places(self, key: Key) -> Iterable[Frontend]:
        """From a number on that follows from the name: after a kill most rules are as they should be."""
        owner = key.owner
        address = self._addresses[owner.family]
        for offset in probe(f"{owner} {key.reach.value}", len(PORTS), 0):
            yield Frontend(owner.family, address, owner.protocol.lower(), PORTS[offset])

    def _take(self, key: Key) -> Frontend | None:
        """A port for it, if there is one."""
        for front in self._places(key):
            if front not in self._keys and front not in self._in_use:
                self.at[key], self._keys[front] = front, key
                return front
        self.failed[key] = f"no port of {PORTS.start}-{PORTS.stop - 1} is free"
        return None

    def _move(self, front: Frontend) -> Frontend | None:
        """Another port for the same, as another program has this one."""
        self._in_use.add(front)
        key = self._keys.pop(front)
        del self.at[key]
        return self._take(key)
