"""healthCheckNodePort: what a load balancer outside asks to learn which minions have endpoints of a service.

Owns: one HTTP port for each service with externalTrafficPolicy Local that wants one, on the addresses of node ports,
and its answer (kube-proxy's form). Reads snapshots, changes nothing; a port that is taken is told, and tried again.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from svcnet.feed import changed
from svcnet.model.meta import Key
from svcnet.model.snapshot import Delta, LeftOut, ServedPort, Snapshot
from svcnet.status.inherited import Inherited
from svcnet.status.last_words import LastWords, accept_no_more

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
        self._sockets: dict[Listen, socket.socket] = {}
        self._sites: dict[Listen, web.SockSite] = {}
        self._runner: web.AppRunner | None = None
        self._last_words: LastWords | None = None

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

    def wanted(self) -> set[Listen]:
        """Where somebody may ask."""
        return {(address, port) for address in self._addresses() for port in self._by_port}

    def listeners(self) -> tuple[socket.socket, ...]:
        """What it accepts by."""
        return tuple(self._sockets.values())

    async def run(self, inherited: Inherited) -> None:
        """Keep a listener on each address and port, for ever. Nothing is imported before there is one."""
        await self._wake.wait()
        from aiohttp import web  # noqa: PLC0415 - heavy, and most minions have no such port

        application = web.Application()
        application.router.add_get("/{any:.*}", self._answer)
        self._last_words = LastWords(application)
        runner = self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=1, shutdown_timeout=1)
        await runner.setup()
        while True:
            self._wake.clear()
            await self._listen(runner, inherited)
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS if self._failed else None):  # wait_for may lose a cancellation
                    await self._wake.wait()

    async def close(self) -> None:
        """Accept nobody any more; after `run` was cancelled."""
        await accept_no_more(self.listeners())
        for place in tuple(self._sites):
            await self._close(place)

    async def stop(self) -> None:
        """The same, and return when whoever has connected is answered."""
        await self.close()
        runner, self._runner = self._runner, None
        if runner is not None and runner.server is not None:
            assert self._last_words is not None
            await self._last_words.wait(runner.server)
            await runner.cleanup()

    async def _listen(self, runner: "web.AppRunner", inherited: Inherited) -> None:
        from aiohttp import web  # noqa: PLC0415 - as above

        wanted = self.wanted()
        unwanted = self._sites.keys() - wanted
        await accept_no_more(self._sockets[place] for place in unwanted)
        for gone in unwanted:
            await self._close(gone)
        failed: dict[Listen, str] = {}
        for place in sorted(wanted - self._sites.keys()):
            try:
                self._sockets[place] = inherited.open(place)
                self._sites[place] = web.SockSite(runner, self._sockets[place], backlog=64)
                await self._sites[place].start()
            except OSError as error:
                await self._close(place)
                failed[place] = os.strerror(error.errno) if error.errno else str(error)
                if place not in self._failed:
                    log.warning("health port not open address=%s port=%s why=%s", *place, failed[place])
        self._failed = failed

    async def _close(self, place: Listen) -> None:
        site, sock = self._sites.pop(place, None), self._sockets.pop(place, None)
        if site is not None:
            await site.stop()
        if sock is not None:
            sock.close()

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
