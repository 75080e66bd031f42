"""An HTTP check as bytes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcnet.http_probe import HEAD_BYTES, request, status_of
from svcnet.model.check import Check, Probe

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (OK, 200),
        (OK + b"a body", 200),
        (b"HTTP/1.0 503\r\n\r\n", 503),
        (b"HTTP/1.0 404 Not \xff Found\nServer: x\n\n", 404),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
    ],
)
def test_the_status_is_known_once_the_head_is_whole(answer: bytes, status: int) -> None:
    assert status_of(answer) == status
    head = re.split(rb"(?<=\n\r\n)(?!HTTP)|(?<=\n\n)", answer)[0]
    assert [status_of(head[:cut]) for cut in range(len(head))] == [None] * len(head)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 099\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nnonsense",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * HEAD_BYTES,
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"it begins otherwise|its head has no end|its first line"):
        status_of(answer)


@given(st.binary(max_size=200), st.sampled_from([b"", b"HTTP/1.", b"HTTP/1.1 200 ", b"HTTP/1.1 101 \r\n\r\n"]))
def test_nothing_that_comes_in_is_anything_else(data: bytes, begin: bytes) -> None:
    try:
        status = status_of(begin + data)
    except ValueError:
        return
    assert status is None or 200 <= status <= 599


def test_the_request_names_the_host_as_a_client_would() -> None:
    asked = request(Probe("2001:db8::1", 8080, Check("/ready?x=1")), "svcnet/1")
    assert asked.startswith(b"GET /ready?x=1 HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\nUser-Agent: svcnet/1\r\n")
    assert asked.endswith(b"\r\nConnection: close\r\n\r\n")
