"""The one loop: events from the store → tracker → kernel, then env files and checkpoint.

Owns: the order of things, and what happens when a part fails: the last good state serves on. The tracker decides
what is served, the data path how; this module moves values between them and catches what they raise.
"""

import asyncio
import contextlib
import errno
import gc
import logging
from collections.abc import AsyncIterator, Iterable

from svcnet import checkpoint
from svcnet.iptables.desired import Desired, Treatment, rows
from svcnet.iptables.netlink import MendedError, NetlinkError
from svcnet.iptables.reach import Reaches, looker, reach
from svcnet.keeper import Keeper
from svcnet.model.errors import SvcnetError
from svcnet.model.event import Away, Delete, Event, Problem, Put, Synced
from svcnet.model.frontend import Frontend
from svcnet.model.meta import Key
from svcnet.model.node import Node
from svcnet.model.snapshot import Delta, LeftOut
from svcnet.pacing import Backoff, Pacing
from svcnet.parts import Parts, State
from svcnet.plan import NOTHING, Excerpt, Plan, diff
from svcnet.tracker import Tracker

log = logging.getLogger(__name__)

CHECKPOINT_QUIET_SECONDS = 2.0
ENV_QUIET_SECONDS = 0.02
MANY = 500
"""More events or ports than this are worked on in a thread (up to here it is some 20 ms), so that health answers; what
they brought stays for long, and later garbage collections, each a stop of the whole process, need not look at it."""


