"""Work that follows a sync: a little later, together, and again until it worked.

Owns: when it is done and how often it is tried. Must not know what is kept (env files, the checkpoint).
"""

import asyncio
from collections.abc import Awaitable, Callable

from svcnet.model.errors import SvcnetError
from svcnet.pacing import Backoff


class Keeper:
    """Does `act` after `poke`, once things were quiet for `quiet_seconds`; a failure is told and tried again."""

    def __init__(
        self, name: str, quiet_seconds: float, act: Callable[[], Awaitable[None]], tell: Callable[[str], None]
    ) -> None:
        self.name = name
        self.fault = ""
        """Why the last try failed; "" when it worked."""
        self._quiet_seconds = quiet_seconds
        self._act, self._tell = act, tell
        self._wake = asyncio.Event()
        self._backoff = Backoff()

    def poke(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Keep for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._quiet_seconds)
            self._wake.clear()
            await self.now()

    async def now(self) -> None:
        """Do it at once."""
        try:
            await self._act()
        except (OSError, SvcnetError) as error:
            self.fault = str(error)
            self._tell(f"{self.name}: {error}")
            asyncio.get_running_loop().call_later(self._backoff.failed(), self.poke)
        else:
            self.fault = ""
            self._backoff.worked()
