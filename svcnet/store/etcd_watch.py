"""One watch of an etcd: the list, then each change as it comes, for ever.

Owns: the order of reading, claiming and emitting; when to read anew, resume or wait. Must not know: gRPC, how a record
is written. Whatever waits for etcd runs in a thread, one call at a time; the event loop folds what has come.

A stream that broke is resumed after the last event that was seen, so an outage costs what changed in it. Everything is
read anew, as a difference, when etcd's history does not reach back that far, or when it is not the same etcd.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from svcnet.model.errors import ConfigError, NotPermittedError, StoreError
from svcnet.model.event import Away, Event, Synced
from svcnet.store.etcd_change import LostError
from svcnet.store.etcd_client import CompactedError, EtcdClient
from svcnet.store.etcd_keys import Keyspace
from svcnet.store.etcd_stream import EtcdStream
from svcnet.store.etcd_view import EtcdView
from svcnet.virtual_ip import Allocation

CHUNK = 500
"""Most events in one batch of a list."""
PAUSE_LEAST_SECONDS, PAUSE_MOST_SECONDS = 0.1, 2.0
CATCH_UP_SECONDS = 0.3
"""A resumed stream that is silent for so long has nothing to tell (etcd looks after late watchers every 0.1 s)."""
TICK_SECONDS = 1.0
"""How often claims that could not be written are tried again."""
SILENCE_SECONDS = 10.0
"""After this long without an answer etcd is asked for one key: a stream says nothing of a peer that vanished."""
GRACE_SECONDS = 300.0
"""How long the claim of a service that was deleted past svcnet is kept for its return; who asks gets it at once."""


class EtcdWatch:
    """The state behind one EtcdStore.watch(). The client is its own, and closed with it: that ends calls that wait."""

    def __init__(self, client: EtcdClient, space: Keyspace, allocation: Allocation) -> None:
        self._client = client
        self._space = space
        self._view = EtcdView(client, space, allocation)
        self._listed = False
        """What is known is whole, as of view.rev."""
        self._synced = False
        self._stream: EtcdStream | None = None
        self._grace: dict[str, float] = {}

    async def run(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield batches for ever. ConfigError before the first Synced: the claims belong to another service CIDR."""
        away, pause = "", PAUSE_LEAST_SECONDS
        try:
            while True:
                try:
                    async for batch in self._connect():
                        yield batch
                    away, pause = "", PAUSE_LEAST_SECONDS
                    async for batch in self._follow():
                        yield batch
                except CompactedError:
                    self._listed = False
                    continue
                except (StoreError, NotPermittedError, ConfigError) as error:
                    if isinstance(error, ConfigError) and not self._synced:
                        raise
                    if str(error) != away:
                        away = str(error)
                        yield (Away(away),)
                    self._client.close()
                finally:
                    self._close()
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_MOST_SECONDS)
        finally:
            self._close()
            self._client.close()

    async def _connect(self) -> AsyncIterator[tuple[Event, ...]]:
        """Read everything or resume; yield what differs, then Synced."""
        view = self._view
        now = await asyncio.to_thread(self._client.range, key=view.newest[0] or self._space.cidrs)
        self._listed = self._listed and view.knows(now)
        if self._listed:
            self._open()
            async for batch in self._catch_up(now.header.revision):
                yield batch
        else:
            async for batch in self._list():
                yield batch
            self._listed = True
            self._open()
        self._synced = True
        yield (Synced(view.rev, frozenset(view.catalog.keys())),)

    async def _list(self) -> AsyncIterator[tuple[Event, ...]]:
        """Read everything; yield what differs from what was emitted."""
        view = self._view
        reading = view.read()
        while await asyncio.to_thread(next, reading, None) is not None:
            await self._settle_held()
            for batch in _chunks(view.events(deletes=False)):
                yield batch
        await self._settle()
        for batch in _chunks(view.events(deletes=False)):
            yield batch

    async def _catch_up(self, revision: int) -> AsyncIterator[tuple[Event, ...]]:
        """Yield what happened up to a revision, as far as it is about our keys."""
        view, stream = self._view, self._stream
        assert stream is not None
        created = False
        while view.rev < revision:
            answers = await stream.get(CATCH_UP_SECONDS if created else PAUSE_MOST_SECONDS)
            if not answers and created:
                view.rev = revision  # the rest was about other keys
            elif not answers:
                raise StoreError(f"{self._client.access}: no answer to a watch")
            created = True
            if batch := await self._take(answers):
                yield batch

    async def _follow(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield changes for ever. StoreError: the stream has ended."""
        stream = self._stream
        assert stream is not None
        heard = time.monotonic()
        tick = heard + TICK_SECONDS
        while True:
            answers = await stream.get(max(0.0, tick - time.monotonic()))
            now = time.monotonic()
            if answers:
                heard = now
            elif now - heard > SILENCE_SECONDS:
                await asyncio.to_thread(self._client.range, key=self._space.cidrs)
                heard = now
            if now >= tick:
                tick = now + TICK_SECONDS
                await self._tick(now)
            if batch := await self._take(answers):
                yield batch

    async def _take(self, answers: Sequence[Any]) -> tuple[Event, ...]:
        """Fold answers in; return what differs."""
        self._view.take(event for answer in answers for event in answer.events)
        await self._settle()
        return self._view.events(deletes=True)

    async def _settle(self) -> None:
        """Let every touched service have what it holds or asks for; claim what is new."""
        await self._settle_held()
        if not self._view.served.is_settled:
            # Another minion claims the same at the same moment: what it got comes as the next answer.
            with suppress(LostError):
                await asyncio.to_thread(self._view.claim)

    async def _settle_held(self) -> None:
        for _ in self._view.served.settle_held():
            await asyncio.sleep(0)

    async def _tick(self, now: float) -> None:
        """Try again what could not be claimed; give up the claims of services that did not come back in time."""
        served = self._view.served
        served.touch(served.unclaimed)
        for name in served.lapsed:
            self._grace[name] = now + GRACE_SECONDS
        served.lapsed.clear()
        due = [name for name, until in self._grace.items() if until <= now]
        for name in due:
            del self._grace[name]
        if due:
            with suppress(LostError, NotPermittedError):
                await asyncio.to_thread(self._view.give_up, due)

    def _open(self) -> None:
        self._stream = EtcdStream(self._client, self._space.everything, self._view.rev + 1)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _chunks(events: tuple[Event, ...]) -> Sequence[tuple[Event, ...]]:
    return [events[start : start + CHUNK] for start in range(0, len(events), CHUNK)]
