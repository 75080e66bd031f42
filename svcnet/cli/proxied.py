"""Traffic through the userspace proxy, counted: what the workers' blocks say, into the accounts.

Owns: when they are read. Satisfies the agent's Follower, as svcnet.tally does where the kernel carries the traffic.
"""

import asyncio
from collections.abc import Callable, Iterable

from svcnet.model.snapshot import Delta, Snapshot
from svcnet.proxy.ledger import Counted
from svcnet.traffic import Seen, Traffic

LOOK_SECONDS = 1.0
Take = Callable[[], Iterable[Counted]]


class Proxied:
    """`take` gives what is new. `on_state` hears what `/status` says of it.

    `alone`: nobody else counts, so that bytes are known of all traffic.
    """

    def __init__(
        self,
        traffic: Traffic,
        on_state: Callable[[str], None],
        take: Callable[[], Iterable[Counted]],
        *,
        alone: bool = True,
    ) -> None:
        self._traffic = traffic
        self._on_state = on_state
        self._take = take
        traffic.bytes_known |= alone
        traffic.is_proxied |= alone

    def publish(self, snapshot: Snapshot, delta: Delta) -> None:
        """Follow a sync."""
        self._look()  # what was counted until now belongs to those who were there
        self._traffic.follow(snapshot, delta)

    async def run(self, begin: asyncio.Event) -> None:
        """Count until cancelled, from `begin` on."""
        await begin.wait()
        self._on_state("running")
        while True:
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        self._traffic.count(map(seen, self._take()))


def seen(counted: Counted) -> Seen:
    """In the words of the accounts. A backend that is gone is no endpoint: its service alone has what it carried."""
    address, port = counted.backend or ("", 0)
    more = (counted.cells, counted.dials, counted.lives)
    return Seen(counted.front, (address, port), counted.connections, counted.bytes_in, counted.bytes_out, more)
