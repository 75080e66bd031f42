"""One watch of a record directory: the list, then each change as it comes, for ever.

Owns: the order of reading, claiming and emitting, and when a directory counts as away. Must not know: how records are
written. A change costs what is in the changed file; nothing here walks over all files or records but a list.

Removals linger for LINGER_SECONDS after the last one: an editor that unlinks and writes anew makes a change and not a
deletion, a rename between two directories makes nothing, and a tree that is removed as a whole is away, never empty.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from svcnet.model.errors import ConfigError, RecordError
from svcnet.model.event import Away, Delete, Event, Put, Synced
from svcnet.store.catalog import Catalog
from svcnet.store.claim_file import ClaimFile
from svcnet.store.revision import Revisions
from svcnet.store.served import BRAKE_LEAST, Served
from svcnet.store.tree import Changes, Tree, blind_problems, read_file
from svcnet.virtual_ip import Allocation

CHUNK = 250
"""Files read at once: some 10 ms."""
FEW = 20
"""More files, or services without a claim, are worked on in a thread. Reading gives the interpreter away four times a
file: beside a busy thread the loop would wait for it again each time, and answer nobody meanwhile."""
SETTLE_SHARE = 10
"""While there is more to read, claims are written at most for one part of the time in so many: each writing is of all
claims, and a tree that is moved in would be as many writings as it has chunks."""
TICK_SECONDS = 1.0
"""How often the directory itself, and files that could not be read, are looked at: inotify says nothing of them."""
DEAF_SECONDS = 2.0
"""How often everything is read where inotify has no room (sysctl fs.inotify.*)."""
RETRY_SECONDS = 0.25
"""How often an absent directory is looked for."""
LINGER_SECONDS = 0.005
ASIDE_SECONDS = 0.2
"""The same for a file that was renamed to a name that is no record's: editors do so before they write anew."""
LINGER_MOST_SECONDS = 0.25
"""No removal waits longer, unless most files are being removed; those wait up to MASS_MOST_SECONDS."""
MASS_MOST_SECONDS = 2.0
GRACE_SECONDS = 300.0
"""How long the claim of a service whose file is gone is kept for its return; who asks for it gets it at once."""


class _Removal(NamedTuple):
    """A file that is gone: since when, and when that counts (monotonic seconds)."""

    since: float
    due: float


