"""Records → files below a record directory, for `put` and `delete`.

Owns: which file a record is in or goes to, and how a file is replaced: written aside under a dot name, then renamed, so
that a reader sees all of it or nothing. Must not know: claims, events. New records go to KINDS/NAMESPACE/NAME.json
(KINDS/NAME.json for kinds without a namespace).
"""

import ctypes
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from svcnet.codec.reader import read
from svcnet.codec.writer import to_json
from svcnet.model.errors import ConflictError, RecordError
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.store.rewrite import rewrite
from svcnet.store.tree import read_file, walk

_FEW = 16
"""Up to here each file is synced by itself; more are synced at once with the whole file system, which is quicker."""
_NAME_MOST = 200
"""Kubernetes allows 253 characters, a file name 255 bytes with its suffixes: longer ones end in a hash."""


class StaleError(Exception):
    """A file is not what it was when its change was staged: stage again."""


class Staged(NamedTuple):
    """A change that is written aside: `temp` is to be renamed to `target`; no `temp` removes it."""

    temp: str
    target: str
    seen: tuple[int, int, int] | None
    """What `target` was when the change was made of it; None: not there."""


class RecordFiles:
    """The files of one directory. Errors: OSError; ConflictError when a file can't be changed without harm."""

    def __init__(self, root: str) -> None:
        self.root = root

    def locate(self, keys: Iterable[Key]) -> dict[Key, list[str]]:
        """Return which files hold each key, the one that counts first. Keys that no file holds are left out."""
        wanted = set(keys)
        few = [key.name.encode() for key in wanted] if len(wanted) <= _FEW else []
        found: dict[Key, list[str]] = {}
        for path in walk(self.root, "", lambda _: None, {}):
            data = read_file(f"{self.root}/{path}").data
            # A name that is written with escapes is the only one that a search of the text would miss.
            if data is None or (few and b"\\" not in data and not any(name in data for name in few)):
                continue
            for key in {located.record.key for located in read(data, path).records} & wanted:
                found.setdefault(key, []).append(path)
        return found

    def home(self, key: Key) -> str:
        """Return the path of a new record: its own name, with a number behind when others' records are in that file."""
        if "/" in key.name + key.namespace or key.name.startswith(".") or not key.name:
            raise RecordError(f"{key}: metadata.name: {key.name!r} is no file name, expected a DNS name")
        directory = f"{key.kind.lower()}s".replace("endpointss", "endpoints")
        directory = f"{directory}/{key.namespace}" if key.namespace else directory
        name = key.name
        if len(name) > _NAME_MOST:
            name = f"{name[:_NAME_MOST]}~{blake2b(name.encode(), digest_size=8).hexdigest()}"
        for number in itertools.count(1):
            path = f"{directory}/{name}{f'~{number}' if number > 1 else ''}.json"
            data = read_file(f"{self.root}/{path}").data
            if data is None or {located.record.key for located in read(data, path).records} <= {key}:
                return path
        raise AssertionError

    def stage(self, edits: Mapping[Key, Record | None], homes: Mapping[Key, Sequence[str]]) -> list[Staged]:
        """Write what `edits` makes of every file in `homes` aside, on disk for good; `commit` or `drop` ends it."""
        files: dict[str, dict[Key, Record | None]] = {}
        for key, record in edits.items():
            for path in homes[key]:
                files.setdefault(path, {})[key] = record
        staged: list[Staged] = []
        try:
            for path, changes in files.items():
                target = os.path.realpath(f"{self.root}/{path}")
                seen = _stamp(target)
                data = self._text(path, changes)
                temp = self._write(target, data, len(files) <= _FEW) if data is not None else ""
                staged.append(Staged(temp, target, seen))
            if len(files) > _FEW:
                self._sync()
        except BaseException:
            self.drop(staged)
            raise
        return staged

    def commit(self, staged: Iterable[Staged]) -> None:
        """Make staged changes the files that readers see, all or (StaleError) none. Only under the lock."""
        for _, target, seen in staged:
            if _stamp(target) != seen:
                raise StaleError(target)
        for temp, target, seen in staged:
            if temp:
                os.rename(temp, target)  # noqa: PTH104 - text all the way: there may be tens of thousands
            elif seen is not None:
                os.unlink(target)  # noqa: PTH108 - as above

    def drop(self, staged: Iterable[Staged]) -> None:
        """Forget staged changes."""
        for temp, _, _ in staged:
            if temp:
                with suppress(FileNotFoundError):
                    os.unlink(temp)  # noqa: PTH108 - as above

    def _text(self, path: str, changes: Mapping[Key, Record | None]) -> bytes | None:
        """Return the new content of a file, None when nothing is left in it."""
        content = read_file(f"{self.root}/{path}")
        if content.error:
            raise ConflictError(f"{self.root}/{path} can't be read: {content.error}")
        if content.data is not None:
            decoded = read(content.data, path)
            if not {located.record.key for located in decoded.records} <= changes.keys() or not path.endswith(".json"):
                return rewrite(content.data, f"{self.root}/{path}", changes)
        records = [record for record in changes.values() if record is not None]
        if not records:
            return None
        if len(records) > 1:
            assert content.data is not None
            return rewrite(content.data, f"{self.root}/{path}", changes)
        text = to_json(records[0])
        if errors := read(text, str(records[0].key)).errors:
            raise errors[0]  # a record that no codec made: nobody could read the file
        return text

    def _write(self, target: str, data: bytes, sync: bool) -> str:
        directory = os.path.dirname(target)  # noqa: PTH120 - text all the way
        Path(directory).mkdir(parents=True, exist_ok=True)
        temp = f"{directory}/.svcnet-{os.urandom(6).hex()}"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                with suppress(OSError):  # a new file has none to keep; another's owner only root can keep
                    status = os.stat(target)  # noqa: PTH116 - as above
                    os.fchmod(fd, status.st_mode & 0o777)
                    os.fchown(fd, status.st_uid, status.st_gid)
                file.write(data)
                if sync:
                    os.fsync(fd)
        except BaseException:
            os.unlink(temp)  # noqa: PTH108 - as above
            raise
        return temp

    def _sync(self) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None).syncfs(fd)
        finally:
            os.close(fd)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - text all the way
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
