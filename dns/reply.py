"""A message from a server upstream → what of it is kept, and for how long. Pure.

Owns: what counts as a readable reply, lifetimes (RFC 2181 §8, RFC 2308 §5), and which addresses it carries. Must not
know who asked, or where it is kept.

What is kept begins behind the question: the question is as long in every spelling, so that the pointers of what follows
hold for whoever asks. OPT is between two neighbours, and not kept (RFC 6891 §6.1.1).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from svcnet.dns.answer import HEADER_BYTES, NOERROR, NXDOMAIN
from svcnet.dns.edns import OPT
from svcnet.dns.private import is_private, of_service_binding
from svcnet.dns.query import RCODE, TC
from svcnet.dns.records import AAAA, SOA, A

AD = 0x0020
SVCB, HTTPS = 64, 65
YXDOMAIN = 6
"""A name that DNAME made too long: an answer (RFC 6672 §2.2)."""
FOUND = frozenset({NOERROR, NXDOMAIN, YXDOMAIN})
"""Codes that say what there is; with others a server says that it can't tell."""
MOST_SECONDS, MOST_NEGATIVE_SECONDS = 86400, 3600
"""However long a reply wants to live (RFC 8767 §4, RFC 2308 §5)."""
TTL_SIGN = 0x80000000
_FIXED = struct.Struct(">HHIH")
_TTL = struct.Struct(">HI")


class Reply(NamedTuple):
    """What is kept. `counts`: of the three sections; `body`: they; `ttls`: place in it and value of every TTL."""

    rcode: int
    seconds: int = 0
    """How long it may be kept; 0: not at all."""
    counts: bytes = bytes(6)
    body: bytes = b""
    ttls: bytes = b""
    authentic: bool = False
    private: bool = False
    """An address in it is one that the public has no business with."""

    def aged(self, seconds: int) -> bytearray:
        """Return the sections as they are after `seconds`."""
        body = bytearray(self.body)
        for at, ttl in _TTL.iter_unpack(self.ttls):
            body[at : at + 4] = max(0, ttl - seconds).to_bytes(4)
        return body

    def stale(self, ttl: int) -> bytearray:
        """Return the sections with this TTL everywhere (RFC 8767 §4)."""
        body = bytearray(self.body)
        for at, _ in _TTL.iter_unpack(self.ttls):
            body[at : at + 4] = ttl.to_bytes(4)
        return body


class _Record(NamedTuple):
    section: int
    type: int
    begin: int
    ttl_at: int
    ttl: int
    data: bytes
    end: int


def read(packet: bytes, question_bytes: int) -> Reply:
    """Read a reply whose question is known to be the one that was asked. ValueError: not readable."""
    flags = int.from_bytes(packet[2:4])
    if flags & TC:  # by UDP it would have been asked for again: its server can't tell the whole at all
        raise ValueError("cut short by stream")
    begin = HEADER_BYTES + question_bytes
    if packet[4:6] == b"\0\0":  # an error without the question has nothing else either
        return Reply(flags & RCODE)
    counts = [int.from_bytes(packet[at : at + 2]) for at in (6, 8, 10)]
    kept: list[_Record] = []
    rcode = flags & RCODE
    end = begin
    had_opt = False
    for record in _records(packet, begin, counts):
        if record.type == OPT:
            rcode |= packet[record.ttl_at] << 4
            had_opt = True
        elif not had_opt:  # names behind it could point over the gap: they are extra, and left out too
            kept.append(record)
            end = record.end
    most = MOST_NEGATIVE_SECONDS if rcode == NXDOMAIN or not counts[0] else MOST_SECONDS
    numbers = [sum(1 for record in kept if record.section == section) for section in range(3)]
    return Reply(
        rcode,
        min(_lifetime(kept), most) if rcode in FOUND else 0,
        b"".join(number.to_bytes(2) for number in numbers),
        packet[begin:end],
        b"".join(_TTL.pack(record.ttl_at - begin, min(record.ttl, most)) for record in kept),
        bool(flags & AD),
        any(map(_is_private, kept)),
    )


def _records(packet: bytes, at: int, counts: list[int]) -> Iterator[_Record]:
    """Yield the records of all sections. ValueError: one runs off, or something follows the last."""
    for section, count in enumerate(counts):
        for _ in range(count):
            begin = at
            at = _end_of_name(packet, at)
            if at + _FIXED.size > len(packet):
                raise ValueError("a record runs off the message")
            kind, _, ttl, size = _FIXED.unpack_from(packet, at)
            end = at + _FIXED.size + size
            if end > len(packet):
                raise ValueError("a record runs off the message")
            # A TTL with the sign bit is none (RFC 2181 §8).
            ttl = 0 if ttl & TTL_SIGN and kind != OPT else ttl
            yield _Record(section, kind, begin, at + 4, ttl, packet[at + _FIXED.size : end], end)
            at = end
    if at != len(packet):
        raise ValueError("something follows the last record")


def _end_of_name(packet: bytes, at: int) -> int:
    """Return where a name ends that may end in a pointer, which must lead back. ValueError: it is none."""
    begin = at
    while at < len(packet):
        length = packet[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            if at + 2 > len(packet) or not HEADER_BYTES <= int.from_bytes(packet[at : at + 2]) & 0x3FFF < begin:
                break
            return at + 2
        if length > 63 or at - begin > 255:
            break
        at += length + 1
    raise ValueError("malformed name")


def _lifetime(kept: list[_Record]) -> int:
    """Seconds: the least TTL of the answers; what is not there lives as the SOA says; without one, not at all."""
    answers = [record.ttl for record in kept if record.section == 0]
    absences = [
        min(record.ttl, int.from_bytes(record.data[-4:]))
        for record in kept
        if record.section == 1 and record.type == SOA and len(record.data) >= 22
    ]
    return min(answers + absences, default=0)


def _is_private(record: _Record) -> bool:
    if record.type in {A, AAAA}:
        return is_private(record.data)
    return record.type in {SVCB, HTTPS} and any(map(is_private, of_service_binding(record.data)))
