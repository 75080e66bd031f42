"""A resolv.conf that is replaced, and put back. Shell.

Owns: the file, the one that was there before, and that no reader sees half of either. Must not know its lines.

What was there is kept beside it, once: a link (systemd-resolved's) stays the link that it is.
"""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from svcnet.model.errors import SvcnetError

MARK = "# by svcnet dns-config"
"""The first line begins so: the file is ours."""
BEFORE = ".before-svcnet"
READABLE = 0o644


def before(path: Path) -> Path:
    """Return where the file is kept that was there before."""
    return path.with_name(path.name + BEFORE)


def write(path: Path, text: str) -> bool:
    """Put a file in place of what is there, which is kept unless it is ours; False: it says so already. SvcnetError."""
    try:
        old = _read(path)
        if old == text and not path.is_symlink():
            return False
        if old is not None and not old.startswith(MARK):
            _keep(path)
        _replace(path, text)
    except OSError as error:
        raise _told(path, error) from error
    return True


def restore(path: Path) -> None:
    """Put back what was there before. SvcnetError."""
    kept = before(path)
    if not os.path.lexists(kept):
        raise SvcnetError(f"{kept}: there is no such file: nothing to put back")
    try:
        found = _read(path)
        if found is not None and not found.startswith(MARK):
            raise SvcnetError(f"{path}: somebody else wrote it since; what was before is in {kept}")
        kept.replace(path)
    except OSError as error:
        raise _told(path, error) from error


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:  # a link that leads nowhere has nothing to say either
        return "" if path.is_symlink() else None


def _keep(path: Path) -> None:
    """Keep what is there: the link itself, or a second name of the file."""
    kept = before(path)
    fresh = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        os.link(path, fresh, follow_symlinks=False)
        fresh.replace(kept)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()  # also where both were names of one file already: then rename(2) does nothing


def _replace(path: Path, text: str) -> None:
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), READABLE)
        Path(fresh).replace(path)
    except OSError:
        with suppress(OSError):
            Path(fresh).unlink()
        raise


def _told(path: Path, error: OSError) -> SvcnetError:
    mounted = error.errno in {errno.EBUSY, errno.EXDEV}  # as in a container
    hint = f"; it is mounted: write into it by svcnet dns-config … > {path}" if mounted else ""
    return SvcnetError(f"{path}: {error.strerror or error}{hint}")
