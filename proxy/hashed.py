"""Source hash: which backend a client's address leads to, the same on all minions, in all workers and modes. Pure.

Owns: the hash, and the table of one set of backends. Who is passed over is said with each question.
"""

import socket
import struct
from collections.abc import Container
from functools import lru_cache

from svcnet.jhash import jhash, scaled
from svcnet.proxy.row import Backend, Weights
from svcnet.rendezvous import Rendezvous

HASH_SEED = 1
"""The kernel paths have the same: a client has one endpoint in every mode."""
_PORT = struct.Struct(">H2x")


class Hashed:
    """Source hash, with the slots that the kernel paths have (svcnet/rendezvous.py)."""

    def __init__(self) -> None:
        self._table = Rendezvous()
        self._weights: Weights = {}
        self._slots: list[Backend] | None = []

    def update(self, weights: Weights) -> None:
        """Lead to these. The slots are filled when the first client comes."""
        if weights != self._weights:
            self._weights, self._slots = weights, None

    def pick(self, client: str, without: Container[Backend]) -> Backend | None:
        """Where a client belongs; instead of those `without`, always to the same other one."""
        if self._slots is None:
            named = {_key(backend): backend for backend in self._weights}
            self._slots = [named[key] for key in self._table.assign({k: self._weights[b] for k, b in named.items()})]
        slots = self._slots
        if not slots:
            return None
        at = scaled(hash_of(client), len(slots))
        if slots[at] not in without:
            return slots[at]
        after = (slots[number % len(slots)] for number in range(at + 1, at + len(slots)))
        return next((backend for backend in after if backend not in without), None)


@lru_cache(maxsize=4096)
def hash_of(client: str) -> int:
    """32 bits of a client's address."""
    return jhash(packed(client), HASH_SEED)


def packed(address: str) -> bytes:
    """An address as 4 or 16 bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address.partition("%")[0])


def _key(backend: Backend) -> bytes:
    """The bytes by which the kernel paths name an endpoint."""
    return packed(backend.address) + _PORT.pack(backend.port)
