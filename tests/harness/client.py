"""Clients of services: one question, one long UDP conversation, and one that never stops asking.

Owns: what a user of a virtual IP sees. Every socket belongs to the namespace of the thread that calls.
"""

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.harness.files import PORT

REFUSED, RESET, SILENCE = "refused", "reset", "silence"
"""No connection; one that was reset before an answer; nothing."""
BRIEF_SECONDS = 0.3
"""How long silence lasts until it is called so, where it is expected; also until a datagram is sent once more."""
LONG_SECONDS = 30.0
"""For what must be answered: only a test that fails waits for it."""
GLANCE_SECONDS = 0.01
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_RETRANSMITTED = struct.Struct("100xI")
"""Where struct tcp_info (include/uapi/linux/tcp.h) has tcpi_total_retrans."""


def ask(address: str, protocol: str = "tcp", port: int = PORT, patience_seconds: float = LONG_SECONDS) -> str:
    """Who answers there: an address, REFUSED, RESET or SILENCE.

    However slow the machine is, who is there answers. SILENCE by TCP: the kernel had to send its first packet again (it
    waits 1 s), or nothing came after so long. By UDP: no datagram was answered in that time, one every BRIEF_SECONDS.
    """
    with opened(address, protocol) as client:
        if protocol == "udp":
            client.settimeout(BRIEF_SECONDS)
            return _exchange(client, (address, port), patience_seconds)
        return _answer(client, (address, port), patience_seconds)


def opened(address: str, protocol: str) -> socket.socket:
    """A socket of the family of `address`, which leaves no TIME_WAIT behind."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    if protocol == "tcp":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return client


def _answer(client: socket.socket, where: tuple[str, int], patience_seconds: float) -> str:
    client.setblocking(False)
    deadline = time.monotonic() + patience_seconds
    try:
        if error := client.connect_ex(where):
            if error != errno.EINPROGRESS:
                raise OSError(error, os.strerror(error))
            writable = select.poll()
            writable.register(client, select.POLLOUT)
            while not writable.poll(GLANCE_SECONDS * 1000):
                if _lost(client) or time.monotonic() > deadline:
                    return SILENCE
            if error := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
        if _lost(client):
            return SILENCE
        client.settimeout(patience_seconds)
        return client.recv(512).decode().partition(" ")[0]
    except ConnectionRefusedError:
        return REFUSED
    except ConnectionResetError:
        return RESET
    except (TimeoutError, PermissionError):  # EPERM: a rule dropped what this machine itself sent
        return SILENCE


def _lost(client: socket.socket) -> bool:
    """Whether the kernel had to send something again."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITTED.size)
    return bool(_RETRANSMITTED.unpack(info)[0])


def _exchange(client: socket.socket, where: tuple[str, int] | None, patience_seconds: float, number: int = 0) -> str:
    """Send one datagram, and again while nothing comes; who answers it. `where`: to be connected first."""
    deadline = time.monotonic() + patience_seconds
    question = f"?{number}"
    try:
        if where:
            client.connect(where)
        while True:
            # EPERM: a rule stopped what this machine itself sent. Whether it was refused, the ICMP error tells.
            with suppress(PermissionError):
                client.send(question.encode())
            if answer := _of(client, question):
                return answer
            if time.monotonic() > deadline:
                return SILENCE
    except ConnectionRefusedError:
        return REFUSED


def _of(client: socket.socket, question: str) -> str:
    """Who answers it in time, "" for nobody; answers that were late for an earlier one are passed over."""
    try:
        while True:
            who, *_, to = client.recv(512).decode().split()
            if to == question:
                return who
    except TimeoutError:
        return ""


class Conversation:
    """One connected UDP socket: the same flow for as long as it lives."""

    def __init__(self, address: str, port: int = PORT) -> None:
        self._socket = opened(address, "udp")
        self._socket.settimeout(BRIEF_SECONDS)
        self._socket.connect((address, port))
        self._said = 0
        self.source_port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        """It is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def is_left_alone(self) -> bool:
        """Whether nobody answers the next datagram."""
        return self.say(0) == SILENCE

    def say(self, patience_seconds: float = LONG_SECONDS) -> str:
        """Who answers the next datagram, or one of those that follow it: an address, REFUSED or SILENCE."""
        self._said += 1
        return _exchange(self._socket, None, patience_seconds, self._said)


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
                answer = _answer(client, (self._address, PORT), LONG_SECONDS)
                if answer in {REFUSED, RESET, SILENCE, ""}:
                    self.failures.append(f"{answer or 'closed without an answer'}, after {self.answers} others")
                elif _lost(client):
                    self.failures.append(f"packets were lost before {answer} answered, after {self.answers} others")
            self.answered_by.add(answer)
            self.answers += 1
