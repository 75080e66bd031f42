"""Messages by TCP (RFC 1035 §4.2.2, RFC 7766): however their bytes come, each gets what it gets alone.

What is sent is any row of messages, sound and broken, with their lengths in front, cut anywhere, perhaps in the middle
of the last; then the client says no more, or goes on listening.
"""

import socket
from collections.abc import Iterator

import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svcnet.dns.settings import Settings
from tests.dns.serving import HOST, PATIENCE_SECONDS, Served, worker
from tests.dns.test_malformed import HEAD, QUESTION, RECORDS, by_tcp, packets
from tests.dns.world import REVERSE, lines
from tests.harness.until import until

SOUND = HEAD + QUESTION


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with worker(Settings(reverse=REVERSE, servers=("192.0.2.1",)), RECORDS) as running:
        until(lambda: running.udp("tomcat.svc.").answer)
        yield running


def framed(packet: bytes) -> bytes:
    """With its length in front."""
    return len(packet).to_bytes(2) + packet


def said(client: socket.socket) -> list[bytes]:
    """All messages until the end of the connection, each whole."""
    data = b"".join(iter(lambda: client.recv(65535), b""))
    found = []
    while data:
        end = 2 + int.from_bytes(data[:2])
        assert len(data) >= end
        found.append(data[2:end])
        data = data[end:]
    return found


def meaning(reply: bytes) -> tuple[int, str, list[str]]:
    """Id, code and records, whatever their order."""
    message = dns.message.from_wire(reply)
    return message.id, message.rcode().name, sorted(lines([*message.answer, *message.authority, *message.additional]))


@settings(max_examples=150, deadline=None)
@given(
    row=st.lists(st.just(SOUND) | packets(), max_size=5),
    rest=st.integers(0, len(SOUND)),
    cuts=st.lists(st.integers(1, 400), max_size=12, unique=True),
    ends=st.booleans(),
)
def test_each_message_of_a_row_gets_what_it_gets_alone(
    served: Served, row: list[bytes], rest: int, cuts: list[int], ends: bool
) -> None:
    stream = b"".join(map(framed, row)) + framed(SOUND)[: rest if ends else 0]
    alone = []
    for packet in row:
        reply = by_tcp(served, packet)
        if reply is None:  # no query: there the connection ends
            break
        alone.append(reply)
    with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
            if stream[begin:end] and not sent(client, stream[begin:end]):
                break
        if ends or len(alone) < len(row):
            replies = ending(client)
        else:
            replies = [one(client) for _ in alone]
            client.sendall(framed(SOUND))
            assert meaning(one(client)) == meaning(by_tcp(served, SOUND) or b""), "it goes on"
    assert list(map(meaning, replies)) == list(map(meaning, alone))[: len(replies)]
    assert len(replies) == len(alone) or len(alone) < len(row), "a reset may take with it what had been said"
    assert served.process.poll() is None


def sent(client: socket.socket, data: bytes) -> bool:
    """Whether the server still takes it."""
    try:
        client.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def ending(client: socket.socket) -> list[bytes]:
    """Say no more; the replies that come."""
    try:
        client.shutdown(socket.SHUT_WR)
        return said(client)
    except OSError:
        return []


def one(client: socket.socket) -> bytes:
    """The next message."""
    return client.recv(int.from_bytes(client.recv(2, socket.MSG_WAITALL)), socket.MSG_WAITALL)


def test_a_message_without_a_byte_ends_the_connection(served: Served) -> None:
    with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
        client.sendall(framed(SOUND) + b"\0\0")
        assert [meaning(reply)[1] for reply in said(client)] == ["NOERROR"]


def test_the_longest_message_is_read_whole(served: Served) -> None:
    option = b"\xfd\xe9" + (65535 - len(SOUND) - 15).to_bytes(2) + b"x" * (65535 - len(SOUND) - 15)
    longest = SOUND[:11] + b"\1" + SOUND[12:] + b"\0\0\x29\4\xd0\0\0\0\0" + len(option).to_bytes(2) + option
    assert len(longest) == 65535
    with socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as client:
        client.sendall(framed(longest) + framed(SOUND))
        assert meaning(one(client)) == meaning(one(client)) == meaning(by_tcp(served, SOUND) or b"")
