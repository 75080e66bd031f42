"""The status server: /healthz, /readyz, /metrics, /status, /traffic, and a page.

Owns: paths, codes and content types. Reads a Report for each answer, changes nothing, and is no condition of serving:
a port that is taken makes this part fail, not the daemon.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from svcnet.model.snapshot import PortKey, ServedPort
from svcnet.status.exposition import Exposition
from svcnet.status.inherited import Inherited
from svcnet.status.metrics import Metrics
from svcnet.status.page import page
from svcnet.status.report import FAILED, RUNNING, Report
from svcnet.status.traffic_json import TrafficNow

if TYPE_CHECKING:
    import socket
    from asyncio import Server

    from aiohttp import web

    from svcnet.status.last_words import LastWords

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
"""Names in records are foreign text: nothing in an answer may be run or loaded."""
MOST_CONNECTIONS = 32
"""Open at a time."""
BACKLOG = 16
"""asyncio accepts as many in one go."""


class StatusServer:
    """Serves what `report` returns at the moment of each request."""

    def __init__(
        self,
        report: Callable[[], Report],
        metrics: Metrics,
        ports: Callable[[], Mapping[PortKey, ServedPort]] = dict,
    ) -> None:
        self._report = report
        self._ports = ports
        self._counts = metrics
        self._exposition: Exposition | None = None
        self._runner: web.AppRunner | None = None
        self._last_words: LastWords | None = None
        self._listening: Server | None = None
        self._socket: socket.socket | None = None
        self.port = 0
        """The TCP port it listens on, once started: differs from the wanted one when that was 0."""

    async def start(self, listen: tuple[str, int], inherited: Inherited | None = None) -> str:
        """Listen on (address, port); return the state of this part: `running`, or `failed: why`."""
        from asyncio import get_running_loop  # noqa: PLC0415 - counting needs it not

        from aiohttp import web  # noqa: PLC0415 - 655 ms, and rules come first

        from svcnet.status.last_words import LastWords  # noqa: PLC0415 - needs asyncio

        application = web.Application()
        for path in ("healthz", "readyz", "metrics", "status", "traffic", ""):
            application.router.add_get(f"/{path}", getattr(self, f"_{path or 'page'}"))
        self._last_words = LastWords(application)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        assert self._runner.server is not None
        connect = partial(_connection, self._runner.server)
        try:
            self._socket = (inherited or Inherited()).open(listen)
            self._listening = await get_running_loop().create_server(connect, sock=self._socket, backlog=BACKLOG)
        except OSError as error:
            await self.stop()
            return f"{FAILED}: {error.strerror or error}"
        self.port = self._socket.getsockname()[1]
        return RUNNING

    def listeners(self) -> "tuple[socket.socket, ...]":
        """What it accepts by."""
        return (self._socket,) if self._listening is not None and self._socket is not None else ()

    async def close(self) -> None:
        """Accept nobody any more."""
        from svcnet.status.last_words import accept_no_more  # noqa: PLC0415 - as in start()

        await accept_no_more(self.listeners())
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
        if self._socket is not None:
            self._socket.close()

    async def stop(self) -> None:
        """Close the port, once whoever has connected is answered; more than once is fine."""
        await self.close()
        runner, self._runner = self._runner, None
        if runner is not None and runner.server is not None:
            assert self._last_words is not None
            await self._last_words.wait(runner.server)
            await runner.cleanup()

    async def _healthz(self, _request: "web.Request") -> "web.Response":
        report = self._report()
        return _text("ok\n" if report.healthy else f"not healthy: {report.last_error}\n", report.healthy)

    async def _readyz(self, _request: "web.Request") -> "web.Response":
        report = self._report()
        lines = ["ok" if report.ready else "not ready: the first sync is not applied yet"]
        lines += [f"{name} {state}" for name, state in report.failed_parts.items()]
        return _text("\n".join(lines) + "\n", report.ready)

    async def _metrics(self, request: "web.Request") -> "web.Response":
        import asyncio  # noqa: PLC0415 - loaded by whoever runs this

        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        if self._exposition is None:
            self._exposition = Exposition(self._counts, self._report)
        collected = self._exposition.collect()
        body, content_type = await asyncio.to_thread(collected.render, request.headers.get("Accept", ""))
        return web.Response(body=body, headers=HEADERS | {"Content-Type": content_type})

    async def _status(self, _request: "web.Request") -> "web.Response":
        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        return web.Response(
            body=msgspec.json.encode(self._report()) + b"\n", content_type="application/json", headers=HEADERS
        )

    async def _traffic(self, _request: "web.Request") -> "web.Response":
        import asyncio  # noqa: PLC0415 - loaded by whoever runs this

        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        body = await asyncio.to_thread(TrafficNow(self._counts.traffic).render)
        return web.Response(body=body, content_type="application/json", headers=HEADERS)

    async def _page(self, _request: "web.Request") -> "web.Response":
        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        return web.Response(text=page(self._report(), self._ports()), content_type="text/html", headers=HEADERS)


def _connection(server: "web.Server") -> "web.RequestHandler":
    """Answer one more; of those that have been open for longest, one gives way.

    Whoever may connect could else take all files that the daemon may open, and it would no longer see its records.
    """
    there = server.connections
    for oldest in there[: max(0, len(there) - MOST_CONNECTIONS + 1)]:
        oldest.force_close()
    return server()


def _text(body: str, good: bool) -> "web.Response":
    from aiohttp import web  # noqa: PLC0415 - loaded by start()

    return web.Response(text=body, status=200 if good else 503, headers=HEADERS)
