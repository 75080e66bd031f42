"""External and load-balancer addresses: local as long as a frontend, or a connection, needs them.

Owns: which of them have a local route of ours. An address that is local anyway gets none. Must not know who listens.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress

from svcnet.model.errors import KernelError
from svcnet.proxy import route
from svcnet.proxy.listening import connected
from svcnet.proxy.route import Network
from svcnet.proxy.way import Way, Ways

log = logging.getLogger(__name__)


class Outside:
    """Nothing happens before the first `hold`. Not for several threads at once."""

    def __init__(self, networks: Iterable[Network], own: frozenset[str] | None = None) -> None:
        """`own`: addresses outside of these alone are looked after; None: all."""
        self._networks = tuple(networks)
        self._own = own
        self._wanted: frozenset[str] = frozenset()
        self._ours: frozenset[str] = frozenset()
        self._is_read = False
        self.failed: Mapping[str, str] = {}
        """Addresses that could not be made local, and why."""

    @property
    def is_busy(self) -> bool:
        """Whether there are routes to tend."""
        return bool(self._wanted or self._ours)

    def read(self) -> None:
        """Look at the routes, as somebody may have changed them. KernelError."""
        found = route.addresses(self._networks)
        self._ours = found if self._own is None else found & self._own
        self._is_read = True

    def hold(self, wanted: Iterable[str]) -> None:
        """These are needed. Routes to others go with their last connection: `tend` sees to that."""
        self._wanted = frozenset(wanted)
        if self.is_busy or not self._is_read:
            self.tend()

    def tend(self) -> None:
        """Do what is to be done now."""
        if not self._is_read:
            with suppress(KernelError):  # there is no program ip, which the service CIDR's own route tells
                self.read()
        stale = self._ours - self._wanted
        if stale:
            stale -= connected(stale)
        # An own one may be local by a route that userspace mode has left, and that is about to go.
        own = self._own or frozenset()
        ways = self._ways(self._wanted - self._ours)
        fresh = {a: way.source for a, way in ways.items() if not way.is_local or a in own}
        said = route.change(fresh, sorted(stale))
        made = {a for a, way in self._ways(fresh).items() if way.is_local}
        self._ours = (self._ours - stale) | made
        failed = {a: f"no local route to {a}: {said}" for a in fresh if a not in made}
        if failed and failed != self.failed:
            log.warning("addresses=%s are not local why=%s", ",".join(sorted(failed)), said)
        self.failed = failed

    def is_there(self) -> bool:
        """Whether all that are needed are local."""
        return all(way.is_local or a in self.failed for a, way in self._ways(self._wanted).items())

    @staticmethod
    def _ways(addresses: Iterable[str]) -> Mapping[str, Way]:
        ways = Ways()
        try:
            return {address: ways.to(address) for address in sorted(addresses)}
        finally:
            ways.close()
