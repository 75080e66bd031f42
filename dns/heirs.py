"""A DNS worker's side of a hand-over: programs that take its sockets over, while or after its daemon lives.

Owns: their connections (svcnet/handover.py). Must not know how a question is answered.

Whoever comes is told whether the worker is an orphan and whose it was, and gets copies of its sockets with that. What
it may say is `retire`: answer what was asked by now, and end. Until then the worker answers, and nothing has happened.
"""

import asyncio
import socket
from collections.abc import Sequence

from svcnet import handover
from svcnet.wire import Inbox, send

KIND = "dns"


class Heirs:
    """From `listen` to `close`; `retired` is set once somebody said so."""

    def __init__(self, owner: str, bound: Sequence[socket.socket]) -> None:
        self._owner, self._bound = owner, bound
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._inboxes: dict[socket.socket, Inbox] = {}
        self.retired = asyncio.Event()
        self.is_led = True
        """A daemon feeds us."""

    def listen(self) -> None:
        """Let them come. OSError."""
        self._listener = handover.listen(KIND)
        self._loop.add_reader(self._listener, self._on_coming, self._listener)

    def close(self) -> None:
        """Have done with all of them."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for connection in tuple(self._inboxes):
            self._forget(connection)

    def _on_coming(self, listener: socket.socket) -> None:
        connection = handover.accept(listener)
        if connection is None:
            return
        orphan = not self.is_led and not self._inboxes
        try:
            send(connection, {"orphan": orphan, "owner": self._owner}, [one.fileno() for one in self._bound])
        except OSError:
            connection.close()
            return
        self._inboxes[connection] = Inbox()
        self._loop.add_reader(connection, self._on_word, connection)

    def _on_word(self, connection: socket.socket) -> None:
        inbox = self._inboxes[connection]
        try:
            alive = inbox.receive(connection)
            while (got := inbox.take()) is not None:
                if "retire" in got[0]:
                    self.retired.set()
        except (OSError, ValueError):
            alive = False
        if not alive:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        self._loop.remove_reader(connection)
        del self._inboxes[connection]
        connection.close()
