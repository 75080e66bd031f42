"""Worker processes: started, fed, started again when they die. Shell (asyncio).

Owns: their life and their feeds. Must not know what they do: a program, a greeting, sockets that it inherits.

A worker is told the services that changed since it was told last, as they are now. So nothing piles up for one that is
behind: a service that changed ten times meanwhile is told once, and above a share of all services it gets the whole.
The agent's loop never waits: `publish` notes and returns.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from svcnet import feed
from svcnet.model.meta import Key
from svcnet.model.snapshot import Delta, Snapshot
from svcnet.pacing import Backoff

log = logging.getLogger(__name__)

STARTING, RUNNING = "starting", "running"
WHOLE_SHARE = 2
"""One over this share of all services changed: the whole is cheaper."""
STEADY_SECONDS = 10.0
"""A worker that lived this long is started again at once; so is one that ends for the first time."""
END_SECONDS = 2.0
WORD_BYTES = 1 << 16


class Program(NamedTuple):
    """What a worker is: `argv` gets the numbers of the feed and of `sockets` behind it; `greeting` is told first."""

    name: str
    argv: Sequence[str]
    greeting: bytes
    sockets: Sequence[socket.socket] = ()
    shared: Sequence[int] = ()
    """Other descriptors that it inherits, under their numbers."""


class Worker:
    """One worker process. `on_state` hears what `/status` says of it, `on_word` each payload that it sends back."""

    def __init__(
        self, program: Program, on_state: Callable[[str], None], on_word: Callable[[bytes], None] = lambda _: None
    ) -> None:
        self.program = program
        self.pid: int | None = None
        self.stay = False
        """When `run` is cancelled it goes on, if it is of a kind that can, without us."""
        self._on_state = on_state
        self._on_word = on_word
        self._snapshot: Snapshot | None = None
        self._dirty: set[Key] | None = None
        """None: it must be told everything."""
        self._zone = ""
        self._wake = asyncio.Event()

    def publish(self, snapshot: Snapshot, keys: set[Key]) -> None:
        """Note a snapshot and what changed in it."""
        self._snapshot = snapshot
        if self._dirty is not None:
            self._dirty |= keys
        self._wake.set()

    async def run(self) -> None:
        """Keep one running until cancelled; then it is ended."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        restarts = 0
        while True:
            begin = loop.time()
            try:
                why = await self._live()
            except Exception as error:  # the supervisor: whatever it was, the worker is started again
                if not isinstance(error, OSError):
                    log.exception("unexpected")
                why = str(error)
            steady = loop.time() - begin > STEADY_SECONDS
            if steady:
                backoff.worked()
            pause = backoff.failed() if restarts and not steady else 0.0
            restarts += 1
            self._on_state(f"failed: {why}")
            log.warning("worker ended name=%s why=%s again_seconds=%.1f", self.program.name, why, pause)
            await asyncio.sleep(pause)

    async def _live(self) -> str:
        """Start one, feed it until it ends; return why it did."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                process = self._start(theirs)
            self.pid = process.pid
            try:
                self._on_state(RUNNING)
                return await self._until_end(process, ours)
            finally:
                self.pid = None
                if not self.stay:
                    await _end(process)

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        # From this thread, which lives as long as the process: a worker dies with the thread that started it.
        numbers = [theirs.fileno(), *(s.fileno() for s in self.program.sockets)]
        argv = [*self.program.argv, *map(str, numbers)]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=(*numbers, *self.program.shared))

    async def _until_end(self, process: subprocess.Popen[bytes], ours: socket.socket) -> str:
        ended = asyncio.create_task(_ended(process))
        feeding = asyncio.create_task(self._feed(ours))
        hearing = asyncio.create_task(self._hear(ours))
        try:
            await asyncio.wait((ended, feeding), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # it closed its feed: give it the time to say why
                await asyncio.wait((ended,), timeout=END_SECONDS)
        finally:
            for task in (ended, feeding, hearing):
                task.cancel()
            await asyncio.gather(ended, feeding, hearing, return_exceptions=True)
        code = process.poll()
        return "stopped reading" if code is None else f"exit {code}" if code >= 0 else f"signal {-code}"

    async def _feed(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._dirty = None
        await loop.sock_sendall(ours, feed.framed(self.program.greeting))
        if self._snapshot is None:  # it need not wait for a whole
            await loop.sock_sendall(ours, feed.encode(feed.Change(0, ())))
        while True:
            for frame in self._frames():
                await loop.sock_sendall(ours, feed.encode(frame))
                await asyncio.sleep(0)  # a whole is many frames: the agent has its turn between them
            self._wake.clear()
            if not self._dirty:
                await self._wake.wait()

    async def _hear(self, ours: socket.socket) -> None:
        """Pass on what it says, whole payloads, until its end."""
        loop = asyncio.get_running_loop()
        words = feed.Splitter()
        while data := await loop.sock_recv(ours, WORD_BYTES):
            for payload in words.feed(data):
                self._on_word(payload)

    def _frames(self) -> Iterator[feed.Frame]:
        """What it has not been told yet, of the snapshot at this moment."""
        snapshot, dirty = self._snapshot, self._dirty
        if snapshot is None:
            return iter(())
        self._dirty = set()
        if snapshot.zone != self._zone:
            self._zone, dirty = snapshot.zone, None
        if dirty is None or len(dirty) > max(feed.CHUNK, len(snapshot.services) // WHOLE_SHARE):
            return feed.whole(snapshot)
        return feed.changes(snapshot, dirty) if dirty else iter(())


class Crew:
    """Workers of one kind; satisfies the agent's Follower."""

    def __init__(
        self,
        programs: Sequence[Program],
        on_state: Callable[[str], None],
        on_word: Callable[[int, bytes], None] = lambda _number, _payload: None,
    ) -> None:
        self._on_state = on_state
        self._states = [STARTING for _ in programs]
        self.workers = [
            Worker(program, self._listener(number), partial(on_word, number)) for number, program in enumerate(programs)
        ]

    def publish(self, snapshot: Snapshot, delta: Delta) -> None:
        """Hand a sync on. O(what changed), and never waits."""
        keys = feed.changed(delta)
        for worker in self.workers:
            worker.publish(snapshot, keys)

    def stay(self) -> None:
        """Let the workers go on when `run` is cancelled."""
        for worker in self.workers:
            worker.stay = True

    async def run(self) -> None:
        """Run all until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                tasks.create_task(worker.run())

    def _listener(self, number: int) -> Callable[[str], None]:
        def listen(state: str) -> None:
            self._states[number] = state
            self._on_state(next((s for s in self._states if s != RUNNING), RUNNING))

        return listen


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process without a thread or a signal handler."""
    loop = asyncio.get_running_loop()
    handle = os.pidfd_open(process.pid)
    over = asyncio.Event()
    try:
        loop.add_reader(handle, over.set)
        await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    process.wait()


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that may run: its feed closes with us; then, if need be, by force."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await _ended(process)
    if process.poll() is None:
        process.kill()
        process.wait()
