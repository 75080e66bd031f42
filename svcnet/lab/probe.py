"""Asks a pod or a proxy over HTTP, from inside a namespace, until it answers. Shell.

Owns: waiting with a deadline. Must not know who is asked.
"""

import socket
import time
from collections.abc import Callable

from svcnet.lab import namespace

RETRY_SECONDS = 0.02


def fetch(address: str, port: int, path: str, timeout_seconds: float) -> tuple[int, str]:
    """Return (status, body) of one GET. OSError when there is no answer, ValueError when it isn't HTTP.

    HTTP/1.0, so that the body ends with the connection; http.client alone would double the lab's import time.
    """
    with socket.create_connection((address, port), timeout_seconds) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2:
        raise ValueError(f"no HTTP answer: {answer[:80]!r}")
    return int(words[1]), body.decode(errors="replace")


def until_ok(
    where: str, address: str, port: int, path: str, deadline: float, alive: Callable[[], bool] = lambda: True
) -> str | None:
    """Ask from inside namespace `where` until the answer is 200; return None, or why it never was.

    `deadline`: in time.monotonic() seconds. `alive`: whether it makes sense to go on.
    """

    def ask() -> str | None:
        why = "not asked"
        while (remaining := deadline - time.monotonic()) > 0:
            try:
                status, body = fetch(address, port, path, min(remaining, 1.0))
            except (OSError, ValueError) as error:
                why = str(error)
            else:
                if status == 200:
                    return None
                why = f"status {status}: {' '.join(body.split())[:200]}"
            if not alive():
                return f"it ended ({why})"
            time.sleep(RETRY_SECONDS)
        return why

    return namespace.inside(where, ask)
