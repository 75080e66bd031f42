"""The daemon's control socket: STATE_DIR/control.sock, one JSON line in, one JSON line out.

Owns: the protocol, both sides of it. A request is {"command": NAME, …}, an answer {"ok": bool, "message": text, …}.
Must not know what a command does: the daemon hands over a table of handlers.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from svcnet.model.errors import NotPermittedError, SvcnetError
from svcnet.wire import FDS_A_FRAME

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

SOCKET = "control.sock"
LINE_BYTES = 1 << 20
"""Longest line of either side."""
ASK_SECONDS = 60.0
"""How long `ask` waits for an answer: a release of 10,000 services is one sync."""

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Takes the request, returns the fields of the answer ("ok" is added); a SvcnetError becomes ok: false."""


Conversation = Callable[[dict[str, Any], "asyncio.StreamReader", "asyncio.StreamWriter"], Awaitable[None]]
"""Takes the first request and the connection, to its end."""


class ControlServer:
    """Answers on the control socket of one state directory. The daemon holds that directory's lock (instance.py)."""

    def __init__(
        self,
        state_dir: Path,
        handlers: Mapping[str, Handler],
        conversations: Mapping[str, Conversation] = MappingProxyType({}),
    ) -> None:
        self._state_dir = state_dir
        self._handlers = handlers
        self._conversations = conversations
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen, mode 0600, in place of a socket that a dead daemon left. OSError when there can't be one."""
        import asyncio  # noqa: PLC0415 - `ask` does without

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before bind: there is no moment at which others could connect
            with _short(self._state_dir) as directory:
                temporary = directory / f"{SOCKET}.new"
                temporary.unlink(missing_ok=True)
                listener.bind(str(temporary))
                listener.listen()
                temporary.rename(directory / SOCKET)
                self._inode = (directory / SOCKET).stat().st_ino
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_BYTES)
        except OSError:
            listener.close()
            raise

    async def stop(self) -> None:
        """Close it, and remove the socket unless another daemon has put its own there."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in self._open:
            writer.close()  # its reader sees the end, and the task ends by itself
        path = self._state_dir / SOCKET
        with suppress(FileNotFoundError):
            if path.stat().st_ino == self._inode:
                path.unlink()

    async def _serve(self, reader: "asyncio.StreamReader", writer: "asyncio.StreamWriter") -> None:
        self._open.add(writer)
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than LINE_BYTES
                    writer.write(answer({"message": f"a request has at most {LINE_BYTES} bytes"}, ok=False))
                    break
                if not line:
                    break
                request = _decoded(line)
                if isinstance(request, dict) and (converse := self._conversations.get(str(request.get("command")))):
                    await converse(request, reader, writer)
                    break
                writer.write(await self._handle(request))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _handle(self, request: dict[str, Any] | str) -> bytes:
        if isinstance(request, str):
            return answer({"message": request}, ok=False)
        command = request.get("command")
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if handler is None:
            known = ", ".join(sorted((*self._handlers, *self._conversations)))
            return answer({"message": f"unknown command {command!r}, expected one of {known}"}, ok=False)
        try:
            return answer(await handler(request), ok=True)
        except SvcnetError as error:
            return answer({"message": str(error)}, ok=False)


class NoDaemonError(SvcnetError):
    """None runs with that state directory."""


class EndedError(SvcnetError):
    """It ended, or hung up, instead of an answer."""


def ask(state_dir: Path, command: str, **fields: Any) -> dict[str, Any]:
    """Send one request and return the answer.

    SvcnetError when no daemon answers or it says no, NotPermittedError when the socket may not be used.
    """
    with Line(state_dir) as line:
        return line.ask(command, **fields)


class Line:
    """A connection to the daemon of a state directory, for one request or more."""

    def __init__(self, state_dir: Path, seconds: float = ASK_SECONDS) -> None:
        """Connect; `seconds`: how long an answer may take.

        NoDaemonError when nobody listens, NotPermittedError when it may not be used, SvcnetError.
        """
        self._path = state_dir / SOCKET
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        try:
            with _short(state_dir) as directory:
                self._socket.connect(str(directory / SOCKET))
        except OSError as error:
            self._socket.close()
            raise self._fault(error) from error
        self._unread = b""
        self.given: list[int] = []
        """File descriptors that came with answers: whoever asked takes them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hang_up(self) -> None:
        """End it; whoever waits for an answer in another thread gets an EndedError."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, and free what it holds."""
        self._socket.close()
        while self.given:
            os.close(self.given.pop())

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send one request and return the answer. EndedError, SvcnetError when there is none, or it is no."""
        try:
            with suppress(BrokenPipeError):  # it may have said why before it hung up
                self._socket.sendall(msgspec.json.encode({"command": command, **fields}) + b"\n")
        except OSError as error:
            raise self._fault(error) from error
        return self.more()

    def more(self) -> dict[str, Any]:
        """Another answer to the same request. Errors as of `ask`."""
        try:
            line = self._line()
        except ConnectionResetError:
            line = b""
        except OSError as error:
            raise self._fault(error) from error
        try:
            said: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise EndedError(f"svcnet-proxy ended before it answered on {self._path}") from error
        if not said.get("ok"):
            raise SvcnetError(str(said.get("message", "refused")))
        return said

    def _line(self) -> bytes:
        """The next one; what there is of it at the end."""
        while b"\n" not in self._unread[:LINE_BYTES] and len(self._unread) < LINE_BYTES:
            data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, FDS_A_FRAME)
            self.given += fds
            if not data:
                break
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _fault(self, error: OSError) -> SvcnetError:
        match error:
            case PermissionError():
                return NotPermittedError(f"{self._path}: {error.strerror}, expected the daemon's user")
            case FileNotFoundError() | ConnectionRefusedError():
                return NoDaemonError(f"no svcnet-proxy runs with {self._path.parent} (--state-dir)")
        return SvcnetError(f"no svcnet-proxy answers on {self._path}: {error.strerror or error}")


def _decoded(line: bytes) -> dict[str, Any] | str:
    """A request, or why it is none."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        return f"no request: {error}"


def answer(fields: Mapping[str, Any], *, ok: bool) -> bytes:
    """One line of the daemon's."""
    return msgspec.json.encode({"ok": ok, "message": "", **fields}) + b"\n"


@contextmanager
def _short(directory: Path) -> "Iterator[Path]":
    """Name a directory in few bytes: a unix socket's path has room for 107 (unix(7)), a state directory's for more."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
