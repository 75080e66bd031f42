"""One watch stream of an etcd, read in a thread, as something that an event loop can wait for.

Owns: the thread and the two queues. Must not know: what the answers say of records.
"""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from svcnet.model.errors import StoreError
from svcnet.store.etcd_client import CompactedError, EtcdClient, modules

ANSWERS_MOST = 64
"""Answers taken in one go; etcd puts up to 1000 revisions in one when it catches up."""
JOIN_SECONDS = 2.0


class EtcdStream:
    """Changes of the keys from `start` to before `end` since `revision`. Made and used in an event loop."""

    def __init__(self, client: EtcdClient, span: tuple[bytes, bytes], revision: int) -> None:
        rpc = modules().rpc
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._requests: SimpleQueue[Any] = SimpleQueue()
        create = rpc.WatchCreateRequest(key=span[0], range_end=span[1], start_revision=revision)
        self._requests.put(rpc.WatchRequest(create_request=create))
        # gRPC reads the requests in a thread of its own, until None.
        self._call = client.watch(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._read, name="svcnet-etcd-watch", daemon=True)
        self._thread.start()

    async def get(self, seconds: float) -> Sequence[Any]:
        """Return the WatchResponses that have come, none after `seconds`.

        StoreError: the stream has ended; CompactedError: its revision is older than etcd's history.
        """
        try:
            async with asyncio.timeout(seconds):
                answers = [await self._answers.get()]
        except TimeoutError:
            return ()
        while len(answers) < ANSWERS_MOST and not self._answers.empty():
            answers.append(self._answers.get_nowait())
        for place, answer in enumerate(answers):
            if (wrong := self._wrong(answer)) is not None:
                if place:  # what came before it counts
                    self._loop.call_soon(self._answers.put_nowait, answer)
                    return answers[:place]
                raise wrong
        return answers

    def close(self) -> None:
        """End the stream and its thread."""
        self._requests.put(None)
        self._call.cancel()
        self._thread.join(JOIN_SECONDS)

    def _wrong(self, answer: Any) -> Exception | None:
        if isinstance(answer, Exception):
            return answer
        if answer.compact_revision:
            return CompactedError(f"{self._client.access}: compacted up to revision {answer.compact_revision}")
        # With a lapsed token etcd says created, id -1, and then nothing for ever.
        if answer.canceled or (answer.created and answer.watch_id == -1):
            self._client.close()  # so that the next call logs in anew
            return StoreError(f"{self._client.access}: watch refused: {answer.cancel_reason or 'no reason given'}")
        return None

    def _read(self) -> None:
        end: Exception = StoreError(f"{self._client.access}: the watch stream ended")
        try:
            for answer in self._call:
                self._hand_over(answer)
        except modules().grpc.RpcError as error:
            end = self._client.error(error)
        self._hand_over(end)

    def _hand_over(self, answer: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._answers.put_nowait, answer)
