"""The last good state on disk, so that a start without the store serves what was served before.

Owns: STATE_DIR/checkpoint: a head and all records as frames of msgpack, replaced by rename. Deleting it is always safe;
a broken or older one counts as none. One frame holds some records only: the loop turns between two of them, and no
second copy of everything is made.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from svcnet.model.record import Record

SCHEMA = 2
"""Rises when a record's fields change their meaning: a checkpoint of another schema is not read."""
CHUNK = 200
"""Records a frame: about a millisecond, in which no other thread of the process runs."""
LENGTH_BYTES = 4


class Head(msgspec.Struct, frozen=True):
    """The first frame. `written` is Unix seconds; `frames` are those that follow."""

    schema: int
    rev: int
    written: float
    frames: int


class Checkpoint(msgspec.Struct, frozen=True):
    """All records as of `rev`; `written` is Unix seconds."""

    rev: int
    written: float
    records: tuple[Record, ...]


def save(path: Path, rev: int, records: Iterable[Record], now: float) -> None:
    """Replace the checkpoint. OSError when the directory can't be written."""
    everything = tuple(records)
    fresh = path.with_name(f".{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    encode = msgspec.msgpack.Encoder().encode
    with os.fdopen(fd, "wb") as file:
        for frame in (Head(SCHEMA, rev, now, -(-len(everything) // CHUNK)), *_chunks(everything)):
            data = encode(frame)
            file.write(len(data).to_bytes(LENGTH_BYTES) + data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load(path: Path) -> Checkpoint | None:
    """The checkpoint, None when there is none that can be used."""
    try:
        frames = _frames(path.read_bytes())
        head = msgspec.msgpack.decode(next(frames, b""), type=Head)
        if head.schema != SCHEMA:
            return None
        decoder = msgspec.msgpack.Decoder(tuple[Record, ...])
        chunks = [decoder.decode(frame) for frame in frames]
    except (OSError, msgspec.MsgspecError):
        return None
    if len(chunks) != head.frames:
        return None
    return Checkpoint(head.rev, head.written, tuple(record for chunk in chunks for record in chunk))


def _chunks(records: tuple[Record, ...]) -> Iterator[tuple[Record, ...]]:
    left = iter(records)
    while chunk := tuple(islice(left, CHUNK)):
        yield chunk


def _frames(data: bytes) -> Iterator[memoryview]:
    """Payloads; one that is cut off comes short, and does not decode."""
    view, at = memoryview(data), 0
    while at < len(view):
        end = at + LENGTH_BYTES + int.from_bytes(view[at : at + LENGTH_BYTES])
        yield view[at + LENGTH_BYTES : end]
        at = end
