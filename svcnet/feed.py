"""What the control process tells its workers: whole services, at a revision. Pure.

Owns: the frames, their bytes, and what of a snapshot goes into them. Must not know what a worker does with them.

A frame on the wire is its length in four bytes, big-endian, then msgpack. An entry always holds all of one service, so
that a frame may be sent again, or stand for many changes: what is sent last is what holds.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from svcnet.model.meta import Key
from svcnet.model.service import Service
from svcnet.model.snapshot import Delta, PortKey, ServedPort, Snapshot

LENGTH_BYTES = 4
LARGEST_FRAME = 1 << 30
CHUNK = 100
"""Services in one frame of a whole: a few ms to encode, and to take in, so that both loops turn meanwhile."""
FAMILIES = (4, 6)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """All of one service; `service` None: it is gone."""

    namespace: str
    name: str
    service: Service | None
    ports: tuple[ServedPort, ...] = ()


class Whole(msgspec.Struct, frozen=True, tag="whole"):
    """Every service there is, in one or several frames; the one with `last` ends it. What is not in it is gone."""

    rev: int
    entries: tuple[Entry, ...]
    last: bool = True


class Change(msgspec.Struct, frozen=True, tag="change"):
    """The services that changed."""

    rev: int
    entries: tuple[Entry, ...]


Frame = Whole | Change
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Frame)


def changed(delta: Delta) -> set[Key]:
    """Return the services that a delta concerns."""
    ports = (*delta.added, *delta.removed, *(new for _, new in delta.changed))
    services = (s for pair in delta.services for s in pair if s is not None)
    return {Key("Service", p.key.namespace, p.key.service) for p in ports} | {s.key for s in services}


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
    keys = list(snapshot.services)
    for at in range(0, len(keys) or 1, CHUNK):
        chunk = tuple(entry(snapshot, key) for key in keys[at : at + CHUNK])
        yield Whole(snapshot.rev, chunk, at + CHUNK >= len(keys))


def change(snapshot: Snapshot, keys: Iterable[Key]) -> Change:
    """Return the frame of these services as they are in `snapshot`."""
    return Change(snapshot.rev, tuple(entry(snapshot, key) for key in sorted(keys)))


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
