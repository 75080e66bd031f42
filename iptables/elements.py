"""Elements of our maps as the kernel stores them: bytes in, bytes out.

Owns: key and data layouts (each part of a concatenation padded to 4 bytes; numbers of meta and numgen in host order,
packet fields in network order; measured against what nft 1.0.6 writes) and the element operations of a batch.
"""

import socket
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import NamedTuple

from svcnet.iptables.desired import packed
from svcnet.iptables.netlink import NLM_F_CREATE, attr, attributes, message, nest, text
from svcnet.iptables.ruleset import (
    BEHIND,
    CLASSES,
    ENDPOINTS,
    HERE,
    MEMBERS,
    PICKS,
    SERVICES,
    SHORT,
    SOURCE_RANGES,
    TABLE,
)
from svcnet.model.frontend import Frontend

PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
FAMILY_NUMBERS = {4: 2, 6: 10}
"""NFPROTO_IPV4, NFPROTO_IPV6."""

NEWSETELEM, GETSETELEM, DELSETELEM = (10 << 8) + 12, (10 << 8) + 13, (10 << 8) + 14
ELEM_LIST_TABLE, ELEM_LIST_SET, ELEM_LIST_ELEMENTS = 1, 2, 3
ELEM_KEY, ELEM_DATA, ELEM_FLAGS, ELEM_KEY_END = 1, 2, 3, 10
LIST_ELEM, DATA_VALUE = 1, 1
LIST_BYTES = 48_000
"""Elements a message: a nested attribute's length is 16 bit."""

_PROTO_PORT = struct.Struct(">B3xH2x")
_PORT = struct.Struct(">H2x")
_NUMBER = struct.Struct("=I")
_TWO = struct.Struct("=II")
_KEY_FRAME = struct.Struct("=6H")
"""(length, kind) of the element, of its key, of the key's value."""
_DATA_FRAME = struct.Struct("=4H")
"""(length, kind) of the data, of its value."""


class Op(NamedTuple):
    """Add (or delete) one element. To change an element's data, delete and add it in one batch.

    The key of an interval (`source-ranges`) is its first key and its last, one behind the other.
    """

    family: int
    table: str
    key: bytes
    data: bytes = b""
    delete: bool = False


def address_key(front: Frontend) -> bytes:
    """Key of `services` and `classes`."""
    return packed(front.address) + _PROTO_PORT.pack(PROTOCOL_NUMBERS[front.protocol], front.port)


def frontend(family: int, key: bytes) -> Frontend:
    """The other way round."""
    size = 4 if family == 4 else 16
    proto, port = _PROTO_PORT.unpack_from(key, size)
    return Frontend(family, unpacked(key[:size]), PROTOCOL_NAMES.get(proto, str(proto)), port)


def number(value: int) -> bytes:
    """An id or a class code."""
    return _NUMBER.pack(value)


def unnumber(data: bytes) -> int:
    """The other way round."""
    value: int = _NUMBER.unpack_from(data)[0]
    return value


def slot_key(port_id: int, slot: int) -> bytes:
    """Key of `endpoints`."""
    return _TWO.pack(port_id, slot)


def unslot(key: bytes) -> tuple[int, int]:
    """(id, slot) of a key of `endpoints`."""
    port_id, slot = _TWO.unpack_from(key)
    return port_id, slot


def range_keys(front: Frontend, ranges: Iterable[str]) -> tuple[bytes, ...]:
    """Keys of `source-ranges`: networks as text, without those that others hold, as the kernel takes no overlap."""
    start = address_key(front)
    networks = [network for network in (ip_network(r, strict=False) for r in ranges) if network.version == front.family]
    return tuple(
        start + n.network_address.packed + start + n.broadcast_address.packed
        for n in collapse_addresses(networks)  # type: ignore[type-var]  # all are of one family
    )


def unrange(family: int, key: bytes) -> tuple[Frontend, tuple[str, ...]]:
    """(frontend, networks as text) of a key of `source-ranges`."""
    size, half = 4 if family == 4 else 16, len(key) // 2
    first, last = (ip_address(key[end - size : end]) for end in (half, len(key)))
    return frontend(family, key), tuple(map(str, summarize_address_range(first, last)))


def target_data(address: str, port: int) -> bytes:
    """Data of `endpoints`."""
    return packed(address) + _PORT.pack(port)


def untarget(data: bytes) -> tuple[str, int]:
    """(address, port) of data of `endpoints`."""
    return unpacked(data[:-4]), _PORT.unpack_from(data, len(data) - 4)[0]


def unpacked(data: bytes) -> str:
    """4 or 16 bytes as canonical text."""
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


@cache
def _frame(key_bytes: int, data_bytes: int) -> tuple[bytes, bytes]:
    """What stands before the key and between key and data of an element: the same for all of one layout."""
    key, data = b"k" * key_bytes, b"d" * data_bytes
    body = nest(ELEM_KEY, attr(DATA_VALUE, key))
    if data:
        body += nest(ELEM_DATA, attr(DATA_VALUE, data))
    whole = nest(LIST_ELEM, body)
    before, _, rest = whole.partition(key)
    return before, rest.removesuffix(data)


