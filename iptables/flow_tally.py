"""Events of flows → what was seen of each way since the last time. Pure.

Owns: that a connection is counted once, when it begins, and a byte once, although a long flow's are asked for while it
lasts and told again when it ends.
"""

from collections.abc import Iterable

from svcnet.iptables.elements import FAMILY_NUMBERS, PROTOCOL_NAMES, unpacked
from svcnet.iptables.flow_events import Event, Way
from svcnet.model.frontend import Frontend
from svcnet.traffic import Seen

MOST_OPEN = 50_000
"""Flows whose bytes are remembered; what others carry is counted when they end."""
_FAMILIES = {number: family for family, number in FAMILY_NUMBERS.items()}


class FlowTally:
    """Told of events in the order in which the kernel sent them."""

    def __init__(self) -> None:
        self._sums: dict[Way, list[int]] = {}
        self._open: dict[int, tuple[int, int]] = {}
        """What was counted of a flow that lasts."""
        self._looked = False
        self._missing: set[int] = set()
        """Those that the last look did not find: the event of their end may still be on its way."""

    def note(self, events: Iterable[Event]) -> None:
        """Count flows that began or ended."""
        for event in events:
            if event.ended:
                self._carried(event, self._open.pop(event.name, (0, 0)))
            else:
                self._sums.setdefault(event.way, [0, 0, 0])[0] += 1

    def look(self, flows: Iterable[Event]) -> None:
        """Count what open flows carried since the last look. The end of one that is here must be noted after it.

        What they carried before the first look was not seen: another daemon may have counted it.
        """
        looked, self._looked = self._looked, True
        here: set[int] = set()
        for flow in flows:
            here.add(flow.name)
            before = self._open.get(flow.name)
            if before is not None or len(self._open) < MOST_OPEN:
                if looked:
                    self._carried(flow, before or (0, 0))
                self._open[flow.name] = flow.bytes_in, flow.bytes_out
        gone = self._open.keys() - here
        for name in gone & self._missing:
            del self._open[name]  # its event was lost, or never sent: the flow is older than whoever listens
        self._missing = gone - self._missing

    def take(self) -> list[Seen]:
        """What was seen since this was asked last."""
        sums, self._sums = self._sums, {}
        found = []
        for (number, address, protocol, port, backend, backend_port), counts in sums.items():
            name = PROTOCOL_NAMES.get(protocol)
            if name is not None:
                front = Frontend(_FAMILIES[number], unpacked(address), name, port)
                connections, bytes_in, bytes_out = counts
                found.append(Seen(front, (unpacked(backend), backend_port), connections, bytes_in, bytes_out))
        return found

    def _carried(self, event: Event, before: tuple[int, int]) -> None:
        sums = self._sums.setdefault(event.way, [0, 0, 0])
        sums[1] += max(0, event.bytes_in - before[0])
        sums[2] += max(0, event.bytes_out - before[1])
