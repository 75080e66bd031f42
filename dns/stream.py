"""A connection to one server upstream, by TCP or TLS, that many questions share. Shell.

Owns: the connection, when it is opened and closed, ids on it, and the certificate's check. Must not know why it is
asked.

It is opened by the first question and kept while it is of use (RFC 7766 §6.2.1, RFC 7858 §3.4): a handshake costs more
than hundreds of questions. A server may close it at any time: what was asked on it then is asked again, once.
"""

import secrets
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import NamedTuple

from svcnet.dns.exchange import CERTIFICATE, PENDING, Heard, Loop, Timer, _address, answers
from svcnet.dns.upstream import Server

IDLE_SECONDS = 10.0
STUCK_SECONDS = 3.0
"""A connection that owes replies and says nothing for so long is given up."""
READ_BYTES = 1 << 16
MOST_READS = 8
"""In one turn of the loop; what TLS holds decrypted is read to its end all the same, in the next."""
MOST_PENDING = 2000


class _Asked(NamedTuple):
    message: bytes
    heard: Heard
    again: bool
    """It may be asked once more."""


class Stream:
    """Satisfies Link. `context`: with TLS."""

    def __init__(self, loop: Loop, server: Server, context: ssl.SSLContext | None = None) -> None:
        self._loop = loop
        self._server = server
        self._context = context
        self._open: _Connection | None = None
        self.why = ""
        """Why there is no connection, "" for no trouble."""

    def ask(self, message: bytes, heard: Heard) -> Callable[[], None]:
        """Send a message, under an id of its own; return what forgets it."""
        token = object()
        self._ask(token, _Asked(message, heard, again=True))
        return lambda: self._forget(token)

    def close(self) -> None:
        """End at once; nobody is told."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _ask(self, token: object, asked: _Asked) -> None:
        if self._open is None or not self._open.alive:
            self._open = _Connection(self._loop, self._server, self._context, self._begun, self._lost)
        self._open.ask(token, asked)

    def _forget(self, token: object) -> None:
        if self._open is not None:
            self._open.forget(token)

    def _begun(self) -> None:
        self.why = ""

    def _lost(self, begun: bool, why: str, owed: dict[object, _Asked]) -> None:
        self.why = why
        for token, asked in owed.items():
            if begun and asked.again:
                self._ask(token, asked._replace(again=False))
            else:
                asked.heard(None)


Lost = Callable[[bool, str, dict[object, _Asked]], None]


class _Connection:
    """From the first byte to the end, of which `lost` hears: whether it had begun, why, and what it owed."""

    def __init__(
        self, loop: Loop, server: Server, context: ssl.SSLContext | None, begun: Callable[[], None], lost: Lost
    ) -> None:
        self._loop = loop
        self._begun = begun
        self._context = context
        self._server = server
        self._lost = lost
        self._ready = False
        self._owed: dict[object, _Asked] = {}
        self._ids: dict[bytes, object] = {}
        self._out = bytearray()
        self._in = bytearray()
        self._heard_at = loop.time()
        self._writing = False
        self.alive = True
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self._socket: socket.socket | None = None
        self._timer: Timer = loop.call_later(STUCK_SECONDS, self._look)
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect(_address(server))
        except PENDING:
            pass
        except OSError as error:
            # Not now: whoever asks has not been told yet that it did.
            self._timer.cancel()
            self._timer = loop.call_later(0, self._end, error.strerror or str(error))
            return
        self._write(True)

    def ask(self, token: object, asked: _Asked) -> None:
        """Send a message when that is possible."""
        if len(self._owed) >= MOST_PENDING:
            self._loop.call_later(0, asked.heard, None)
            return
        if not self._owed:
            self._heard_at = self._loop.time()
        ident = asked.message[:2]
        while ident in self._ids:
            ident = secrets.token_bytes(2)
        message = ident + asked.message[2:]
        self._ids[ident] = token
        self._owed[token] = asked._replace(message=message)
        self._out += len(message).to_bytes(2) + message
        if self._ready:
            self._write(True)

    def forget(self, token: object) -> None:
        """Owe it no more."""
        asked = self._owed.pop(token, None)
        if asked is not None:
            self._ids.pop(asked.message[:2], None)

    def close(self) -> None:
        """End it; nobody is told."""
        self.alive = False
        self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _end(self, why: str = "") -> None:
        if self.alive:
            self.close()
            owed, self._owed = self._owed, {}
            self._lost(self._ready, why, owed)

    def _look(self) -> None:
        """Whether it is idle, or stuck, for too long."""
        silent = self._loop.time() - self._heard_at
        if silent >= (STUCK_SECONDS if self._owed else IDLE_SECONDS):
            self._ready = False  # what it did not answer, it would not answer again
            self._end("no reply" if self._owed else "")
        else:
            self._timer = self._loop.call_later(STUCK_SECONDS, self._look)

    def _write(self, wanted: bool) -> None:
        assert self._socket is not None
        if wanted and not self._writing:
            self._loop.add_writer(self._socket.fileno(), self._turn)
        elif self._writing and not wanted:
            self._loop.remove_writer(self._socket.fileno())
        self._writing = wanted

    def _turn(self) -> None:
        """Do what can be done: connect, shake hands, write, read."""
        try:
            if not self._ready and not self._begin():
                return
            self._send()
            self._receive()
        except ssl.SSLCertVerificationError as error:
            self._end(f"{CERTIFICATE}{error.verify_message}")
        except OSError as error:
            self._end(error.strerror or str(error))

    def _begin(self) -> bool:
        """Go on with the begin; whether it is over."""
        one = self._socket
        assert one is not None
        code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "no connection")
        try:
            one.getpeername()
        except OSError:
            return False  # not yet
        if self._context is None:
            self._write(False)
            self._loop.add_reader(one.fileno(), self._turn)
            self._ready = True
            self._begun()
            return True
        if not isinstance(one, ssl.SSLSocket):
            name = self._server.name or self._server.host.partition("%")[0]
            one = self._context.wrap_socket(one, server_hostname=name, do_handshake_on_connect=False)
            self._socket = one
            self._loop.add_reader(one.fileno(), self._turn)
        try:
            one.do_handshake()
        except ssl.SSLWantReadError:
            self._write(False)
            return False
        except ssl.SSLWantWriteError:
            self._write(True)
            return False
        self._ready = True
        self._begun()
        return True

    def _send(self) -> None:
        assert self._socket is not None
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except (*PENDING, ssl.SSLWantWriteError):
            self._write(True)
            return
        except ssl.SSLWantReadError:
            pass
        self._write(False)

    def _receive(self) -> None:
        assert self._socket is not None
        for _ in range(MOST_READS):
            try:
                data = self._socket.recv(READ_BYTES)
            except (*PENDING, ssl.SSLWantReadError):
                return
            except ssl.SSLWantWriteError:
                self._write(True)
                return
            if not data:
                self._end()
                return
            self._heard_at = self._loop.time()
            self._in += data
            self._take()
            if self._socket is None:
                return
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._write(True)  # epoll does not know of what TLS holds

    def _take(self) -> None:
        """Hand out every whole reply."""
        while len(self._in) >= 2 and len(self._in) >= (end := 2 + int.from_bytes(self._in[:2])):
            packet = bytes(self._in[2:end])
            del self._in[:end]
            token = self._ids.get(packet[:2])
            asked = self._owed.get(token) if token is not None else None
            if asked is not None and answers(packet, asked.message):
                del self._owed[token], self._ids[packet[:2]]
                asked.heard(packet)


def links(loop: Loop, servers: Iterable[Server]) -> Callable[[Server], Stream]:
    """Return what opens a way to each of these servers."""
    context = trust() if any(server.tls for server in servers) else None
    return lambda server: Stream(loop, server, context if server.tls else None)


def trust() -> ssl.SSLContext:
    """Return what checks certificates: the system's authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
