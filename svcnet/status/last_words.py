"""The end of a web server that cuts nobody: who has connected gets an answer, even when it has not asked yet.

Owns: which connections were answered at all. Those that were and are idle may be closed, as HTTP has it (RFC 9112
§9.5): their clients ask again by another. Must not know what is asked.
"""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from aiohttp import web

SECONDS = 1.0
"""Who has connected, and not asked by then, gets no answer."""
LOOK_SECONDS = 0.005
TURNS = 5
"""Of the loop, from accept(2) to a connection that the server knows: asyncio takes three."""


async def accept_no_more(listeners: Iterable[socket.socket]) -> None:
    """To be done before the servers of these are closed: that would reset whoever was accepted just then."""
    loop = asyncio.get_running_loop()
    for one in listeners:
        loop.remove_reader(one)
    for _ in range(TURNS):
        await asyncio.sleep(0)


class LastWords:
    """Of an application, made before the first request."""

    def __init__(self, application: "web.Application") -> None:
        self._answered: WeakSet[asyncio.BaseTransport] = WeakSet()
        self._is_ending = False
        application.on_response_prepare.append(self._note)

    async def _note(self, request: "web.Request", response: "web.StreamResponse") -> None:
        if request.transport is not None:
            self._answered.add(request.transport)
        if self._is_ending:
            response.force_close()

    async def wait(self, server: "web.Server") -> None:
        """After the listeners were closed: return when everybody was answered."""
        self._is_ending = True
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                while self._is_owed(server):  # noqa: ASYNC110 (aiohttp tells nobody of an end)
                    await asyncio.sleep(LOOK_SECONDS)

    def _is_owed(self, server: "web.Server") -> bool:
        """Whether somebody waits for the first answer."""
        return any(c.transport is not None and c.transport not in self._answered for c in server.connections)
