"""The loop of `svcnet exec`: records in; a child that is started, restarted, signalled.

Owns: the order of things. When to act is svcnet.run's, processes are svcnet.cli.child's.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from svcnet.cli.child import Child, hear
from svcnet.cli.kind import absent
from svcnet.endpoints import Networks
from svcnet.env import environment, size_warning
from svcnet.model.errors import NotFoundError
from svcnet.model.event import Away, Event, Problem, Put, Synced
from svcnet.run import GRACE_SECONDS, Following, OnChange, exit_code
from svcnet.store.protocol import Store
from svcnet.tracker import Tracker

if TYPE_CHECKING:
    from svcnet.model.meta import Key

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
"""What ends us while there is no child."""


class Wanted:
    """Folds a store's events into the variables of the services that were asked for."""

    def __init__(self, namespace: str, names: Sequence[str], docker_links: bool) -> None:
        self._namespace, self._names, self._links = namespace, tuple(dict.fromkeys(names)), docker_links
        # The tracker for its brake: a list that lacks most services must not restart every program.
        self._tracker = Tracker(Networks(()))
        self._said: tuple[str, ...] = ()
        self._problems: dict[str, str] = {}
        self._keys: frozenset[Key] = frozenset()

    def fold(self, batch: Sequence[Event]) -> dict[str, str] | None:
        """Take events in; return the variables at the first complete list and when a service changed, else None.

        NotFoundError: that list lacks a service that was named, or the namespace. What goes later is said alone.
        """
        before = self._tracker.synced
        for event in batch:
            self._notice(event)
        delta = self._tracker.fold(e for e in batch if not isinstance(e, Put) or e.record.key.kind == "Service")
        if not self._tracker.synced or (before and not delta.services):
            return None
        inside = {k.name: s for k, s in self._tracker.snapshot.services.items() if k.namespace == self._namespace}
        chosen = [service for name, service in inside.items() if not self._names or name in self._names]
        found = environment(chosen, self._links)
        missing = absent(self._keys, inside, self._namespace, self._names)
        if missing and not before:
            # What needs a service that is not there would start, and fail later in words of its own.
            raise NotFoundError("; ".join([*missing, *(f"{where}: {what}" for where, what in self._problems.items())]))
        notes = (*missing, *found.problems, size_warning(found.variables, len(chosen)))
        for note in notes:
            if note and note not in self._said:
                say(note)
        self._said = notes
        return found.variables

    def _notice(self, event: Event) -> None:
        match event:
            case Away(reason):
                say(f"store away: {reason}" + ("" if self._tracker.synced else "; waiting for it"))
            case Problem(where, what) if what:
                self._problems[where] = what
            case Problem(where, _):
                self._problems.pop(where, None)
            case Synced(_, keys):
                self._keys = keys


class Supervisor:
    """One run of `svcnet exec`."""

    def __init__(self, command: Sequence[str], on_change: OnChange, wanted: Wanted) -> None:
        self._command, self._wanted = command, wanted
        self._following = Following(on_change)
        self._child: Child | None = None
        self._restarting = False
        self._last_signal = 0
        """The signal that asked for an end while no child could take it; 0: none."""

    def run(self, store: Store, signals: frozenset[signal.Signals]) -> int:
        """Serve until the child ends; return its exit code. `signals`: those blocked, to be passed on.

        Errors: StartError; what the store can't recover from, before the child was started.
        """
        return asyncio.run(self._run(store, signals))

    async def _run(self, store: Store, signals: frozenset[signal.Signals]) -> int:
        self._news, self._stop = asyncio.Event(), asyncio.Event()
        hear(signals, self._signalled)
        watching = asyncio.create_task(self._watch(store))
        serving = asyncio.create_task(self._serve())
        try:
            await asyncio.wait([watching, serving], return_when=asyncio.FIRST_COMPLETED)
            if not serving.done() and self._child is not None:
                # A store that is broken for good is no reason to end what runs.
                say(f"changes are no longer followed: {watching.exception()}")
                await serving
            return serving.result() if serving.done() else watching.result()
        finally:
            watching.cancel()
            serving.cancel()
            await asyncio.gather(watching, serving, return_exceptions=True)

    async def _watch(self, store: Store) -> int:
        async with aclosing(store.watch()) as batches:  # type: ignore[type-var]  # a generator in every store
            async for batch in batches:
                variables = self._wanted.fold(batch)
                if variables is not None:
                    self._following.see(variables, time.monotonic())
                    self._news.set()
        return 0

    async def _serve(self) -> int:
        await _first(self._news, self._stop)
        if self._stop.is_set():
            return 128 + self._last_signal
        child = self._start()
        while not child.ended.is_set():
            due = self._due()
            self._news.clear()
            await _first(child.ended, self._news, seconds=None if due is None else due - time.monotonic())
            due = self._due()
            if child.ended.is_set() or due is None or time.monotonic() < due:
                continue
            if self._following.on_change == "SIGHUP":
                say(f"SIGHUP: {self._following.differences()}")
                self._following.tell()
                child.send(signal.SIGHUP)
            else:
                child = await self._restart(child)
        return exit_code(child.code)

    def _due(self) -> float | None:
        return None if self._stop.is_set() else self._following.due()

    async def _restart(self, child: Child) -> Child:
        say(f"restart: {self._following.differences()}")
        self._restarting = True
        await child.end(GRACE_SECONDS)
        self._restarting = False
        return child if self._stop.is_set() else self._start()

    def _start(self) -> Child:
        self._child = Child(self._command, os.environ | dict(self._following.tell()))
        return self._child

    def _signalled(self, number: signal.Signals, from_terminal: bool) -> None:
        if self._child is None or self._restarting:
            # Nobody will get to see it: an end that is asked for now is ours.
            if number in ENDING and not (self._restarting and number == signal.SIGHUP):
                self._last_signal = number
                self._stop.set()
        elif number == signal.SIGTERM:
            self._stop.set()  # whatever changes from now on, it is not started again
        if self._child is not None and not from_terminal:
            self._child.send(number)


async def _first(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of the events is set, or the time is over."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


def say(text: str) -> None:
    """Tell whoever started us, on stderr; a reader that is gone must not end the child."""
    try:
        sys.stderr.write(f"svcnet exec: {text}\n")
        sys.stderr.flush()
    except OSError:
        return
