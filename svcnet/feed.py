"""What the control process tells its workers: whole services, at a revision. Pure.

Owns: the frames, their bytes, and what of a snapshot goes into them. Must not know what a worker does with them.

A frame on the wire is its length in four bytes, big-endian, then msgpack. An entry always holds all of one service, so
that a frame may be sent again, or stand for many changes: what is sent last is what holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from svcnet.model.meta import Key
from svcnet.model.service import Service
from svcnet.model.snapshot import Delta, PortKey, ServedPort, Snapshot

LENGTH_BYTES = 4
LARGEST_FRAME = 1 << 30
CHUNK = 20
"""Services in one frame: some 40 µs to decode, which a query may have to wait for."""
MANY = 80
"""Of the census in one frame, which cost about as much."""
FAMILIES = (4, 6)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """All of one service; `service` None: it is gone."""

    namespace: str
    name: str
    service: Service | None
    ports: tuple[ServedPort, ...] = ()


class Known(msgspec.Struct, frozen=True, array_like=True):
    """One key of a snapshot's census: a namespace, or an address that a pod has; `there` False: it is gone."""

    kind: str
    namespace: str
    name: str
    there: bool = True


class Whole(msgspec.Struct, frozen=True, tag="whole"):
    """Everything there is, in one or several frames; the one with `last` ends it. What is not in it is gone."""

    rev: int
    entries: tuple[Entry, ...]
    last: bool = True
    census: tuple[Known, ...] = ()
    zone: str = ""
    """This minion's topology zone; whoever is told another one is told everything."""


class Change(msgspec.Struct, frozen=True, tag="change"):
    """What changed, in one or several frames; the one with `last` ends it.

    One before any whole says that none is at hand: nothing is known yet.
    """

    rev: int
    entries: tuple[Entry, ...]
    census: tuple[Known, ...] = ()
    last: bool = True


Frame = Whole | Change
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Frame)


def changed(delta: Delta) -> set[Key]:
    """Return the services that a delta concerns, and what of the census."""
    ports = (*delta.added, *delta.removed, *(new for _, new in delta.changed))
    services = (s for pair in delta.services for s in pair if s is not None)
    return (
        {Key("Service", p.key.namespace, p.key.service) for p in ports} | {s.key for s in services} | set(delta.census)
    )


def entry(snapshot: Snapshot, key: Key) -> Entry:
    """Return what a snapshot has of one service. O(its ports)."""
    service = snapshot.services.get(key)
    if service is None:
        return Entry(key.namespace, key.name, None)
    wanted = (
        PortKey(key.namespace, key.name, p.protocol, p.port, family)
        for family in FAMILIES
        for p in service.served_ports
    )
    found = dict.fromkeys(wanted)
    ports = tuple(port for port_key in found if (port := snapshot.ports.get(port_key)) is not None)
    return Entry(key.namespace, key.name, service, ports)


def whole(snapshot: Snapshot) -> Iterator[Whole]:
    """Yield the frames of a whole snapshot, at least one."""
    services, census = _cut(list(snapshot.services), CHUNK), _cut(list(snapshot.census), MANY)
    number = max(len(services), len(census))
    none: list[Key] = []
    for at, (keys, known) in enumerate(zip_longest(services, census, fillvalue=none), 1):
        entries = tuple(entry(snapshot, key) for key in keys)
        yield Whole(snapshot.rev, entries, at == number, tuple(Known(*key) for key in known), snapshot.zone)


def changes(snapshot: Snapshot, keys: Iterable[Key]) -> Iterator[Change]:
    """Yield the frames of these services, and of this of the census, as they are in `snapshot`; at least one."""
    keys = sorted(keys)
    services = _cut([key for key in keys if key.kind == "Service"], CHUNK)
    census = _cut([key for key in keys if key.kind != "Service"], MANY)
    number = max(len(services), len(census))
    none: list[Key] = []
    for at, (those, known) in enumerate(zip_longest(services, census, fillvalue=none), 1):
        entries = tuple(entry(snapshot, key) for key in those)
        yield Change(snapshot.rev, entries, tuple(Known(*k, k in snapshot.census) for k in known), at == number)


def merged(changes: Sequence[Change]) -> Change:
    """Return changes that follow each other, at least one, as one: what is told last of a service is what holds."""
    if len(changes) == 1:
        return changes[0]
    entries = {(e.namespace, e.name): e for one in changes for e in one.entries}
    census = {(k.kind, k.namespace, k.name): k for one in changes for k in one.census}
    return Change(changes[-1].rev, tuple(entries.values()), tuple(census.values()), changes[-1].last)


def _cut(keys: list[Key], size: int) -> list[list[Key]]:
    return [keys[at : at + size] for at in range(0, len(keys) or 1, size)]


def encode(frame: Frame) -> bytes:
    """Return a frame with its length in front."""
    return framed(_encoder.encode(frame))


def framed(payload: bytes) -> bytes:
    """Return any payload with its length in front."""
    return len(payload).to_bytes(LENGTH_BYTES) + payload


def decode(payload: bytes) -> Frame:
    """Return the frame of a payload. msgspec.DecodeError for other bytes."""
    frame: Frame = _decoder.decode(payload)
    return frame


class Splitter:
    """Cuts a stream of bytes, as they come, into payloads."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; yield each payload that is complete. ValueError: a length that no frame has."""
        self._held += data
        while len(self._held) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._held[:LENGTH_BYTES])
            if end > LARGEST_FRAME:
                raise ValueError(f"a frame of {end} bytes")
            if len(self._held) < end:
                return
            payload = bytes(self._held[LENGTH_BYTES:end])
            del self._held[:end]
            yield payload
