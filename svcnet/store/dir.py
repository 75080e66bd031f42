"""`dir:PATH`: records as files in a directory of one machine. What others may rely on is in docs/contract.md.

Owns: the Store of a directory, put together from its parts. Must not know: how a file is read or an address chosen.
Claims and files change under one lock, in this order: claims first, so that a process that dies in between leaves an
address that nobody uses (given up after a grace time), never one that two have.
"""

import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter, itemgetter
from pathlib import Path

from svcnet.model.claim import Resource, claim_id, claim_key
from svcnet.model.errors import ConflictError, NotPermittedError, RecordError, StoreError
from svcnet.model.event import Event
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.store.catalog import Catalog
from svcnet.store.claim_file import ClaimFile
from svcnet.store.dir_watch import DirWatch
from svcnet.store.protocol import Listing
from svcnet.store.record_files import RecordFiles, StaleError
from svcnet.store.revision import Revisions
from svcnet.store.served import Served
from svcnet.store.tree import blind_problems, read_file, walk
from svcnet.virtual_ip import FULL, Allocation, asks

_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)


class DirStore:
    """Store (svcnet/store/protocol.py) in the directory `path`.

    `state_dir` keeps the revision of a daemon across restarts; None counts from the time. `make`: `put` creates a
    missing directory. Only who creates the first record on a new machine says so: for everyone else a missing
    directory is a store that is away (perhaps not mounted yet), and an empty one in its place would look like a mass
    deletion.
    """

    def __init__(
        self,
        path: Path,
        allocation: Allocation,
        state_dir: Path | None = None,
        *,
        make: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.allocation = allocation
        self._root = str(path)
        self._files = RecordFiles(self._root)
        self._make = make
        self._now = now
        self._state_dir = state_dir
        self._revisions: Revisions | None = None

    @property
    def revisions(self) -> Revisions:
        """The counter, which all watches of this store share."""
        if self._revisions is None:
            self._revisions = Revisions(self._state_dir, self._now())
        return self._revisions

    def list(self) -> Listing:
        """Return everything once; services without an address claim one, if the directory can be written."""
        catalog = Catalog(self._root)
        file = ClaimFile(self._root, self.allocation)
        served = Served(catalog, file)
        blind: dict[str, str] = {}
        with self._reading():
            with suppress(RecordError):
                file.load()
            known = tuple(file.claims.held)
            for path in walk(self._root, "", lambda _: None, blind):
                content = read_file(f"{self._root}/{path}")
                if content.data is not None:
                    catalog.load(path, content.data)
                elif content.error:
                    catalog.fail(path, content.error)
            served.touch(catalog.take_touched())
            served.mark_absent(known)
            unclaimed = self._settle(served)
        catalog.reports.set("unreadable directories", blind_problems(self._root, blind))
        catalog.reports.set(file.path, {file.path: unclaimed} if unclaimed else {})
        records = tuple(record for _, record in sorted(served.changes(), key=itemgetter(0)) if record is not None)
        rev = self._revisions.last if self._revisions else int(self._now())
        return Listing(rev, records, tuple(sorted(catalog.reports.take(), key=attrgetter("where"))))

    def watch(self) -> AsyncIterator[tuple[Event, ...]]:
        """Yield the list, Synced, then changes for ever. ConfigError when the claims belong to another service CIDR."""
        return DirWatch(self._root, self.allocation, self.revisions).run()

    def put(self, *records: Record, create: bool = False) -> tuple[Record, ...]:
        """Write records, all or none; return them with what they hold.

        StoreError without the directory, NotPermittedError when it can't be written, else as in the Protocol.
        """
        by_key = {record.key: record for record in records}
        if create and len(by_key) < len(records):
            raise ConflictError("a record is given twice")
        with self._writing():
            if self._make:
                self.path.mkdir(parents=True, exist_ok=True)
            file = ClaimFile(self._root, self.allocation)
            with file.locked():
                new = self._claim(file, by_key)
            try:
                while not self._write(file, by_key, create=create):
                    pass
            except BaseException:
                self._unclaim(file, new)
                raise
        return tuple(by_key[record.key] for record in records)

    def delete(self, *keys: Key) -> tuple[Key, ...]:
        """Delete records from every file that holds them and give up their claims; return the keys that existed."""
        with self._writing():
            homes = self._files.locate(keys)
            gone = tuple(key for key in dict.fromkeys(keys) if key in homes)
            if not gone:
                return ()
            file = ClaimFile(self._root, self.allocation)
            with file.locked():
                self._files.commit(self._files.stage(dict.fromkeys(gone), homes))
                file.load()
                for key in gone:
                    if key.kind == "Service":
                        file.claims.free(claim_id(key))
                if file.claims.changed:
                    file.save()
        return gone

    def _write(self, file: ClaimFile, records: dict[Key, Record], *, create: bool) -> bool:
        """Write claimed records; False when a file changed meanwhile, so that they have to be written again.

        The slow part, getting them on the disk, is done without the lock.
        """
        found = self._files.locate(records)
        for key, paths in found.items() if create else ():
            raise ConflictError(f"{key} exists in {self._root}/{paths[0]}")
        homes = {key: found[key][:1] if key in found else [self._files.home(key)] for key in records}
        staged = self._files.stage(records, homes)
        try:
            with file.locked():
                claimed = dict(records)
                self._claim(file, claimed)
                # A file that appeared between the look for it and its staging is another's, created meanwhile.
                if claimed == records and not (create and any(change.seen for change in staged)):
                    self._files.commit(staged)
                    return True
                records.update(claimed)
        except StaleError:
            pass
        finally:
            self._files.drop(staged)
        return False

    def _claim(self, file: ClaimFile, records: dict[Key, Record]) -> Sequence[Key]:
        """Replace services in `records` by what they hold; return those whose claim is new. Only under the lock."""
        file.load()
        claims = file.claims
        new: MutableSequence[Key] = []
        services = [record for record in records.values() if isinstance(record, Service)]
        for service in sorted(services, key=lambda service: not asks(service)):
            name = claim_id(service.key)
            settled = claims.settle(service)
            if settled.waits_for and self._lapse(file, settled.waits_for):
                settled = claims.settle(service)
            if settled.errors:
                raise settled.errors[0]
            if name not in claims.held:
                new.append(service.key)
            claims.hold(name, settled.claim)
            records[service.key] = settled.service
        if claims.changed:
            file.save()
        return new

    def _lapse(self, file: ClaimFile, wanted: Iterable[Resource]) -> bool:
        """Let holders of what is wanted lapse whose record is gone (nobody was there to see it go)."""
        holders = {name for resource in wanted if (name := file.claims.holder(resource)) is not None}
        if FULL & set(wanted):
            holders |= file.claims.held.keys()
        there = self._files.locate(claim_key(name) for name in holders)
        gone = {name for name in holders if claim_key(name) not in there}
        file.claims.lapsed |= gone
        return bool(gone)

    def _unclaim(self, file: ClaimFile, keys: Sequence[Key]) -> None:
        """Give claims up that were new and whose records were not written (by nobody: another may have won)."""
        with suppress(OSError), file.locked():
            file.load()
            there = self._files.locate(keys)
            for key in keys:
                if key not in there:
                    file.claims.free(claim_id(key))
            if file.claims.changed:
                file.save()

    def _settle(self, served: Served[ClaimFile]) -> str:
        """Give services what they hold or ask for; return why nothing could be claimed, "" when it could."""
        file = served.file
        for _ in served.settle_held():
            pass
        if served.is_settled:
            return ""
        try:
            with file.locked():
                served.load()
                served.settle(quiet=True)
        except RecordError as error:
            reason = str(error)
        except OSError as error:
            reason = f"{self._root}: {error.strerror or error}"
            served.load()
        else:
            return ""
        served.settle_unwritable(reason)
        return reason

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self._root}: {error.strerror or error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NOT_PERMITTED:
                raise NotPermittedError(
                    f"{error.filename or self._root}: {error.strerror}; needs to be written by uid {os.geteuid()}"
                ) from error
            raise StoreError(f"{error.filename or self._root}: {error.strerror or error}") from error
