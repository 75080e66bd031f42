"""The last good state on disk, so that a start without the store serves what was served before.

Owns: STATE_DIR/checkpoint: msgpack of the records, replaced by rename. Deleting it is always safe; a broken or older
one counts as none.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from svcnet.model.record import Record

SCHEMA = 1
"""Rises when a record's fields change their meaning: a checkpoint of another schema is not read."""


class Checkpoint(msgspec.Struct, frozen=True):
    """All records as of `rev`; `written` is Unix seconds."""

    schema: int
    rev: int
    written: float
    records: tuple[Record, ...]


def save(path: Path, rev: int, records: Iterable[Record], now: float) -> None:
    """Replace the checkpoint. OSError when the directory can't be written."""
    data = msgspec.msgpack.encode(Checkpoint(SCHEMA, rev, now, tuple(records)))
    fresh = path.with_name(f".{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def load(path: Path) -> Checkpoint | None:
    """The checkpoint, None when there is none that can be used."""
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=Checkpoint)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.schema == SCHEMA else None
