"""What counts the traffic: the kernel's events of flows, read at leisure, into the accounts.

Owns: when events are read and open flows looked at, and what `/status` says of it. Whose a flow is: traffic.py.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Container
from pathlib import Path

from svcnet.iptables.flow_dump import open_flows
from svcnet.iptables.flow_events import FlowEvents
from svcnet.iptables.flow_tally import FlowTally
from svcnet.iptables.netlink import NetlinkError
from svcnet.model.errors import KernelError
from svcnet.model.snapshot import Delta, Snapshot
from svcnet.pacing import Backoff
from svcnet.traffic import Traffic

log = logging.getLogger(__name__)

SLICE = 256
"""Events that are read in one go, some 1 ms: a change of the records comes between two of them."""
PAUSE_SECONDS = 0.2
"""Events of this long are read together: to be woken by each would cost more than to read it."""
LOOK_SECONDS = 10.0
"""How often open flows are asked what they carried; a long table seldomer, so that it is at most a 20th of the time."""
LEAST_BYTES = 1 << 16
"""A flow that carried less is counted when it ends."""
SETTINGS = Path("/proc/sys/net/netfilter")

ONLY_CONNECTIONS = "running: connections; bytes need sysctl net.netfilter.nf_conntrack_acct=1"
NO_EVENTS = "failed: net.netfilter.nf_conntrack_events is 0"


class Tally:
    """Satisfies the agent's Follower. `on_state` hears what `/status` says of it.

    Flows that lead to an address of `but` are not counted: who listens there does that.
    """

    def __init__(self, traffic: Traffic, on_state: Callable[[str], None], but: Container[str] = ()) -> None:
        self._traffic = traffic
        self._but = but
        self._on_state = on_state
        self._tally = FlowTally()
        self._ends = False
        self._lost = 0

    def publish(self, snapshot: Snapshot, delta: Delta) -> None:
        """Follow a sync."""
        self._traffic.follow(snapshot, delta)

    async def run(self, begin: asyncio.Event) -> None:
        """Count until cancelled, from `begin` on; a socket that fails is opened again."""
        await begin.wait()
        backoff = Backoff()
        while True:
            try:
                with FlowEvents() as events:
                    self._lost, self._ends = self._traffic.lost, False
                    await self._count(events)
            except (KernelError, OSError) as error:
                log.warning("traffic is not counted why=%s", error)
                self._on_state(f"failed: {error}")
            await asyncio.sleep(backoff.failed())

    async def _count(self, events: FlowEvents) -> None:
        due = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            begin = clock()
            if begin >= due:
                self._heed_settings(events)
                await self._look()
                due = clock() + max(LOOK_SECONDS, 20 * (clock() - begin))
            await _readable(events, due - clock())
            more = True
            while more:
                some, more = events.read(SLICE)
                self._tally.note(some)
                await asyncio.sleep(0)
            self._traffic.count(seen for seen in self._tally.take() if seen.backend[0] not in self._but)
            self._traffic.lost = self._lost + events.lost
            await asyncio.sleep(PAUSE_SECONDS)

    def _heed_settings(self, events: FlowEvents) -> None:
        """The operator may switch on what we may not."""
        ends = _setting("nf_conntrack_acct") == "1"
        if ends != self._ends:
            events.tell_ends(ends)
            self._ends = ends
        self._traffic.bytes_known |= ends
        told = _setting("nf_conntrack_events") != "0"
        self._on_state(("running" if ends else ONLY_CONNECTIONS) if told else NO_EVENTS)

    async def _look(self) -> None:
        """Ask open flows. Events wait meanwhile: that of an end must not be noted before a look that saw the flow."""
        if self._ends:
            try:
                self._tally.look(await asyncio.to_thread(open_flows, LEAST_BYTES))
            except NetlinkError as error:
                if error.code not in {errno.ENOBUFS, errno.EBUSY}:
                    raise


async def _readable(events: FlowEvents, seconds: float) -> None:
    """Return when there is something to read, or so long has passed."""
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(events.fileno(), there.set)
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await there.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(events.fileno())


def _setting(name: str) -> str:
    try:
        return (SETTINGS / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
