"""The files of a record directory: which exist, and which may have changed.

Owns: names and inotify watches. Must not know: what is in a file. It says *that* a path may have changed, never how:
who reads the path sees what is there now, so that a notice that comes late or twice does no harm.
"""

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from svcnet.store import inotify
from svcnet.store.inotify import Inotify, Notice

SUFFIXES = (".json", ".yaml", ".yml")
CLAIMS = ".virtual-ips"
_DIRECTORY = (
    inotify.CLOSE_WRITE
    | inotify.MOVED_FROM
    | inotify.MOVED_TO
    | inotify.CREATE
    | inotify.DELETE
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
    | inotify.ONLYDIR
)
_TARGET = inotify.CLOSE_WRITE | inotify.ATTRIB | inotify.DELETE_SELF | inotify.MOVE_SELF
_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT


class Content(NamedTuple):
    """What reading a path gave: bytes; else an error; else (both empty) there is no such file."""

    data: bytes | None
    error: str = ""
    link: bool = False


class Changes(NamedTuple):
    """What inotify has said since the last time. Paths are relative to the root."""

    paths: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    """Directories that are not there any more, each with a slash at its end."""
    set_aside: frozenset[str] = frozenset()
    """Those of `paths` that were renamed to a name that is no record's, as editors do before they write anew."""
    claims: bool = False
    """The claims file was replaced."""
    overflow: bool = False
    lost: bool = False
    """The root was moved, removed or unmounted."""


_READ_BYTES = 1 << 20
MOST_BYTES = 256 << 20
"""A larger file is reported, not read: one file must not take the memory that all others need."""


def is_record_file(name: str) -> bool:
    """Whether a file of this name holds records: dot files (and half-written ones) do not."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def read_file(path: str) -> Content:
    """Read a regular file; symbolic links are followed. Never waits, not even for a FIFO."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    link = False
    try:
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW)
        except OSError:
            link = Path(path).is_symlink()
            if not link:
                raise
            fd = os.open(path, flags)
        # Four system calls a file: a list opens tens of thousands, and a file object makes nine of each.
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):  # a device may have no end
                return Content(None, "not a regular file", link)
            if status.st_size > MOST_BYTES:
                return Content(None, f"{status.st_size} bytes, expected at most {MOST_BYTES}", link)
            data = os.read(fd, status.st_size + 1)
            while len(data) > status.st_size and (more := os.read(fd, _READ_BYTES)):  # it grew meanwhile
                data += more
        finally:
            os.close(fd)
    except FileNotFoundError:
        return Content(None, "a symbolic link to nothing" if link else "", link)
    except OSError as error:
        return Content(None, error.strerror or str(error), link)
    return Content(data, "", link)


def walk(root: str, below: str, enter: Callable[[str], None], blind: dict[str, str]) -> list[str]:
    """Return the record files below a directory, sorted. OSError when the root itself can't be read.

    `enter` is called before a directory is read, so that a watch misses nothing. Directories that can't be read go to
    `blind`, with the reason: what they hold is unknown, not gone.
    """
    paths: list[str] = []
    todo = [below]
    while todo:
        at = todo.pop()
        try:
            enter(at)
            with os.scandir(f"{root}/{at}") as entries:
                for entry in entries:
                    name = entry.name
                    path = f"{at}/{name}" if at else name
                    if entry.is_dir(follow_symlinks=False):
                        if not name.startswith("."):
                            todo.append(path)
                    elif is_record_file(name):
                        paths.append(path)
        except (FileNotFoundError, NotADirectoryError):
            if not at:
                raise
        except OSError as error:
            if not at:
                raise
            blind[at] = error.strerror or str(error)
    return sorted(paths)


def blind_problems(root: str, blind: Mapping[str, str]) -> dict[str, str]:
    """Return what to report of directories that can't be read: where → what."""
    return {f"{root}/{at}": f"can't be read: {why}" for at, why in blind.items()}


