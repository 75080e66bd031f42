"""The new daemon's side of a take-over: what it waits for."""

import asyncio
import time
from typing import TYPE_CHECKING, cast

import pytest

from svcnet.cli.takeover import Takeover
from svcnet.proxy.left import Left
from svcnet.status.inherited import Inherited

if TYPE_CHECKING:
    from svcnet.cli.control import Line
    from svcnet.config import Config


def takeover() -> Takeover:
    """One that has time, and says nothing."""
    return Takeover(cast("Line", None), 1, cast("Config", None), Left(), Inherited(), time.monotonic() + 1000.0)


@pytest.mark.parametrize("turns", range(5))
def test_an_end_that_comes_as_the_daemon_is_ready_is_not_lost(turns: int) -> None:
    async def scenario() -> bool:
        ready = asyncio.Event()
        waiting = asyncio.create_task(takeover().wait(ready, str))
        for _ in range(5):
            await asyncio.sleep(0)  # until it waits
        ready.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        is_over = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled() or is_over

    assert asyncio.run(scenario())
