"""The daemon's HTTP ports: its own, and the health ports of services.

Owns: when they open, that they are handed on, and that their end cuts nobody. Must not know what they answer.
"""

import asyncio
import importlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svcnet.status.health_port import HealthPorts
from svcnet.status.inherited import Inherited

if TYPE_CHECKING:
    from svcnet.status.server import StatusServer


class HttpPorts:
    """From `run` to `stop`. `on_state` hears what `/status` says of the daemon's own port, which is at `listen`."""

    def __init__(
        self,
        listen: tuple[str, int],
        health: HealthPorts,
        serve: "Callable[[], StatusServer]",
        inherited: Inherited,
        on_state: Callable[[str], None],
    ) -> None:
        self._listen, self._health, self._serve = listen, health, serve
        self._inherited, self._on_state = inherited, on_state
        self._server: StatusServer | None = None
        self._running: asyncio.Task[Any] | None = None

    async def run(self, begin: asyncio.Event) -> None:
        """Listen until `close`, from `begin` on."""
        self._running = asyncio.current_task()
        await begin.wait()
        await prepare()
        self._server = self._serve()
        self._on_state(await self._server.start(self._listen, self._inherited))
        await self._health.run(self._inherited)

    def decide(self) -> None:
        """All that will ever be wanted of what another program had open is known now."""
        self._inherited.keep((self._listen, *self._health.wanted()))

    def listeners(self) -> tuple[socket.socket, ...]:
        """What it accepts by now, or would yet: a reload may come before this one is through."""
        own = self._server.listeners() if self._server is not None else ()
        return (*own, *self._health.listeners(), *self._inherited.waiting())

    async def close(self) -> None:
        """Accept nobody any more: that is the end of `run`."""
        if self._running is not None:
            self._running.cancel()
        if self._server is not None:
            await self._server.close()
        await self._health.close()
        self._inherited.keep(())

    async def stop(self) -> None:
        """The same, and return when whoever has connected is answered."""
        await self.close()
        await asyncio.gather(*(part.stop() for part in (self._server, self._health) if part is not None))


async def prepare() -> None:
    """Load what HTTP needs: longer than the first sync, so in a thread."""
    await asyncio.to_thread(importlib.import_module, "aiohttp.web")