class Tree:
    """A record directory under watch. Made anew for every list."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.deaf = ""
        """Why not all of it can be watched, "" when it is."""
        self.notify: Inotify | None = None
        try:
            self.notify = Inotify()
        except OSError as error:
            self.deaf = f"{error.strerror}: sysctl fs.inotify.max_user_instances, ulimit -n"
        self.blind: dict[str, str] = {}
        """Directories that can't be read, and why."""
        self._dirs: dict[int, str] = {}
        self._wds: dict[str, int] = {}
        self._links: dict[str, int] = {}
        self._targets: dict[int, set[str]] = {}
        self._identity = _identity(root)

    def close(self) -> None:
        """End all watches."""
        if self.notify is not None:
            self.notify.close()

    def is_pending(self) -> bool:
        """Whether more changes wait to be read."""
        return self.notify is not None and self.notify.pending() > 0

    def files(self, below: str = "") -> list[str]:
        """Watch every directory from `below` down, and return the record files there."""
        self.blind.pop(below, None)
        return walk(self.root, below, self._enter, self.blind)

    def hides(self, path: str) -> bool:
        """Whether a path is below a directory that can't be read."""
        return any(path.startswith(f"{at}/") for at in self.blind)

    def is_same(self) -> bool:
        """Whether the root is still the directory that is watched. OSError when there is none, or it can't be read."""
        return _identity(self.root) == self._identity

    def follow(self, path: str, *, link: bool) -> None:
        """Watch what a symbolic link leads to (or stop, when the path is none)."""
        if self.notify is None or (not link and path not in self._links):
            return
        old = self._links.pop(path, None)
        new = None
        if link:
            try:
                new = self._links[path] = self.notify.add(f"{self.root}/{path}", _TARGET)
            except OSError as error:
                # A link to nothing is no news: whoever reads it has the reason.
                if error.errno == errno.ENOSPC:
                    self.deaf = _no_watches(error)
            else:
                self._targets.setdefault(new, set()).add(path)
        if old is not None and old != new and (paths := self._targets.get(old)) is not None:
            paths.discard(path)
            if not paths:
                del self._targets[old]
                self.notify.remove(old)

    def changes(self) -> Changes:
        """Return what may have changed, all that is known by now."""
        found = _Found()
        for notice in self.notify.read() if self.notify is not None else ():
            if notice.mask & inotify.Q_OVERFLOW:
                return Changes(overflow=True)
            if notice.wd in self._targets:
                found.paths.update(dict.fromkeys(self._targets[notice.wd]))
                if notice.mask & inotify.IGNORED:
                    for path in self._targets.pop(notice.wd):
                        self._links.pop(path, None)
            elif (at := self._dirs.get(notice.wd)) is not None:
                self._in_directory(notice, at, found)
        return found.result()

    def _enter(self, at: str) -> None:
        if self.notify is None:
            return
        try:
            wd = self.notify.add(f"{self.root}/{at}", _DIRECTORY)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.deaf = _no_watches(error)
            return
        self._dirs[wd] = at
        self._wds[at] = wd

    def _in_directory(self, notice: Notice, at: str, found: "_Found") -> None:
        mask, name = notice.mask, notice.name
        path = f"{at}/{name}" if at else name
        if mask & (_GONE | inotify.IGNORED):
            found.lost |= not at
        elif mask & inotify.ISDIR:
            if name.startswith("."):
                return
            if mask & (inotify.MOVED_FROM | inotify.DELETE):
                self._forget(path)
                found.gone[f"{path}/"] = None
            else:
                found.paths.update(dict.fromkeys(self.files(path)))
        elif is_record_file(name):
            if mask & inotify.CREATE and not self._is_complete(path):
                return
            found.paths[path] = None
            found.moved.update({notice.cookie: path} if mask & inotify.MOVED_FROM else {})
        elif mask & inotify.MOVED_TO:
            if (aside := found.moved.get(notice.cookie)) is not None:
                found.aside.add(aside)
            found.claims |= path == CLAIMS
            self._retarget(at, found)
        elif mask & inotify.CREATE:
            self._retarget(at, found)

    def _is_complete(self, path: str) -> bool:
        """Whether a new name has its content already: links do; a plain file has not before it is closed."""
        try:
            status = os.lstat(f"{self.root}/{path}")
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1

    def _retarget(self, at: str, found: "_Found") -> None:
        """Take all links of a directory for changed: one of them may lead through the new name (as `..data` does)."""
        for path in self._links:
            if path.rpartition("/")[0] == at:
                found.paths[path] = None

    def _forget(self, path: str) -> None:
        """End the watches of a directory that left, and of those below."""
        for at in [at for at in self._wds if at == path or at.startswith(f"{path}/")]:
            wd = self._wds.pop(at)
            # A directory that was renamed under our eyes is known by both names: the newer one stays.
            if self._dirs.get(wd) == at and self.notify is not None:
                del self._dirs[wd]
                self.notify.remove(wd)
        for at in [at for at in self.blind if at == path or at.startswith(f"{path}/")]:
            del self.blind[at]


class _Found:
    """What one call of Tree.changes collects."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}
        self.gone: dict[str, None] = {}
        self.moved: dict[int, str] = {}
        self.aside: set[str] = set()
        self.claims = False
        self.lost = False

    def result(self) -> Changes:
        return Changes(tuple(self.paths), tuple(self.gone), frozenset(self.aside), self.claims, lost=self.lost)


def _no_watches(error: OSError) -> str:
    return f"{error.strerror}: sysctl fs.inotify.max_user_watches"


def _identity(root: str) -> tuple[int, int]:
    """Device and inode of a directory that can be listed. OSError otherwise."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    return status.st_dev, status.st_ino
