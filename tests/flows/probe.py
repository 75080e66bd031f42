"""Clients: many questions at once, asked from the caller's network namespace.

Owns: one connection from its first packet to the answer of an `Echo`, or to its end. Must not know rows.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from tests.flows.echo import SCTP

AT_ONCE = 200
AGAIN_SECONDS = 1.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Question(NamedTuple):
    """Connect from `source` to `address`:`port` by `protocol`; wait `patience_seconds` for an answer."""

    source: str
    address: str
    port: int
    protocol: str
    patience_seconds: float


class Answer(NamedTuple):
    """What came of it: answered (by whom, at which port, who saw which source), refused or dropped (silence)."""

    verdict: str
    by: str = ""
    port: int = 0
    source: str = ""


def ask(questions: Sequence[Question]) -> list[Answer]:
    """Ask all, at most AT_ONCE at a time; answers in the order of the questions."""

    async def ask_all() -> list[Answer]:
        at_once = asyncio.Semaphore(AT_ONCE)

        async def ask_in_turn(question: Question) -> Answer:
            async with at_once:
                return await _ask(question)

        return await asyncio.gather(*map(ask_in_turn, questions))

    return asyncio.run(ask_all())


async def _ask(question: Question) -> Answer:
    with _socket(question) as client:
        try:
            async with asyncio.timeout(question.patience_seconds):
                text = await _exchange(client, question)
        except ConnectionRefusedError:
            return Answer("refused")
        except TimeoutError:
            return Answer("dropped")
    by, port, source = text.split()
    return Answer("answered", by, int(port), source)


async def _exchange(client: socket.socket, question: Question) -> str:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (question.address, question.port))
    while question.protocol == "udp":
        # EPERM: a rule of the minion dropped what its own client sent; whether it refused too is still to be seen.
        with suppress(PermissionError):
            await loop.sock_sendall(client, b"?")
        # Once more: so many at once may find a queue full. (By TCP the kernel does that.)
        with suppress(TimeoutError):
            return (await asyncio.wait_for(loop.sock_recv(client, 512), AGAIN_SECONDS)).decode()
    return (await loop.sock_recv(client, 512)).decode()


def _socket(question: Question) -> socket.socket:
    family = socket.AF_INET6 if ":" in question.address else socket.AF_INET
    kind = socket.SOCK_DGRAM if question.protocol == "udp" else socket.SOCK_STREAM
    client = socket.socket(family, kind, SCTP if question.protocol == "sctp" else 0)
    client.setblocking(False)
    if question.protocol != "udp":
        # No TIME_WAIT: thousands of connections would leave few source ports.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    client.bind((question.source, 0))
    return client
