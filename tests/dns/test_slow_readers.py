"""Clients that ask by TCP and take no answer: their connections end, and leave nothing behind."""

import asyncio
import contextlib
import os
import socket
from functools import partial
from ipaddress import ip_network

import dns.message
import pytest

from svcnet.dns import server
from svcnet.dns.selector import Selector
from svcnet.dns.settings import Settings
from svcnet.dns.worker import prepared
from svcnet.feed import Whole
from svcnet.model.snapshot import Endpoint
from tests.dns.serving import HOST, PATIENCE_SECONDS
from tests.dns.world import headless

MANY = headless("many", *(Endpoint(str(address), 80) for address in ip_network("10.1.0.0/23").hosts()))
QUERY = dns.message.make_query("many.svc.", "A").to_wire()
IDLE_SECONDS = 0.2
WAITING, ENOUGH = 700, 5000
"""Replies of 8 KiB: more than buffers hold while the queries themselves fit, and far more than that."""


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths


@pytest.mark.parametrize("goes_on", [True, False])
def test_who_never_reads_is_left_and_leaves_nothing(goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on asking, or has asked all and says so (a half-closed connection)."""
    monkeypatch.setattr(server, "IDLE_SECONDS", IDLE_SECONDS)
    selector = Selector()
    with asyncio.Runner(loop_factory=partial(asyncio.SelectorEventLoop, selector)) as runner:
        runner.run(_deaf(goes_on, selector))


async def _deaf(goes_on: bool, selector: Selector) -> None:
    loop = asyncio.get_running_loop()
    asked = ENOUGH if goes_on else WAITING
    responder, serving, _ = prepared(Settings(), selector)
    responder.take(Whole(1, (MANY,)))
    with socket.create_server((HOST, 0)) as listener, socket.socket() as client:
        await serving.serve(listener)
        before = open_files()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        message = len(QUERY).to_bytes(2) + QUERY
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not serving.open_connections:  # noqa: ASYNC110 - a condition of the test, which has no event
                await asyncio.sleep(0.01)
            asking = asyncio.create_task(loop.sock_sendall(client, message * asked))
            if not goes_on:
                await asking
                client.shutdown(socket.SHUT_WR)
            while open_files() > before:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                await asking
        assert serving.open_connections == 0
        assert await _told(client) < asked * 8000, "it was not waited for"
        loop.remove_reader(listener)


async def _told(client: socket.socket) -> int:
    """How many bytes the client can still read."""
    total = 0
    with contextlib.suppress(ConnectionResetError):
        while data := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
            total += len(data)
    return total
