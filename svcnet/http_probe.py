"""An HTTP check as bytes: what is asked, and what an answer's head says. Pure.

Owns: as much of HTTP/1.1 as a check needs (RFC 9112). What comes in is anybody's: whatever is no answer, to the letter,
is an error.
"""

import re

from svcnet.model.check import Probe

HEAD_BYTES = 64 << 10
"""Of an answer: a head that has no end by then is none."""
PASSING = range(200, 400)
"""As the kubelet has it (Kubernetes, Probe.httpGet)."""
_BEGIN = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: .*)?")
_END = re.compile(rb"\n\r?\n")
"""Of a head: a line may end without the CR (RFC 9112, 2.2)."""
_INTERIM = range(100, 200)


def request(probe: Probe, agent: str) -> bytes:
    """A GET of the check's path, after which the connection is closed."""
    host = f"[{probe.address}]" if ":" in probe.address else probe.address
    lines = (
        f"GET {probe.check.path} HTTP/1.1",
        f"Host: {host}:{probe.port}",
        f"User-Agent: {agent}",
        "Accept: */*",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def status_of(data: bytes) -> int | None:
    """The status of an answer, once its head is whole; None until then. ValueError: it is none.

    Interim answers (1xx; RFC 9110, 15.2) are passed over.
    """
    status = None
    while status is None or status in _INTERIM:
        if data[: len(_BEGIN)] != _BEGIN[: len(data)] or len(data) > HEAD_BYTES:
            raise ValueError("it begins otherwise" if len(data) <= HEAD_BYTES else "its head has no end")
        head = _END.search(data)
        if head is None:
            return None
        line = _STATUS.fullmatch(data.partition(b"\n")[0].removesuffix(b"\r"))
        if line is None:
            raise ValueError("its first line is none of HTTP/1.1")
        status, data = int(line[1]), data[head.end() :]
    return status
