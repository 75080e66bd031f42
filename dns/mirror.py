"""Whether what we ask upstream comes back to us: names that nobody else would ask for. Pure.

Owns: those names, and the answer by which they are known again. Must not know sockets.

A name holds a secret of this daemon, the number of the server that it is sent to, and a random part, so that no cache
between has it. Any worker that is asked for one knows that this server leads back; its answer tells the worker that
asked.
"""

from svcnet.dns import name
from svcnet.dns.answer import IN
from svcnet.dns.query import QR, RA, RD, Query
from svcnet.dns.records import TXT

_END = b"\x0bsvcnet-loop\x00"


class Mirror:
    """`secret`: hexadecimal, the same in every worker of a daemon."""

    def __init__(self, secret: str) -> None:
        self._mark = name.label(secret)

    def question(self, number: int, nonce: str) -> bytes:
        """Return the question that is sent to the server of this number."""
        return name.label(f"{number}-{nonce}") + self._mark + _END + TXT.to_bytes(2) + IN.to_bytes(2)

    def number(self, wanted: bytes) -> int | None:
        """Return the number in a name of ours; None: it is another's."""
        if not wanted.endswith(self._mark + _END):
            return None
        number = wanted[1 : 1 + wanted[0]].partition(b"-")[0]
        return int(number) if number.isdigit() else None

    def reply(self, query: Query) -> bytes:
        """Return the answer that says: it has come back."""
        flags = (QR | RA | query.flags & RD).to_bytes(2)
        record = b"\xc0\x0c" + TXT.to_bytes(2) + b"\0\1" + bytes(4) + len(self._mark).to_bytes(2) + self._mark
        return query.id + flags + b"\0\1\0\1\0\0\0\0" + query.question + record

    def shown(self, reply: bytes) -> bool:
        """Whether a server's reply is that answer."""
        return reply.lower().count(self._mark) > 1  # the question has it too
