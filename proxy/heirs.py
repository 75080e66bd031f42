"""A worker's side of a hand-over: programs that take its listeners over, or end it, while or after its daemon lives.

Owns: their connections (svcnet/handover.py), and what each was promised. Must not know what a listener is for.

A worker says first whether it is an orphan: nobody tells it what to do. Messages, as of the daemon (wire.py): `give`:
send copies of all listeners, any number of frames with `done` in the last; `pause`: accept nothing, until that program
drains us or ends; `drain`, `probe` as in worker.py; `end`: at once. `ack` comes back when all of it is done.
"""

import select
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from svcnet import handover
from svcnet.proxy.loop import Loop
from svcnet.wire import FDS_A_FRAME, Inbox, send

KIND = "proxy"


class Legator(Protocol):
    """The worker."""

    @property
    def is_led(self) -> bool:
        """Whether a daemon tells it what to serve."""
        ...

    def listeners(self) -> Iterable[int]:
        """File descriptors of all listeners."""
        ...

    def hold(self) -> None:
        """Accept nothing for now."""
        ...

    def release(self) -> None:
        """Accept again."""
        ...

    def carry_out(self, message: dict[str, Any]) -> None:
        """Do what a daemon may ask."""
        ...


class Heirs:
    """From `listen` on."""

    def __init__(self, loop: Loop, worker: Legator) -> None:
        self._loop, self._worker = loop, worker
        self._listener: socket.socket | None = None
        self._inboxes: dict[socket.socket, Inbox] = {}
        self._pausing: set[socket.socket] = set()

    @property
    def are_there(self) -> bool:
        """Whether any."""
        return bool(self._inboxes)

    def listen(self) -> None:
        """Let them come. OSError."""
        if self._listener is None:
            self._listener = handover.listen(KIND)
            self._loop.add(self._listener.fileno(), self._on_coming, select.EPOLLIN)

    def _on_coming(self, _events: int) -> None:
        assert self._listener is not None
        connection = handover.accept(self._listener)
        if connection is None:
            return
        orphan = not self._worker.is_led and not self.are_there
        try:
            send(connection, {"orphan": orphan})
        except OSError:
            connection.close()
            return
        self._inboxes[connection] = Inbox()
        handler = self._handler(connection)
        self._loop.add(connection.fileno(), handler, select.EPOLLIN)

    def _handler(self, connection: socket.socket) -> Callable[[int], None]:
        def on_message(_events: int) -> None:
            try:
                alive = self._hear(connection)
            except (OSError, ValueError):
                alive = False
            except Exception as error:  # noqa: BLE001 - a bug: the other program is told by the end
                self._loop.on_fault(self, error)
                alive = False
            if not alive:
                self._forget(connection)

        return on_message

    def _hear(self, connection: socket.socket) -> bool:
        inbox = self._inboxes[connection]
        alive = inbox.receive(connection)
        while (got := inbox.take()) is not None:
            message, _ = got
            if "give" in message:
                self._give(connection)
            if "pause" in message:
                self._pausing.add(connection)
                self._worker.hold()
            self._worker.carry_out({name: message[name] for name in ("probe", "drain", "end") if name in message})
            if "ack" in message:
                send(connection, {"ack": message["ack"]})
        return alive

    def _give(self, connection: socket.socket) -> None:
        fds = list(self._worker.listeners())
        for at in range(0, len(fds), FDS_A_FRAME):
            send(connection, {}, fds[at : at + FDS_A_FRAME])
        send(connection, {"done": len(fds)})

    def _forget(self, connection: socket.socket) -> None:
        del self._inboxes[connection]
        self._loop.bury(connection)
        if connection in self._pausing:
            self._pausing.discard(connection)
            if not self._pausing:
                self._worker.release()
