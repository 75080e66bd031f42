"""healthCheckNodePort: what a load balancer outside asks to learn which minions have endpoints of a service.

Owns: one HTTP port for each service with externalTrafficPolicy Local that wants one, on the addresses of node ports,
and its answer (kube-proxy's form). Reads snapshots, changes nothing; a port that is taken is told, and tried again.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from svcnet.feed import changed
from svcnet.model.meta import Key
from svcnet.model.snapshot import Delta, LeftOut, ServedPort, Snapshot

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0
"""How soon an address that could not be bound is tried again."""
WEIGHT = "X-Load-Balancing-Endpoint-Weight"
Listen = tuple[str, int]


class Checked(NamedTuple):
    """A service with a health port, and how many addresses of its ready endpoints are on this minion, by family.

    A balancer asks at an IPv4 address for what it will send by IPv4: a pod of both families counts once in each.
    """

    service: Key
    port: int
    local: int
    local_six: int = 0


def checked(service: Key, ports: Iterable[ServedPort]) -> Checked | None:
    """Work out one service; None when it has no health port. Endpoints that terminate don't count, nor do others'."""
    number, local = 0, set[str]()
    for port in ports:
        if port.policy.health_port and not port.policy.elsewhere:
            number = port.policy.health_port
            local |= {e.address for e in port.local if e.ready}
    six = sum(":" in address for address in local)
    return Checked(service, number, len(local) - six, six) if number else None


class HealthPorts:
    """`svcnet.parts.Follower`; `run` listens. `healthy` is this minion's own health, `addresses` where to listen."""

    def __init__(
        self,
        ports_of: Callable[[Key], tuple[ServedPort, ...]],
        healthy: Callable[[], bool],
        addresses: Callable[[], tuple[str, ...]],
    ) -> None:
        self._ports_of, self._healthy, self._addresses = ports_of, healthy, addresses
        self._checked: dict[Key, Checked] = {}
        self._by_port: dict[int, Checked] = {}
        self._failed: dict[Listen, str] = {}
        self._wake = asyncio.Event()

    def publish(self, _snapshot: Snapshot, delta: Delta) -> None:
        """Take a change in. O(changed)."""
        had = bool(self._checked)
        for key in changed(delta):
            now = checked(key, self._ports_of(key))
            gone = self._checked.pop(key, None)
            if gone is not None and self._by_port.get(gone.port) == gone:
                del self._by_port[gone.port]
            if now is not None:
                self._checked[key] = now
                self._by_port[now.port] = now
        if had or self._checked:
            self._wake.set()

    def relocate(self) -> None:
        """The addresses are others now."""
        self._wake.set()

    def left_out(self) -> tuple[LeftOut, ...]:
        """The ports that nobody can ask, and why."""
        return tuple(
            LeftOut(f"healthCheckNodePort {port} on {address} of {self._by_port[port].service}", why)
            for (address, port), why in sorted(self._failed.items())
            if port in self._by_port
        )

    async def run(self) -> None:
        """Keep a listener on each address and port, for ever. Nothing is imported before there is one."""
        await self._wake.wait()
        from aiohttp import web  # noqa: PLC0415 - heavy, and most minions have no such port

        application = web.Application()
        application.router.add_get("/{any:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=1, shutdown_timeout=1)
        await runner.setup()
        sites: dict[Listen, web.TCPSite] = {}
        try:
            while True:
                self._wake.clear()
                await self._listen(runner, sites)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), AGAIN_SECONDS if self._failed else None)
        finally:
            await runner.cleanup()

    async def _listen(self, runner: "web.AppRunner", sites: "dict[Listen, web.TCPSite]") -> None:
        from aiohttp import web  # noqa: PLC0415 - as above

        wanted = {(address, port) for address in self._addresses() for port in self._by_port}
        for gone in sites.keys() - wanted:
            await sites.pop(gone).stop()
        failed: dict[Listen, str] = {}
        for address, port in sorted(wanted - sites.keys()):
            site = web.TCPSite(runner, address, port, backlog=64, reuse_address=True)
            try:
                await site.start()
            except OSError as error:
                await site.stop()
                failed[address, port] = os.strerror(error.errno) if error.errno else str(error)
                if (address, port) not in self._failed:
                    log.warning("health port not open address=%s port=%s why=%s", address, port, failed[address, port])
                continue
            sites[address, port] = site
        self._failed = failed

    async def _answer(self, request: "web.Request") -> "web.Response":
        from aiohttp import web  # noqa: PLC0415 - as above

        name = request.transport.get_extra_info("sockname") if request.transport else None
        found = self._by_port.get(name[1]) if name else None
        if found is None:
            raise web.HTTPNotFound
        local = found.local_six if name and ":" in name[0] else found.local
        healthy = self._healthy()
        body = {
            "service": {"namespace": found.service.namespace, "name": found.service.name},
            "localEndpoints": local,
            "serviceProxyHealthy": healthy,
        }
        code = 200 if local and healthy else 503
        headers = {WEIGHT: str(local), "X-Content-Type-Options": "nosniff"}
        return web.json_response(body, status=code, headers=headers)