def _element(op: Op) -> bytes:
    """One element; keys and data are multiples of 4 bytes, so nothing needs padding."""
    if op.table == SOURCE_RANGES:
        half = len(op.key) // 2
        first, last = (attr(DATA_VALUE, key) for key in (op.key[:half], op.key[half:]))
        return nest(LIST_ELEM, nest(ELEM_KEY, first) + nest(ELEM_KEY_END, last))
    if op.delete or not op.data:
        before, between = _frame(len(op.key), 0)
        return before + op.key + between
    before, between = _frame(len(op.key), len(op.data))
    return before + op.key + between + op.data


def messages(ops: Iterable[Op], seq: int) -> Iterator[bytes]:
    """The ops as messages numbered from `seq`, in order; neighbours that go to the same list share a message."""
    run: list[bytes] = []
    size, head = 0, (0, "", False)
    for op in ops:
        where = (op.family, op.table, op.delete)
        if run and (where != head or size > LIST_BYTES):
            yield _message(head, run, seq)
            seq, run, size = seq + 1, [], 0
        head = where
        run.append(_element(op))
        size += len(run[-1])
    if run:
        yield _message(head, run, seq)


def _message(head: tuple[int, str, bool], run: list[bytes], seq: int) -> bytes:
    family, table, delete = head
    payload = text(ELEM_LIST_TABLE, TABLE) + text(ELEM_LIST_SET, table) + nest(ELEM_LIST_ELEMENTS, b"".join(run))
    kind = DELSETELEM if delete else NEWSETELEM
    return message(kind, 0 if delete else NLM_F_CREATE, FAMILY_NUMBERS[family], payload, seq)


def element_of(table: str, key: bytes) -> bytes:
    """What asks for one element (NFT_MSG_GETSETELEM without dump)."""
    whose = text(ELEM_LIST_TABLE, TABLE) + text(ELEM_LIST_SET, table)
    return whose + nest(ELEM_LIST_ELEMENTS, nest(LIST_ELEM, nest(ELEM_KEY, attr(DATA_VALUE, key))))


def elements(body: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """(key, data) of each element of one message of a dump; verdicts with empty data, intervals with their last key.

    Reads at fixed places, as the kernel writes key before data (nf_tables_fill_setelem): a dump of 10,000 services
    has 120,000 elements, and walking every attribute took three times as long.
    """
    for kind, payload in attributes(body):
        if kind != ELEM_LIST_ELEMENTS:
            continue
        run, offset = bytes(payload), 0
        while offset + 12 <= len(run):
            size, _, _, key_kind, key_size, _ = _KEY_FRAME.unpack_from(run, offset)
            end = offset + 8 + key_size
            key = run[offset + 12 : end] if key_kind & 0x3FFF == ELEM_KEY else b""
            yield key, _data_at(run, end + (-end & 3), offset + size)
            offset += (size + 3) & ~3


def _data_at(run: bytes, offset: int, end: int) -> bytes:
    if offset + 8 > end:
        return b""
    _, kind, size, value_kind = _DATA_FRAME.unpack_from(run, offset)
    if kind & 0x3FFF not in {ELEM_DATA, ELEM_KEY_END} or value_kind & 0x3FFF != DATA_VALUE:
        return b""
    return run[offset + 8 : offset + 4 + size]


def handle(value: int) -> str:
    """A number as nft writes what goes through `meta priority`."""
    return f"{value >> 16:x}:{value & 0xFFFF:x}"


def element_text(op: Op) -> str:
    """An element as nft text."""
    if op.table in {SERVICES, CLASSES, BEHIND}:
        front = frontend(op.family, op.key)
        return f"{front.address} . {front.protocol} . {front.port} : {handle(unnumber(op.data))}"
    if op.table in {SHORT, HERE}:
        return f"{handle(unnumber(op.key))} : {handle(unnumber(op.data))}"
    if op.table == SOURCE_RANGES:
        front, networks = unrange(op.family, op.key)
        return ", ".join(f"{front.address} . {front.protocol} . {front.port} . {n}" for n in networks)
    if op.table in {ENDPOINTS, PICKS, MEMBERS}:
        return _slot_text(op)
    size = 4 if op.family == 4 else 16
    return " . ".join(unpacked(op.key[i : i + size]) for i in range(0, len(op.key), size))


def _slot_text(op: Op) -> str:
    port_id, slot = unslot(op.key) if op.table != MEMBERS else (unnumber(op.key), 0)
    key = handle(port_id) + (f" . {slot}" if op.table != MEMBERS else "")
    if op.table == PICKS:
        return f"{key} : {handle(unnumber(op.data))}"
    address, port = untarget(op.data)
    return f"{key} : {address} . {port}"