class Agent:
    """Run with `run()`; ends by cancellation, and leaves the rules where they are."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.state = State()
        self._node: Node | None = None
        self.minion = parts.locate(None)
        self._pending: list[Event] = []
        self._wake = asyncio.Event()
        self._stale = True
        self._attempted: Plan[Frontend, Treatment] | None = None
        self._ready = False
        self._programming = asyncio.Lock()
        self._audit, self._read_seconds = False, 0.0
        self._pacing, self._backoff = Pacing(), Backoff()
        self._loaded = False
        self._env_dirty: set[str] | None = None
        """Namespaces whose files wait; None: all of them."""
        self.env = Keeper("env files", ENV_QUIET_SECONDS, self._write_env, self.tell)
        self.checkpoint = Keeper("checkpoint", CHECKPOINT_QUIET_SECONDS, self._write_checkpoint, self.tell)

    @property
    def tracker(self) -> Tracker:
        """The state of the records."""
        return self.parts.tracker

    @property
    def is_loading(self) -> bool:
        """Whether the store's first list is on its way to the kernel."""
        state = self.state
        return state.store_seen and not (state.synced or state.away or state.last_error)

    async def run(self) -> None:
        """Follow the store for ever."""
        await self._recall()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self.env.run())
            tasks.create_task(self.checkpoint.run())
            tasks.create_task(self._watch_kernel())
            tasks.create_task(self._sweep_by_the_clock())
            while True:
                await self._wake.wait()
                delay = self._pacing.delay(self.parts.clock())
                if delay:
                    await asyncio.sleep(delay)
                self._wake.clear()
                await self._turn()

    async def release(self) -> str:
        """Let a held list through (`svcnet release`)."""
        held = self.tracker.held
        if held is None:
            return "nothing is held"
        await self._carry_out(self.tracker.release())
        return f"released: {held.missing} of {held.known} services deleted"

    def left_out(self) -> tuple[LeftOut, ...]:
        """Everything that is not served: by the store, by the tracker, by the data path, by the env files."""
        problems = tuple(LeftOut(where, what) for where, what in sorted(self.state.problems.items()))
        env = self.parts.env.problems if self.parts.env else ()
        # What the store has said of a record already is not said again in other words.
        left = (item for item in self.tracker.left_out() if item.what not in self.state.problems)
        return (*problems, *left, *self.parts.unserved(), *(LeftOut("env files", problem) for problem in env))

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what did not come from the store, with the next sync."""
        self._pending += events
        if self.state.oldest_unapplied is None:
            self.state.oldest_unapplied = self.parts.clock()
        self._wake.set()

    def resync(self) -> None:
        """Read the kernel back and mend what differs, soon."""
        self._stale = True
        self._wake.set()

    @contextlib.asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """The kernel is left alone meanwhile, and compared with what is wanted after that."""
        async with self._programming:
            yield
        self.resync()

    async def relocate(self) -> None:
        """The machine has other addresses: what depends on them is planned again. O(services with node ports)."""
        async with self._programming:
            before, self.minion = self.minion, self.parts.locate(self._node)
            if self.minion == before:
                return
            path, ports = self.parts.data_path, self.tracker.snapshot.ports.values()
            mine = [p for p in ports if p.node_port or p.policy.source_ranges]
            plan = diff(rows(mine, before), rows(mine, self.minion))
            if self._stale or path is None or not plan:
                return
            try:
                await asyncio.to_thread(path.apply, plan)
                await self._clean_flows(reach(mine, before), reach(mine, self.minion))
            except (SvcnetError, OSError) as error:
                self.tell(str(error), plan.excerpt())
                self.resync()

    async def _write_checkpoint(self) -> None:
        if self.parts.state_dir is None or not self.state.synced:
            return
        records = tuple(self.tracker.records())
        path = self.parts.state_dir / "checkpoint"
        await asyncio.to_thread(checkpoint.save, path, self.tracker.snapshot.rev, records, self.parts.wall())

    async def _recall(self) -> None:
        """Put the checkpoint's records in the tracker: the brake compares with them, and they serve without a store."""
        if self.parts.state_dir is None:
            return
        found = await asyncio.to_thread(checkpoint.load, self.parts.state_dir / "checkpoint")
        if found is not None:
            self._pending += [Put(record, found.rev) for record in found.records]
            self.state.from_checkpoint = found.written
            self.state.revision_seen = found.rev
            self._loaded = True

    async def _follow(self) -> None:
        async for batch in self.parts.store.watch():
            for event in batch:
                self._notice(event)
            self._pending += batch
            if self.state.oldest_unapplied is None:
                self.state.oldest_unapplied = self.parts.clock()
            # Until the list is whole there is nothing to act on: folding it in one go is half the work.
            if self.tracker.synced or any(isinstance(e, Synced | Away) for e in batch):
                self._wake.set()

    def _notice(self, event: Event) -> None:
        match event:
            case Put(_, rev) | Synced(rev, _):
                self.state.revision_seen = max(self.state.revision_seen, rev)
                self.state.store_seen = True
                if isinstance(event, Synced):
                    self.state.away, self.state.away_since = "", None
            case Away(reason):
                if self.state.away_since is None:
                    self.state.away_since = self.parts.clock()
                    log.warning("store away reason=%s", reason)
                self.state.away = reason
            case Problem(where, what):
                if what:
                    log.warning("left out where=%s why=%s", where, what)
                    self.state.problems[where] = what
                else:
                    self.state.problems.pop(where, None)
            case Delete(_, rev):
                self.state.revision_seen = max(self.state.revision_seen, rev)
            case _:
                pass

    async def _turn(self) -> None:
        """One sync: everything that is pending goes out together."""
        events, self._pending = self._pending, []
        since, self.state.oldest_unapplied = self.state.oldest_unapplied, None
        self.state.in_work = since
        if not self.tracker.synced and not any(isinstance(e, Synced) for e in events) and not self._loaded:
            self._pending = events + self._pending  # away, and nothing to serve yet
            self._put_back(since)
            return
        held = self.tracker.held
        delta = await asyncio.to_thread(self.tracker.fold, events) if len(events) > MANY else self.tracker.fold(events)
        if self.tracker.held and self.tracker.held != held:
            log.warning("held a list missing=%s known=%s: svcnet release", *self.tracker.held[:2])
        if not await self._carry_out(delta):
            self._put_back(since)
            return
        self.state.in_work = None
        if since is not None:
            self.parts.meter.programmed(self.parts.clock() - since)

    def _put_back(self, since: float | None) -> None:
        """What began to wait at `since` still does; what came meanwhile is younger."""
        self.state.in_work = None
        if since is not None:
            self.state.oldest_unapplied = since

    async def _carry_out(self, delta: Delta) -> bool:
        node = self.tracker.get(Key("Node", "", self.minion.name))
        if node is not self._node:
            self._node = node if isinstance(node, Node) else None
            before, self.minion = self.minion, self.parts.locate(self._node)
            # Rows at the old addresses may belong to services that this very delta removes: compare it all.
            self._stale |= self.minion != before
        # A large plan runs in a thread: nobody else may talk to the kernel's sockets meanwhile (release, the watch).
        async with self._programming:
            return await self._sync(delta)

    async def _sync(self, delta: Delta) -> bool:
        begin = self.parts.clock()
        try:
            changes = await self._program(delta)
            self._hand_on(delta)
        except Exception as error:  # the supervisor: no fault of a part may end the loop
            self._stale = True
            self._hand_on(delta)  # a change is told once, and a name needs no kernel
            if not isinstance(error, SvcnetError | OSError):
                log.exception("unexpected")
            # A key that is not there, or holds something else, was not our doing: we know what we wrote.
            self.state.drift += isinstance(error, NetlinkError) and error.code in {errno.ENOENT, errno.EEXIST}
            self.parts.meter.sync_failed()
            if self.state.failing is None:
                self.state.failing = begin
            self.tell(str(error), self._attempted.excerpt() if self._attempted else NOTHING)
            if self._attempted is None:
                self.state.last_error_batch = await self._undone()
            asyncio.get_running_loop().call_later(self._backoff.failed(), self._wake.set)
            return False
        self._backoff.worked()
        self.state.failing = None
        end = self.parts.clock()
        self._pacing.synced(end)
        self.state.revision_applied = self.tracker.snapshot.rev
        self.parts.meter.synced(end - begin, changes, self.state.revision_applied, self.parts.wall())
        if changes:
            ms = (end - begin) * 1000
            services = len(self.tracker.snapshot.services)
            log.info("synced rev=%s services=%s changes=%s ms=%.1f", delta.rev, services, changes, ms)
        if changes > MANY:
            gc.freeze()
        self._announce()
        self._queue_env(delta)
        self.checkpoint.poke()
        return True

    def _hand_on(self, delta: Delta) -> None:
        """After the kernel: a client that is told an address may use it."""
        for follower in self.parts.followers:
            follower.publish(self.tracker.snapshot, delta)

    async def _program(self, delta: Delta) -> int:
        """Bring the kernel to the snapshot; return the number of changed frontends."""
        path = self.parts.data_path
        self._attempted = None
        if path is None:
            self._stale = False
            return len(delta.added) + len(delta.changed) + len(delta.removed)
        if self._stale:
            begin = self.parts.clock()
            wanted = await asyncio.to_thread(self._all_desired)
            plan = await asyncio.to_thread(path.sync, wanted)
            self._stale, self._read_seconds = False, self.parts.clock() - begin
            self._judge(plan)
            await self._sweep()
            return len(plan)
        many = len(delta.added) + len(delta.changed) + len(delta.removed) > MANY
        plan = self._attempted = await asyncio.to_thread(self._plan, delta) if many else self._plan(delta)
        try:
            if len(plan) > self.parts.inline_changes or self.parts.waits(plan):
                await asyncio.to_thread(path.apply, plan)
            elif plan:
                path.apply(plan)
        except MendedError as error:
            self.state.drift += error.keys
            self.tell(str(error), plan.excerpt())
        await self._clean(delta)
        return len(plan)

    async def _undone(self) -> Excerpt:
        """What the kernel lacks after a sync that was to compare all of it."""
        path = self.parts.data_path
        if path is not None:
            with contextlib.suppress(SvcnetError, OSError):
                wanted = await asyncio.to_thread(self._all_desired)
                return diff(await asyncio.to_thread(path.look, wanted), wanted).excerpt()
        return NOTHING

    def _plan(self, delta: Delta) -> Plan[Frontend, Treatment]:
        before = rows((*delta.removed, *(old for old, _ in delta.changed)), self.minion)
        after = rows((*delta.added, *(new for _, new in delta.changed)), self.minion)
        return diff(before, after)

    def _judge(self, plan: Plan[Frontend, Treatment]) -> None:
        """Count what an audit found: rows that were not as written."""
        if self._audit and plan:
            self.state.drift += len(plan)
            log.warning("mended what somebody else changed rows=%s", len(plan))
        self._audit = False

    def _all_desired(self) -> Desired:
        return rows(self.tracker.snapshot.ports.values(), self.minion)

    async def _clean(self, delta: Delta) -> None:
        """Remove the UDP flows that lead where they may not (reach.py)."""
        before = (*delta.removed, *(old for old, _ in delta.changed))
        after = (*delta.added, *(new for _, new in delta.changed))
        await self._clean_flows(reach(before, self.minion), reach(after, self.minion))

    async def _clean_flows(self, before: Reaches, after: Reaches) -> None:
        wanted = {**dict.fromkeys(before), **after}
        if wanted and self.parts.flows is not None:
            self.parts.meter.flows_deleted(await asyncio.to_thread(self.parts.flows.clean, wanted))

    async def _sweep(self) -> None:
        """The same for everything that is served, and for what is not any more."""
        if self.parts.flows is not None:
            look = looker(self.tracker.snapshot, self.minion)
            self.parts.meter.flows_deleted(await asyncio.to_thread(self.parts.flows.sweep, look))

    async def _sweep_by_the_clock(self) -> None:
        while self.parts.flows is not None:
            await asyncio.sleep(self.parts.sweep_seconds)
            async with self._programming:
                if self._stale:
                    continue
                try:
                    await self._sweep()
                except (SvcnetError, OSError) as error:
                    self.tell(str(error))

    def _announce(self) -> None:
        if self.tracker.synced and not self.state.synced:
            self.state.synced, self.state.from_checkpoint = True, None
            self.parts.on_ready("")
        elif not self.tracker.synced and not self._ready and self.state.from_checkpoint is not None:
            age = self.parts.wall() - self.state.from_checkpoint
            self.parts.on_ready(f"checkpoint, {age:.0f} s old; store away: {self.state.away}")
        self._ready = True

    def tell(self, what: str, batch: Excerpt = NOTHING) -> None:
        """Log a failure, and show it in /status with what was not done for it."""
        self.state.last_error, self.state.last_error_at = what, self.parts.wall()
        self.state.last_error_batch = batch
        log.error("failed error=%s", what)

    def _queue_env(self, delta: Delta) -> None:
        names = {s.meta.namespace for pair in delta.services for s in pair if s is not None}
        if self._env_dirty is not None:
            self._env_dirty |= names
        if names or self._env_dirty is None:
            self.env.poke()

    async def _write_env(self) -> None:
        if self.parts.env is None:
            return
        dirty, self._env_dirty = self._env_dirty, set()
        try:
            count = await asyncio.to_thread(self.parts.env.update, self.tracker.snapshot, dirty)
        except BaseException:
            self._env_dirty = None if dirty is None else self._env_dirty | dirty
            raise
        self.parts.meter.env_rendered(count)

    async def _watch_kernel(self) -> None:
        """Notice when somebody else changed the kernel, and mend it: nothing of that reaches us through the store."""
        foreign = self.parts.foreign
        while foreign is not None:
            # Reading back costs O(everything): a host whose other rules change all the time must not pay for it often.
            await asyncio.sleep(max(self.parts.watch_seconds, 20 * self._read_seconds))
            if not self._stale and not self._programming.locked() and foreign():
                self._audit = True
                self.resync()
