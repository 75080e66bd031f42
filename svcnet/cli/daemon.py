"""svcnet-proxy: puts the parts together, runs the agent, answers signals.

Owns: the order of a start (nothing is written before every check has passed) and of an end. Exit codes: contract.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from svcnet import __version__
from svcnet.agent import Agent
from svcnet.cli.context import open_speaker, open_store
from svcnet.cli.control import ControlServer, Handler
from svcnet.cli.data_path import Chosen, remove_all
from svcnet.cli.http_ports import HttpPorts
from svcnet.cli.http_ports import prepare as prepare_http
from svcnet.cli.in_force import told
from svcnet.cli.inherited import see_off
from svcnet.cli.main import run
from svcnet.cli.name_left import NameLeft
from svcnet.cli.name_service import NameService, owner
from svcnet.cli.option import config_options
from svcnet.cli.predecessor import Predecessor
from svcnet.cli.proxied import Proxied
from svcnet.cli.takeover import COMMAND, After, Before, prepare
from svcnet.cli.vet import Reload
from svcnet.cli.whereabouts import Whereabouts
from svcnet.config import BY_NAME, OPTIONS, Config
from svcnet.endpoints import Networks
from svcnet.env import EnvFiles
from svcnet.instance import DataPathClaim
from svcnet.model.errors import SvcnetError, cause
from svcnet.model.event import Verdict
from svcnet.parts import Parts
from svcnet.prober import Prober
from svcnet.sd_notify import Notifier, watchdog_seconds
from svcnet.status.gather import gather
from svcnet.status.health_port import HealthPorts
from svcnet.status.inherited import bequeath
from svcnet.status.metrics import Metrics
from svcnet.status.proxy_exposition import ejected_now
from svcnet.status.report import OFF, RUNNING, Report
from svcnet.tally import Tally
from svcnet.tracker import Tracker
from svcnet.traffic import Traffic

if TYPE_CHECKING:
    from svcnet.status.server import StatusServer

log = logging.getLogger("svcnet.daemon")

SIGNALS = frozenset({signal.SIGTERM, signal.SIGHUP})
STATUS_AFTER_SECONDS = 1.0
"""The status server and DNS start after the first sync: neither may delay a packet. Where nothing comes to load (the
store is away or silent) they start this long after the start."""
STATUS_AFTER_MOST_SECONDS = 10.0
"""The same where a load takes its time: aiohttp's import alone, beside it, would cost it half a second."""
MOST_VERDICTS = 4096
"""Told to commands: more would not go into a line of the control socket."""
COLLECT_AFTER = 20_000, 10, 100
"""gc.set_threshold: records make no cycles, so collections find next to nothing."""
SWITCH_SECONDS = 0.001
"""How long a busy thread keeps the interpreter while others want it; five times as often as Python does by itself."""