class DirWatch:
    """The state behind one DirStore.watch()."""

    def __init__(self, root: str, allocation: Allocation, revisions: Revisions) -> None:
        self.root = root
        self.catalog = Catalog(root)
        self.served = Served(self.catalog, ClaimFile(root, allocation))
        self._revisions = revisions
        self._tree: Tree | None = None
        self._readable = asyncio.Event()
        self._again: dict[str, None] = {}
        """Paths that could not be read: tried again with every tick."""
        self._dirty: dict[str, None] = {}
        self._removals: dict[str, _Removal] = {}
        self._last_removal = 0.0
        self._grace: dict[str, float] = {}
        self._settle_again = 0.0
        """When claims may be written although there is more to read."""

    async def run(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield batches for ever. ConfigError at the first list when the claims belong to another service CIDR."""
        with suppress(OSError, RecordError):
            self.served.load()
        away = ""
        try:
            while True:
                try:
                    async for batch in self._list():
                        away = ""
                        yield batch
                    async for batch in self._follow():
                        yield batch
                except OSError as error:
                    reason = f"{self.root}: {error.strerror or error}"
                    if reason != away:
                        away = reason
                        yield (Away(reason),)
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._close()

    async def _list(self) -> AsyncIterator[tuple[Event, ...]]:
        """Read everything anew; yield what differs from what was emitted, then Synced."""
        tree = self._open()
        with suppress(RecordError, ConfigError):
            self.served.load()
        known = list(self.served.claims.held)
        paths = tree.files()
        for start in range(0, len(paths), CHUNK):
            await self._read(paths[start : start + CHUNK])
            self.served.touch(self.catalog.take_touched())
            if batch := self._events(deletes=False):
                yield batch
            await asyncio.sleep(0)
        self._report_blind(tree)
        there = set(paths)
        for path in [path for path in self.catalog.files if path not in there and not tree.hides(path)]:
            self.catalog.remove(path)
        if not tree.is_same():
            raise FileNotFoundError(2, "the directory was replaced while it was read")
        self._removals.clear()
        self.served.touch(self.catalog.take_touched())
        self.served.mark_absent(known)
        await self._settle()
        events = self._events(deletes=False)
        for start in range(0, len(events), CHUNK):
            yield events[start : start + CHUNK]
        yield (Synced(self._revisions.next(), frozenset(self.catalog.keys())),)

    async def _follow(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield changes until a new list is due."""
        tree = self._tree
        assert tree is not None
        tick = time.monotonic() + (DEAF_SECONDS if tree.deaf else TICK_SECONDS)
        while True:
            await self._wait(tick)
            changes = tree.changes()
            if changes.lost or changes.overflow:
                return
            now = time.monotonic()
            ticked = now >= tick
            if ticked and (tree.deaf or not tree.is_same()):
                return
            self._note(changes, now)
            if ticked:
                tick = now + TICK_SECONDS
                self._tick(tree)
            while True:
                await self._read_dirty(now)
                self._remove_due(tree, time.monotonic())
                self.served.touch(self.catalog.take_touched())
                await self._settle()
                if batch := self._events(deletes=True):
                    yield batch
                if not self._dirty:
                    break
                await asyncio.sleep(0)
            if ticked:
                await self._free(now)

    def _open(self) -> Tree:
        self._close()
        tree = self._tree = Tree(self.root)
        self._readable.clear()
        if tree.notify is not None:
            asyncio.get_running_loop().add_reader(tree.notify.fd, self._readable.set)
        return tree

    def _close(self) -> None:
        if self._tree is not None:
            if self._tree.notify is not None:
                asyncio.get_running_loop().remove_reader(self._tree.notify.fd)
            self._tree.close()
            self._tree = None

    async def _wait(self, tick: float) -> None:
        """Wait for a notice, the next removal that counts, or the tick."""
        until = tick
        if self._removals:
            first = min(removal.due for removal in self._removals.values())
            until = min(tick, max(first, self._last_removal + LINGER_SECONDS))
        with suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                await self._readable.wait()
        self._readable.clear()

    def _note(self, changes: Changes, now: float) -> None:
        """Take in what may have changed."""
        self._dirty.update(dict.fromkeys(changes.paths))
        for path in changes.set_aside:
            self._removals[path] = _Removal(now, now + ASIDE_SECONDS)
        if changes.gone:
            self._dirty.update(dict.fromkeys(path for path in self.catalog.files if path.startswith(changes.gone)))
        if changes.claims:
            self.served.touch(self.served.unclaimed)
            with suppress(OSError, RecordError, ConfigError):
                self.served.load()

    async def _read_dirty(self, now: float) -> None:
        """Read what may have changed; what is not there begins to linger."""
        chunk = list(islice(self._dirty, CHUNK))
        for path in chunk:
            del self._dirty[path]
        for path in await self._read(chunk):
            if path in self.catalog.files and path not in self._removals:
                self._removals[path] = _Removal(now, now + LINGER_SECONDS)
                self._last_removal = now
        # What has turned up in another file was moved there: its old file need not linger.
        for path in self.catalog.doubled() & self._removals.keys() if self._removals else ():
            del self._removals[path]
            self.catalog.remove(path)

    async def _read(self, paths: Sequence[str]) -> list[str]:
        """Load files; return those that are not there."""
        return await asyncio.to_thread(self._load, paths) if len(paths) > FEW else self._load(paths)

    def _load(self, paths: Iterable[str]) -> list[str]:
        assert self._tree is not None
        missing = []
        for path in paths:
            content = read_file(f"{self.root}/{path}")
            self._tree.follow(path, link=content.link)
            if content.data is not None:
                self.catalog.load(path, content.data)
            elif content.error:
                self.catalog.fail(path, content.error)
                self._again[path] = None
            else:
                missing.append(path)
                continue
            self._removals.pop(path, None)
        return missing

    def _remove_due(self, tree: Tree, now: float) -> None:
        """Forget files whose removal has lingered. OSError when the whole directory is gone: then none counts."""
        if not self._removals:
            return
        mass = len(self._removals) >= BRAKE_LEAST and 2 * len(self._removals) > len(self.catalog.files)
        most = MASS_MOST_SECONDS if mass else LINGER_MOST_SECONDS
        still = self._last_removal + LINGER_SECONDS <= now
        due = [
            path
            for path, removal in self._removals.items()
            if (still and removal.due <= now) or removal.since + most <= now
        ]
        if due and not tree.is_same():
            raise FileNotFoundError(2, os.strerror(2))
        for path in due:
            del self._removals[path]
            self.catalog.remove(path)

    async def _settle(self) -> None:
        """Let every touched service have what it holds or asks for; claim what is new."""
        served, file = self.served, self.served.file
        for _ in served.settle_held():
            await asyncio.sleep(0)
        begin = time.monotonic()
        if served.is_settled or (self._dirty and begin < self._settle_again):
            return
        reason = ""
        try:
            await file.free()
            # The thread has the lock all by itself: nothing that the loop does in between can wait for it in vain.
            await asyncio.to_thread(self._claim) if len(served.unsettled) > FEW else self._claim()
        except (RecordError, ConfigError) as error:
            reason = str(error)
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = f"{self.root}: {error.strerror or error}"
            with suppress(RecordError, ConfigError):
                served.load()
        self.catalog.reports.set(file.path, {file.path: reason} if reason else {})
        if reason:
            served.settle_unwritable(reason)
        end = time.monotonic()
        self._settle_again = end + SETTLE_SHARE * (end - begin)

    def _claim(self) -> None:
        served = self.served
        with served.file.locked():
            served.load()
            served.settle(quiet=self._is_quiet())

    def _is_quiet(self) -> bool:
        return self._tree is not None and not (self._dirty or self._removals or self._tree.is_pending())

    def _events(self, *, deletes: bool) -> tuple[Event, ...]:
        """Return what differs from what was emitted, at the next revision, and new and mended problems."""
        changes = self.served.changes()
        rev = self._revisions.next() if changes else self._revisions.last
        events: list[Event] = []
        for key, record in changes:
            if record is not None:
                events.append(Put(record, rev))
            elif deletes:
                events.append(Delete(key, rev))
        return (*events, *self.catalog.reports.take())

    def _tick(self, tree: Tree) -> None:
        """Try again what inotify is silent about: what could not be read, and claims that could not be written."""
        self._dirty.update(self._again)
        self._again.clear()
        for at in list(tree.blind):
            self._dirty.update(dict.fromkeys(tree.files(at)))
        self._report_blind(tree)
        if self.served.unclaimed and os.access(self.root, os.W_OK):
            self.served.touch(self.served.unclaimed)

    async def _free(self, now: float) -> None:
        """Give up the claims of services that did not come back in time."""
        file = self.served.file
        for name in self.served.lapsed:
            self._grace[name] = now + GRACE_SECONDS
        self.served.lapsed.clear()
        names = [name for name, until in self._grace.items() if until <= now]
        if not names:
            return
        with suppress(OSError, RecordError, ConfigError):
            await file.free()
            with file.locked():
                self.served.load()
                if not self._is_quiet():
                    return
                for name in names:
                    self._grace.pop(name)
                    if name in file.claims.lapsed:
                        file.claims.free(name)
                if file.claims.changed:
                    file.save()

    def _report_blind(self, tree: Tree) -> None:
        self.catalog.reports.set("unreadable directories", blind_problems(self.root, tree.blind))
        what = f"can't be watched, so it is read every {DEAF_SECONDS:g} s: {tree.deaf}"
        self.catalog.reports.set("inotify", {self.root: what} if tree.deaf else {})
