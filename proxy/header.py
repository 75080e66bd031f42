"""The PROXY header, which comes before the first byte of a connection and says between whom it really is. Pure.

Owns: both forms, text (v1) and binary (v2), built and read (HAProxy, doc/proxy-protocol.txt). What is read came from
outside: whatever is no header, to the letter, is an error.

TLVs are passed on as they came, except those that are about the one header they are in: its checksum, which is
verified, and padding.
"""

import re
import struct
from functools import cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

Place = tuple[str, int]
"""Address and port."""

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_WORD, _END = b"PROXY ", b"\r\n"
LONGEST_V1 = 107
LONGEST_BYTES = 4096
"""Of v2 with its TLVs, as read here."""
_FIXED = struct.Struct("!12sBBH")
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESSES = {_TCP4: struct.Struct("!4s4sHH"), _TCP6: struct.Struct("!16s16sHH")}
_MOST_FAMILY, _MOST_TRANSPORT = 3, 2
"""Above them is reserved, and to be refused."""
_TLV = struct.Struct("!BH")
_CRC32C, _NOOP = 3, 4
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}").fullmatch
_HIGHEST_PORT = 65535
_V1_WORDS = 5
LOCAL = _FIXED.pack(SIGNATURE, _V2_LOCAL, 0, 0)
"""A whole v2 header: of a connection that the proxy itself makes, as a probe is."""


class BadHeaderError(ValueError):
    """What came is no PROXY header."""


class Header(NamedTuple):
    """Who a connection is from, and what was dialled. None: as the socket says (LOCAL, UNKNOWN)."""

    source: Place | None
    destination: Place | None
    tlvs: bytes = b""


NO_ADDRESSES = Header(None, None)


def v1(source: Place, destination: Place) -> bytes:
    """As text."""
    ours, theirs, version = _both(source[0], destination[0])
    return f"PROXY TCP{version} {ours} {theirs} {source[1]} {destination[1]}\r\n".encode()


def v2(source: Place, destination: Place, tlvs: bytes = b"") -> bytes:
    """As bytes."""
    ours, theirs, version = _both(source[0], destination[0])
    family = _TCP4 if version == 4 else _TCP6
    body = _ADDRESSES[family].pack(ours.packed, theirs.packed, source[1], destination[1]) + tlvs
    return _FIXED.pack(SIGNATURE, _V2_PROXY, family, len(body)) + body


def read(data: bytes) -> tuple[Header, int] | None:
    """The header that data begins with, and its length; None while it may still become one."""
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _read_v2(data)
    if data[: len(_WORD)] == _WORD[: len(data)]:
        return _read_v1(data)
    raise BadHeaderError("no PROXY header")


def _read_v1(data: bytes) -> tuple[Header, int] | None:
    end = data.find(_END, 0, LONGEST_V1)
    if end < 0:
        if len(data) >= LONGEST_V1:
            raise BadHeaderError("a line without an end")
        return None
    words = data[len(_WORD) : end].split(b" ")
    length = end + len(_END)
    if words[0] == b"UNKNOWN":
        return NO_ADDRESSES, length
    if words[0] not in {b"TCP4", b"TCP6"} or len(words) != _V1_WORDS:
        raise BadHeaderError("a line that is none of PROXY")
    kind: type[IPv4Address | IPv6Address] = IPv4Address if words[0] == b"TCP4" else IPv6Address
    _, source, destination, *ports = words
    return Header((_address(source, kind), _port(ports[0])), (_address(destination, kind), _port(ports[1]))), length


def _read_v2(data: bytes) -> tuple[Header, int] | None:
    if len(data) < _FIXED.size:
        return None
    _, command, family, length = _FIXED.unpack_from(data)
    if command not in {_V2_LOCAL, _V2_PROXY}:
        raise BadHeaderError(f"version and command {command:#x}")
    if family >> 4 > _MOST_FAMILY or family & 0xF > _MOST_TRANSPORT:
        raise BadHeaderError(f"family {family:#x}")
    whole = _FIXED.size + length
    if whole > LONGEST_BYTES:
        raise BadHeaderError(f"{length} bytes are too many")
    if command == _V2_PROXY and family in _ADDRESSES and length < _ADDRESSES[family].size:
        raise BadHeaderError("no room for the addresses")
    if len(data) < whole:
        return None
    if command == _V2_LOCAL or family not in _ADDRESSES:  # of UNIX sockets, of UDP: nothing that a client of TCP has
        return NO_ADDRESSES, whole
    source, destination, source_port, destination_port = _ADDRESSES[family].unpack_from(data, _FIXED.size)
    tlvs = _passed_on(data[:whole], _FIXED.size + _ADDRESSES[family].size)
    kind = IPv4Address if family == _TCP4 else IPv6Address
    return Header((str(kind(source)), source_port), (str(kind(destination)), destination_port), tlvs), whole


def _passed_on(header: bytes, at: int) -> bytes:
    """The TLVs of a whole header that others are to have."""
    kept = []
    while at < len(header):
        if at + _TLV.size > len(header):
            raise BadHeaderError("half of a TLV")
        kind, length = _TLV.unpack_from(header, at)
        value = at + _TLV.size
        at = value + length
        if at > len(header):
            raise BadHeaderError("half of a TLV")
        if kind == _CRC32C:
            if length != 4 or crc32c(header[:value] + bytes(4) + header[at:]) != int.from_bytes(header[value:at]):
                raise BadHeaderError("a wrong checksum")
        elif kind != _NOOP:
            kept.append(header[value - _TLV.size : at])
    return b"".join(kept)


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum (RFC 3720, appendix B.4)."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        crc = row
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        rows.append(crc)
    return tuple(rows)


def _address(text: bytes, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        address = kind(text.decode("ascii"))
    except (AddressValueError, UnicodeDecodeError) as error:
        raise BadHeaderError("an address that is none") from error
    if "%" in str(address):
        raise BadHeaderError("an address with a zone")
    return str(address)


def _port(text: bytes) -> int:
    if not _PORT(text) or int(text) > _HIGHEST_PORT:
        raise BadHeaderError("a port that is none")
    return int(text)


def _both(one: str, other: str) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address, int]:
    """Two addresses of one family, and its version: where they differ, that of IPv4 as one of IPv6 (RFC 4291, 2.5.5.2).

    A client of another proxy may have come to it by the other family.
    """
    first, second = _parsed(one), _parsed(other)
    if first.version != second.version:
        first, second = _mapped(first), _mapped(second)
    return first, second, first.version


def _parsed(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text.partition("%")[0]) if ":" in text else IPv4Address(text)


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    return IPv6Address(f"::ffff:{address}") if isinstance(address, IPv4Address) else address