class Daemon:
    """One run of svcnet-proxy."""

    def __init__(self, options: Config, chosen: Chosen, notifier: Notifier, before: Before) -> None:
        self.options, self.chosen, self.notifier, self.before = options, chosen, notifier, before
        self.parts_state = {"data path": RUNNING if chosen.path else OFF, "dns": OFF}
        self.names = NameService(options, self._on_dns, before.names) if options.dns_listen else None
        self.metrics = Metrics(time.time())
        self.metrics.proxy = chosen.proxy
        self.metrics.dns = self.names.ledger if self.names else None
        self.tallies = self._accounts()
        self.ready = asyncio.Event()
        self._loaded = asyncio.Event()
        """The first sync is done, or not to be waited for any longer."""
        env = EnvFiles(options.env_dir) if options.env_dir else None
        self.parts_state["env"] = RUNNING if env else OFF
        self.whereabouts = Whereabouts(options)
        tracker = Tracker(Networks(options.endpoint_deny), options.node, Networks(options.external_ips))
        self.health = HealthPorts(tracker.ports_of, lambda: self.report().healthy, lambda: self.agent.minion.addresses)
        on_checks, on_status = (partial(self.parts_state.__setitem__, part) for part in ("health checks", "status"))
        self.http = HttpPorts(options.status_listen, self.health, self._status_server, before.inherited, on_status)
        self.prober = Prober(tracker.ports_of, self._judge, on_checks, open_speaker(options), options.health_scripts)
        self.metrics.checks = self.prober
        self.agent = Agent(
            Parts(
                store=open_store(options),
                tracker=tracker,
                locate=self.whereabouts.locate,
                meter=self.metrics,
                data_path=chosen.path,
                inline_changes=chosen.inline_changes,
                waits=chosen.waits,
                flows=chosen.flows,
                foreign=chosen.path.changed_by_others if chosen.path else None,
                unserved=lambda: (*chosen.left_out(), *self.health.left_out(), *self.prober.left_out()),
                env=env,
                followers=tuple(f for f in (self.health, self.prober, self.names, *self.tallies) if f is not None),
                state_dir=options.state_dir,
                on_ready=self._on_ready,
            )
        )
        self._after = After.STOP
        self._stop = asyncio.Event()

    def _accounts(self) -> tuple[Tally | Proxied, ...]:
        """Who counts traffic, by who carries it, unless the operator wants no such metrics."""
        self.parts_state["traffic"] = OFF
        flows, counted = self.chosen.flows, self.chosen.counted
        if (flows is None and counted is None) or not self.options.traffic_series:
            return ()
        traffic = self.metrics.traffic = Traffic(self.options.traffic_series)
        on_state = partial(self.parts_state.__setitem__, "traffic")
        if flows is None and counted is not None:
            return (Proxied(traffic, on_state, counted),)
        kernel = Tally(traffic, on_state, self.chosen.own)
        return (kernel,) if counted is None else (Proxied(traffic, lambda _: None, counted, alone=False), kernel)

    def report(self) -> Report:
        """What /status says now."""
        parts, ejected = self.parts_state | self.chosen.states(), ejected_now(self.metrics.traffic)
        return gather(self.agent, self.options.node, self.chosen.mode, parts, time.monotonic(), ejected)

    async def run(self, reload: Reload) -> After:
        """Serve until SIGTERM or SIGINT, or until a changed configuration or another daemon asks for an end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        loop.set_default_executor(threads := ThreadPoolExecutor())
        http = self.http
        self._heirs = heirs = Predecessor(self.options, self.agent, self._leave, http.listeners, http.close)
        self.control = ControlServer(self.options.state_dir, self._handlers(), {COMMAND: heirs.converse})
        if self.before.takeover is None:
            await self._listen()
        tasks = [asyncio.create_task(part) for part in self._parts()]
        answering = asyncio.create_task(http.run(self._loaded))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopping, *tasks[:1]], return_when=asyncio.FIRST_COMPLETED)
        if self._after is After.STOP:  # else this process stays the service, or another is it by now
            self.notifier.stopping()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if self.before.takeover is None or self.before.takeover.is_done:
            await self.agent.checkpoint.now()
        if self._after is After.LEAVE:
            loop.set_default_executor(ThreadPoolExecutor())
            await asyncio.to_thread(threads.shutdown)  # what a thread does yet, it does while the claims are ours
            self._after = await self._hand_over()
        if self._after is After.AGAIN:
            bequeath(http.listeners(), os.environ)
        await http.stop()
        results += await asyncio.gather(answering, return_exceptions=True)
        await self.control.stop()
        for result in results:
            if isinstance(result, Exception):
                raise cause(result)
        return self._after

    def _parts(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs until the end."""
        yield self.agent.run()
        yield self._give_way()
        yield self._watchdog()
        if self.names is not None:
            yield self._supervise("dns", self.names.run(self._loaded))
        for tally in self.tallies:
            yield self._supervise("traffic", tally.run(self._loaded))
        yield self._follow_addresses()
        yield self._supervise("health checks", self.prober.run())
        yield see_off(self.before.children)

    async def _hand_over(self) -> After:
        """Let another daemon have it all; what comes then."""
        self.chosen.leave()
        for claim in self.before.claims:
            claim.release()
        return await self._heirs.outcome()

    def _handlers(self) -> dict[str, Handler]:
        return {
            "release": self._release,
            "status": self._status,
            "options": self._options,
            "frontend": self._frontend,
            "verdicts": self._verdicts,
        }

    async def _listen(self) -> None:
        self.parts_state["control"] = await _start(self.control.start())

    def _leave(self, after: After = After.LEAVE) -> None:
        """End, and let the workers be."""
        self._after = after
        if self.names is not None:
            self.names.leave()
        self._stop.set()

    def _end(self) -> None:
        if self._after is After.AGAIN:  # the next program's, whose handlers wait behind the mask
            signal.raise_signal(signal.SIGTERM)
        self._stop.set()

    def _hang_up(self, reload: Reload) -> None:
        if self._heirs.postpone(partial(self._hang_up, reload)) or self._stop.is_set():
            return
        try:
            fresh = reload()
        except SvcnetError as error:
            self.agent.tell(f"reload: {error}; the old configuration stays")
            return
        if fresh == self.options:
            log.info("configuration unchanged: reading the kernel back")
            self.agent.resync()
            return
        # What comes during the start of the program waits for its handlers (a mask outlives execv).
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.notifier.reloading(time.monotonic())
        self._leave(After.AGAIN)

    def _on_ready(self, status: str) -> None:
        # What is loaded now stays for long: later collections need not look at it. What is loaded later is looked at by
        # few, as each stops the whole process.
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        gc.enable()
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)  # what the load took and gave back is the machine's again
        for act in () if self.ready.is_set() else self.chosen.at_ready:
            act()
        if self.names is None:
            self.before.names.end()
        self.http.decide()
        services = len(self.agent.tracker.snapshot.services)
        self._status_line = status or f"{self.chosen.mode.name}, {services} services"
        if self.before.takeover is None or self.ready.is_set():
            self.notifier.ready(self._status_line)
        self.ready.set()

    async def _give_way(self) -> None:
        """Let the first sync go first; in a take-over the old daemon serves until then, and then we do."""
        begin, takeover = time.monotonic(), self.before.takeover
        if takeover is not None:
            await prepare_http()
            try:
                await takeover.wait(self.ready, self._why_not)
            finally:
                self._stop.set() if not self.ready.is_set() else None
            await self._listen()
            self.notifier.ready(self._status_line, os.getpid())
            await asyncio.to_thread(takeover.finish)
        while not self.ready.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATUS_AFTER_SECONDS):
                    await self.ready.wait()
            if not self.agent.is_loading:
                gc.enable()  # nothing came to load: don't wait for it
                break
            if time.monotonic() - begin > STATUS_AFTER_MOST_SECONDS:
                break
        self._loaded.set()

    def _why_not(self) -> str:
        return self.agent.state.last_error or self.agent.state.away or "the records did not come"

    def _status_server(self) -> "StatusServer":
        from svcnet.status.server import StatusServer  # noqa: PLC0415 (needs aiohttp)

        return StatusServer(self.report, self.metrics, lambda: self.agent.tracker.snapshot.ports)

    def _on_dns(self, state: str) -> None:
        self.parts_state["dns"] = state

    async def _supervise(self, name: str, running: Awaitable[None]) -> None:
        """Run a part: no fault of it may end the daemon."""
        try:
            await running
        except Exception as error:
            log.exception(name)
            self.parts_state[name] = f"failed: {error}"

    async def _follow_addresses(self) -> None:
        try:
            await self.whereabouts.run(self._relocate)
        except OSError as error:
            log.warning("changes of the machine's addresses go unnoticed why=%s", error)

    async def _relocate(self) -> None:
        await self.agent.relocate()
        self.health.relocate()

    def _judge(self, verdicts: Iterable[Verdict]) -> None:
        self.agent.hear(verdicts)

    async def _watchdog(self) -> None:
        seconds = watchdog_seconds(os.environ)
        while seconds is not None:
            if self.report().healthy:
                self.notifier.watchdog()
            await asyncio.sleep(seconds / 2)

    async def _release(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"message": await self.agent.release()}

    async def _status(self, _request: dict[str, Any]) -> dict[str, Any]:
        import msgspec  # noqa: PLC0415 (already loaded by the model; named here for the one use)

        return {"status": msgspec.to_builtins(self.report())}

    async def _options(self, _request: dict[str, Any]) -> dict[str, Any]:
        """What this daemon runs with, for commands that look at what it does."""
        return {"options": told(self.options, self.chosen.mode.name)}

    async def _verdicts(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Which endpoints fail their health checks."""
        found = self.agent.tracker.verdicts()
        return {"verdicts": [[*v.service[1:], v.address, v.port, v.why] for v in islice(found, MOST_VERDICTS)]}

    async def _frontend(self, request: dict[str, Any]) -> dict[str, Any]:
        """Where the userspace proxy leads an address, protocol and port."""
        return self.chosen.led(str(request.get("address")), str(request.get("protocol")), int(request.get("port", 0)))


async def _start(starting: Awaitable[None]) -> str:
    try:
        await starting
    except OSError as error:
        return f"failed: {error.strerror or error}"
    return RUNNING


def serve(flags: Mapping[str, Any]) -> None:
    """Check everything, claim, then serve."""
    reload = Reload(flags)
    options = reload.read()
    if options.cleanup:
        DataPathClaim().release()  # a daemon that runs would not know that its rules are gone
        names = NameLeft().find(owner(options.state_dir), options.dns_listen, orphans=True)
        removed = [*["DNS workers without a daemon"] * names.end(), *remove_all()]
        click.echo("\n".join(f"removed {what}" for what in removed) or "nothing of svcnet in the kernel", err=True)
        return
    chosen, before = prepare(options)
    options = replace(options, takeover=False)
    log.info("starting node=%s mode=%s reason=%s records=%s", options.node, *chosen.mode, options.records)
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.disable()  # a load makes a million objects and no garbage; on again after the first sync
    after = asyncio.run(_run(options, chosen, reload, before))
    if after is After.STOP:
        chosen.stop()
    else:
        chosen.leave()
    if after is After.AGAIN:
        log.info("starting again")
        arguments = [word for word in sys.orig_argv[1:] if word != BY_NAME["takeover"].flag]
        os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 (the same program; rules stay)


async def _run(options: Config, chosen: Chosen, reload: Reload, before: Before) -> After:
    return await Daemon(options, chosen, Notifier.from_environment(os.environ), before).run(reload)


@click.command()
@config_options(*(option.name for option in OPTIONS))
@click.version_option(__version__)
def svcnet_proxy(**flags: Any) -> None:
    """The daemon of svcnet, one a minion: records in; kernel rules, env files and status out."""
    serve(flags)


def main() -> None:
    """Entry point."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until their handlers are there: no window in which one kills
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where who starts us ignores it, a child has no exit code
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname).1s %(name)s %(message)s")
    sys.exit(run(svcnet_proxy))


if __name__ == "__main__":
    main()
