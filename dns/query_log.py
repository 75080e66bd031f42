"""One query of so many, as a line of JSON. Shell: a thread writes.

Owns: which queries are logged, and the fields of a line. Must not slow an answer: a line that can't be written soon is
counted as lost.
"""

import json
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from svcnet.dns import name
from svcnet.dns.counts import TYPES, WAYS
from svcnet.dns.ledger import RCODES

MOST_LINES = 1000
"""That wait to be written."""
QUESTION_AT = 10
"""In a message without its id."""


class QueryLog:
    """Logs on average one of `every` queries; `count` hears of lines that were lost."""

    def __init__(
        self, every: int, out: BinaryIO, count: Callable[..., None], now: Callable[[], float] = time.time
    ) -> None:
        self._every = every
        self._count = count
        self._now = now
        self._left = 1
        self._lines: queue.Queue[bytes] = queue.Queue(MOST_LINES)
        self._out = out
        threading.Thread(target=self._write, daemon=True, name="query log").start()

    def note(self, client: str, way: int, reply: bytes) -> None:
        """Log the query that got this reply, which lacks its id, if its turn has come."""
        self._left -= 1
        if self._left:
            return
        # By chance: clients ask A and AAAA in turn, and every second would be of one kind.
        self._left = random.randint(1, 2 * self._every - 1)  # noqa: S311 (no secret)
        try:
            self._lines.put_nowait(self._line(client, WAYS[way][0], reply))
        except queue.Full:
            self._count("query_log_lost")

    def _line(self, client: str, transport: str, reply: bytes) -> bytes:
        rcode = reply[1] & 0xF
        said: dict[str, object] = {
            "time": round(self._now(), 6),
            "client": client,
            "proto": transport,
            "rcode": RCODES.get(rcode, str(rcode)),
            "bytes": len(reply) + 2,
            "answers": int.from_bytes(reply[4:6]),
        }
        if reply[2:4] == b"\0\1":  # what could not be read is not sent back
            end = name.end_of(reply, QUESTION_AT)
            kind = int.from_bytes(reply[end : end + 2])
            said |= {"name": name.text(reply[QUESTION_AT:end]), "type": TYPES.get(kind, f"TYPE{kind}")}
        return json.dumps(said).encode() + b"\n"

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._out.write(line)
                self._out.flush()
            except OSError:
                self._count("query_log_lost")
