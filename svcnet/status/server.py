"""The status server: /healthz, /readyz, /metrics, /status, and a page.

Owns: paths, codes and content types. Reads a Report for each answer, changes nothing, and is no condition of serving:
a port that is taken makes this part fail, not the daemon.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from svcnet.model.snapshot import PortKey, ServedPort
from svcnet.status.exposition import Exposition
from svcnet.status.metrics import Metrics
from svcnet.status.page import page
from svcnet.status.report import FAILED, RUNNING, Report

if TYPE_CHECKING:
    from aiohttp import web

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
"""Names in records are foreign text: nothing in an answer may be run or loaded."""


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
        self.port = 0
        """The TCP port it listens on, once started: differs from the wanted one when that was 0."""

    async def start(self, listen: tuple[str, int]) -> str:
        """Listen on (address, port); return the state of this part: `running`, or `failed: why`."""
        from aiohttp import web  # noqa: PLC0415 - 655 ms, and rules come first

        application = web.Application()
        for path in ("healthz", "readyz", "metrics", "status", ""):
            application.router.add_get(f"/{path}", getattr(self, f"_{path or 'page'}"))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *listen)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            return f"{FAILED}: {error.strerror or error}"
        self.port = self._runner.addresses[0][1]
        return RUNNING

    async def stop(self) -> None:
        """Close the port; more than once is fine."""
        runner, self._runner = self._runner, None
        if runner is not None:
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
        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        if self._exposition is None:
            self._exposition = Exposition(self._counts, self._report)
        body, content_type = self._exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers=HEADERS | {"Content-Type": content_type})

    async def _status(self, _request: "web.Request") -> "web.Response":
        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        return web.Response(
            body=msgspec.json.encode(self._report()) + b"\n", content_type="application/json", headers=HEADERS
        )

    async def _page(self, _request: "web.Request") -> "web.Response":
        from aiohttp import web  # noqa: PLC0415 - loaded by start()

        return web.Response(text=page(self._report(), self._ports()), content_type="text/html", headers=HEADERS)


def _text(body: str, good: bool) -> "web.Response":
    from aiohttp import web  # noqa: PLC0415 - loaded by start()

    return web.Response(text=body, status=200 if good else 503, headers=HEADERS)
