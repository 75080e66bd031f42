"""Records on their way to the store: the last state of each, tried until the store takes it. Shell.

Owns: order and retry. Must not know whose records they are.
"""

import asyncio
from collections.abc import Callable, Mapping

from svcnet.lab.registry import Registry
from svcnet.model.errors import StoreError, SvcnetError
from svcnet.model.meta import Key
from svcnet.model.record import Record

RETRY_SECONDS = 1.0
"""How soon a record that couldn't be written (store away) is tried again."""


class Outbox:
    """What is to be written: a record that changes again meanwhile is written once, as it is then."""

    def __init__(self, registry: Registry | None, say: Callable[[str], None]) -> None:
        self._registry, self._say = registry, say
        self._waiting: dict[Key, Record | None] = {}
        self._news = asyncio.Event()

    def put(self, record: Record) -> None:
        """Have a record written."""
        self._add(record.key, record)

    def delete(self, key: Key) -> None:
        """Have a record deleted."""
        self._add(key, None)

    def _add(self, key: Key, record: Record | None) -> None:
        if self._registry is not None:
            self._waiting.pop(key, None)
            self._waiting[key] = record
            self._news.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._waiting = self._waiting, {}
            try:
                # In a thread: a store may take its time, and pods end meanwhile.
                await asyncio.to_thread(self._write, batch)
            except (StoreError, OSError) as error:
                self._say(f"store away, again in {RETRY_SECONDS:g} s error={error}")
                self._waiting = batch | self._waiting
                await asyncio.sleep(RETRY_SECONDS)
                self._news.set()

    def _write(self, batch: Mapping[Key, Record | None]) -> None:
        assert self._registry is not None
        records = [record for record in batch.values() if record is not None]
        gone = [key for key, record in batch.items() if record is None]
        try:
            if gone:
                self._registry.delete(*gone)
                self._say(f"records deleted keys={','.join(map(str, gone))}")
            if records:
                self._registry.put(*records)
        except StoreError:
            raise
        except SvcnetError as error:
            if len(batch) == 1:
                self._say(f"record refused error={error}")
                return
            for key, record in batch.items():  # one that is refused must not keep the others
                self._write({key: record})
