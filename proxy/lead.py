"""Where one frontend leads whom: the step from a client's address to the backends it may have.

Owns: who counts as near (a pod, or this machine itself). Must not know sockets.
"""

from collections.abc import Callable, Container, Iterable
from functools import partial
from ipaddress import ip_network

from svcnet.proxy.hashed import packed
from svcnet.proxy.pool import BY_CLIENT, Marks, Pool
from svcnet.proxy.row import Backend, Reach, Weights

Pick = Callable[[Container[Backend]], Backend | None]
"""The next backend of a connection, passing over some; None when there is no other."""


class Neighbours:
    """Clients that count as near: addresses of pods, and this machine's own, which `is_own` knows."""

    def __init__(self, pods: Iterable[str], is_own: Callable[[str], bool]) -> None:
        self._masks = [
            (n.version, int(n.netmask), int(n.network_address))
            for n in (ip_network(text, strict=False) for text in pods)
        ]
        self._is_own = is_own

    def have(self, address: str) -> bool:
        """Whether an address is near."""
        value, version = int.from_bytes(packed(address)), 6 if ":" in address else 4
        return any(version == v and value & mask == network for v, mask, network in self._masks) or self._is_own(
            address
        )


class Lead:
    """Of one frontend, as long as it is there; `follow` changes it."""

    def __init__(self, neighbours: Neighbours, clock: Callable[[], float]) -> None:
        self._neighbours = neighbours
        self._clock = clock
        self._pool: Pool | None = None
        self._reach = Reach.ALL
        self._marks: Marks | None = None
        self.is_filtered = False
        """Whether the listener does not let in everybody."""

    def follow(self, pool: Pool | None, reach: Reach = Reach.ALL) -> Pool | None:
        """Lead to this pool from now on; return one that nobody leads to any more."""
        before, self._pool, self._reach = self._pool, pool, reach
        if pool is not None:
            pool.users += 1
        if before is not None:
            before.users -= 1
            if self._marks is not None and before is not pool:
                before.hide(self._marks)
        return before if before is not None and not before.users else None

    def show(self, marks: Marks) -> None:
        """Mark there which backends are out, now and as long as it leads to them."""
        self._marks = marks
        if self._pool is not None:
            self._pool.show(marks)

    @property
    def name(self) -> str:
        """Of the service that it leads to."""
        return "" if self._pool is None else self._pool.name

    def picker(self, client: str) -> Pick:
        """Asked for each try of a connection that a client begins now."""
        if self._pool is None:
            return _nobody
        local = self._is_local(client)
        if self._pool.choice not in BY_CLIENT:
            return self._pool.scopes[local].pick
        return partial(_pick, self._pool, client, self._clock(), local)

    @property
    def everyones_picker(self) -> Pick | None:
        """The picker of all clients, if it is the same."""
        if self._pool is None or self._pool.choice in BY_CLIENT or self._reach is Reach.BY_SOURCE:
            return None
        return self._pool.scopes[self._reach is Reach.LOCAL].pick

    @property
    def pool(self) -> Pool | None:
        """Where it leads."""
        return self._pool

    def weights(self, client: str) -> Weights:
        """The backends that a client may have."""
        return {} if self._pool is None else self._pool.scopes[self._is_local(client)].weights

    def _is_local(self, client: str) -> bool:
        if self._reach is Reach.BY_SOURCE:
            return not self._neighbours.have(client)
        return self._reach is Reach.LOCAL


def _pick(pool: Pool, client: str, now: float, local: bool, without: Container[Backend]) -> Backend | None:
    return pool.pick(client, now, without, local=local)


def _nobody(_without: Container[Backend]) -> None:
    return None
