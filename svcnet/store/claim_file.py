"""The claims of a record directory: PATH/.virtual-ips, shared by every svcnet that uses the directory.

Owns: the file, its format, and the lock (flock on PATH/.lock) under which it is changed. Must not know: records.
It is replaced by rename, so whoever only reads needs no lock. One claim a line, oldest first.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import msgspec

from svcnet.model.claim import Claim, Resource
from svcnet.model.errors import ConfigError, RecordError
from svcnet.store.tree import CLAIMS
from svcnet.virtual_ip import Allocation, Claims

LOCK = ".lock"
PATIENCE_SECONDS = 0.1


class _Form(msgspec.Struct, frozen=True):
    """What the file holds."""

    cidrs: tuple[str, ...]
    claims: dict[str, Claim]


_FORM = msgspec.json.Decoder(_Form)


class ClaimFile:
    """Claims as they were when they were last loaded. OSError: the directory can't be used."""

    def __init__(self, root: str, allocation: Allocation) -> None:
        self.path = f"{root}/{CLAIMS}"
        self.claims = Claims(allocation)
        self._root = root
        self._stamp: tuple[int, int, int] | None = None

    def load(self) -> tuple[set[str], tuple[Resource, ...]]:
        """Take over what others have claimed, and drop what was not saved; costs a stat when nothing has changed.

        Return whose claim is another one now (claim ids), and what was given up.

        Errors: ConfigError when the file belongs to another service CIDR, RecordError when it is broken.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._stamp is not None or self.claims.changed:
                self._stamp = None
                return self._adopt({})
            return set(), ()
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp and not self.claims.changed:
                return set(), ()
            data = file.read()
        try:
            form = _FORM.decode(data)
            cidrs = tuple(ip_network(cidr) for cidr in form.cidrs)
        except (msgspec.DecodeError, ValueError) as error:
            raise RecordError(f"{self.path}: {error}; expected the claims that svcnet wrote: restore it") from None
        allocation = self.claims.allocation
        # A range more (a second family) takes nothing from anybody; the next claim writes it down.
        if form.claims and not set(cidrs) <= set(allocation.cidrs):
            raise ConfigError(
                f"--service-cidr is {allocation}, but the virtual IPs in {self.path} come from {','.join(form.cidrs)}"
            )
        self._stamp = stamp
        return self._adopt(form.claims)

    def save(self) -> None:
        """Replace the file. Only under the lock, after `load`."""
        encode = msgspec.json.Encoder().encode
        lines = b",\n".join([encode(name) + b": " + encode(claim) for name, claim in self.claims.held.items()])
        cidrs = encode([str(cidr) for cidr in self.claims.allocation.cidrs])
        temp = f"{self.path}.new"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(b'{"cidrs": ' + cidrs + b', "claims": {\n' + lines + b"\n}}\n")
                file.flush()
                os.fsync(fd)
                status = os.fstat(fd)
            os.rename(temp, self.path)  # noqa: PTH104 - this path is text all the way: it is used per change
        except BaseException:
            os.unlink(temp)  # noqa: PTH108 - as above
            raise
        self._stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        self.claims.changed = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; waits for others."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            while not self._is_current(fd):
                os.close(fd)
                fd = self._open()
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    async def free(self) -> None:
        """Wait until nobody else seems to hold the lock: `locked` is then (mostly) had at once.

        The lock itself is never held, or waited for in a thread, while the event loop runs: a `put` of the same
        process would wait for it for ever. After PATIENCE_SECONDS the caller takes its turn in the queue.
        """
        pause = 0.001
        while pause < PATIENCE_SECONDS:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(pause)
                pause *= 1.5
            else:
                return
            finally:
                os.close(fd)

    def _open(self) -> int:
        # Read-only is enough for flock, and lets a user in whose directory has a lock file made by another.
        return os.open(f"{self._root}/{LOCK}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _is_current(self, fd: int) -> bool:
        """Whether the locked file is still the one that the next opener gets (someone may have removed it)."""
        try:
            other = os.stat(f"{self._root}/{LOCK}")  # noqa: PTH116 - as above
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(fd), other)

    def _adopt(self, held: dict[str, Claim]) -> tuple[set[str], tuple[Resource, ...]]:
        adopted = self.claims.update(held)
        self.claims.lapsed &= held.keys()
        self.claims.changed = False
        return adopted
