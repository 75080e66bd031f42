"""The connection table beside the userspace proxy: flows that lead to one of its entrances are as right as others.

Owns: that exception. Which flows are stale otherwise, the kernel path says.
"""

from collections.abc import Callable

from svcnet.iptables.conntrack import Conntrack
from svcnet.iptables.reach import Look, Reach, Reaches
from svcnet.model.frontend import Frontend

Backends = Callable[[Frontend], frozenset[tuple[str, int]]]


class ProxiedFlows:
    """`svcnet.parts.Flows`. `backends`: the entrances that a frontend's flows may lead to."""

    def __init__(self, table: Conntrack, backends: Backends) -> None:
        self._table = table
        self._backends = backends

    def clean(self, wanted: Reaches) -> int:
        """Remove UDP flows of these frontends that lead where they may not."""
        return self._table.clean(self._widened(wanted))

    def sweep(self, look: Look) -> int:
        """The same for all flows that there are."""
        return self._table.sweep(lambda fronts: self._widened(look(fronts)))

    def _widened(self, reaches: Reaches) -> Reaches:
        """A flow outlives the choice of its way too, but not the last endpoint."""
        return {front: self._with_entrances(front, reach) for front, reach in reaches.items()}

    def _with_entrances(self, front: Frontend, reach: Reach | None) -> Reach | None:
        if reach is None or not reach.ours or not reach.inside:
            return reach
        entrances = self._backends(front)
        return reach._replace(inside=reach.inside | entrances, outside=reach.outside | entrances)
