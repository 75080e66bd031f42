"""Clients of services: one question, one long UDP conversation, and one that never stops asking.

Owns: what a user of a virtual IP sees. Every socket belongs to the namespace of the thread that calls.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.harness.files import PORT

REFUSED, RESET, SILENCE = "refused", "reset", "silence"
"""No connection; one that was reset before an answer; nothing."""
BRIEF_SECONDS = 0.3
"""How long silence lasts until it is called so, where it is waited for again or expected."""
LONG_SECONDS = 30.0
"""For what must be answered: only a test that fails waits for it."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_RETRANSMITTED = struct.Struct("100xI")
"""Where struct tcp_info (include/uapi/linux/tcp.h) has tcpi_total_retrans."""


def ask(address: str, protocol: str = "tcp", port: int = PORT, patience_seconds: float = BRIEF_SECONDS) -> str:
    """Who answers there: an address, REFUSED, RESET or SILENCE."""
    with opened(address, protocol) as client:
        client.settimeout(patience_seconds)
        return _answer(client, (address, port), protocol)


def opened(address: str, protocol: str) -> socket.socket:
    """A socket of the family of `address`, which leaves no TIME_WAIT behind."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    if protocol == "tcp":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return client


def _answer(client: socket.socket, where: tuple[str, int], protocol: str) -> str:
    try:
        client.connect(where)
        return _exchange(client) if protocol == "udp" else client.recv(512).decode().partition(" ")[0]
    except ConnectionRefusedError:
        return REFUSED
    except ConnectionResetError:
        return RESET
    except (TimeoutError, PermissionError):  # EPERM: a rule dropped what this machine itself sent
        return SILENCE


def _exchange(client: socket.socket) -> str:
    """Send one datagram; who answers."""
    try:
        # EPERM: a rule stopped what this machine itself sent. Whether it was refused, the ICMP error tells.
        with suppress(PermissionError):
            client.send(b"?")
        return client.recv(512).decode().partition(" ")[0]
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return SILENCE


class Conversation:
    """One connected UDP socket: the same flow for as long as it lives."""

    def __init__(self, address: str, port: int = PORT) -> None:
        self._socket = opened(address, "udp")
        self._socket.settimeout(BRIEF_SECONDS)
        self._socket.connect((address, port))
        self.source_port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        """It is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def say(self) -> str:
        """Who answers the next datagram: an address, REFUSED or SILENCE."""
        return _exchange(self._socket)


class Call:
    """A TCP connection to a virtual IP that stays open: both of its ends, so that no byte needs another program."""

    def __init__(self, address: str, listener: socket.socket, port: int = PORT) -> None:
        self._listener = listener
        self._listener.settimeout(LONG_SECONDS)
        self._client = opened(address, "tcp")
        self._client.settimeout(LONG_SECONDS)
        self._client.connect((address, port))
        self._server, _ = self._listener.accept()
        self._server.settimeout(LONG_SECONDS)

    def __enter__(self) -> Self:
        """It is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, and the listener."""
        for one in (self._client, self._server, self._listener):
            one.close()

    def say(self, word: str) -> str:
        """What comes back when the client says a word and the server repeats it; RESET when that is not possible."""
        try:
            self._client.sendall(word.encode())
            self._server.sendall(self._server.recv(512))
            return self._client.recv(512).decode()
        except (ConnectionError, TimeoutError) as error:
            return f"{RESET}: {error}"


class Hammer:
    """Connects to a virtual IP in a loop. A failed connect is any that is refused, dropped, or answered by nobody.

    One whose first packet was lost for a moment would still succeed, a second later: it counts as failed too, which
    the kernel's count of retransmitted segments tells, however slow the machine is.
    """

    def __init__(self, address: str, enter: Callable[[], None], pause_seconds: float = 0.001) -> None:
        self._address = address
        self._enter = enter
        self._pause = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hammer")
        self.answers = 0
        self.failures: list[str] = []
        self.answered_by: set[str] = set()

    def __enter__(self) -> Self:
        """Ask from now on."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        """Stop; AssertionError if a connect failed."""
        self._stop.set()
        self._thread.join()
        if kind is None:
            assert self.answers
            assert not self.failures, f"{len(self.failures)} of {self.answers} failed: {self.failures[:3]}"

    def _run(self) -> None:
        self._enter()
        while not self._stop.wait(self._pause):
            with opened(self._address, "tcp") as client:
                client.settimeout(LONG_SECONDS)
                answer = _answer(client, (self._address, PORT), "tcp")
                info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITTED.size)
            if answer in {REFUSED, RESET, SILENCE, ""}:
                self.failures.append(answer or "closed without an answer")
            elif _RETRANSMITTED.unpack(info)[0]:
                self.failures.append(f"packets were lost before {answer} answered, after {self.answers} others")
            self.answered_by.add(answer)
            self.answers += 1
