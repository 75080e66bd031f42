"""What readers of a store see: each record that counts, services with what they hold.

Owns: the step from a service as it was written to the service as it is served, who waits for what, and what was last
emitted. Must not know: where records and claims are kept. Claims change only for a service whose own wish
changed: an endpoint never touches them.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from svcnet.model.claim import NOTHING, Resource, claim_id, claim_key
from svcnet.model.meta import Key
from svcnet.model.record import Record
from svcnet.model.service import Service
from svcnet.store.catalog import Reports
from svcnet.virtual_ip import Claims, Settled, asks, wakes

CHUNK = 500
"""Services settled before the event loop gets a turn."""
BRAKE_LEAST = 10
"""A list that lacks this many, and over half, of the holders is not believed (architecture, decision 9)."""


class Records(Protocol):
    """All records as they were written."""

    reports: Reports

    def get(self, key: Key) -> Record | None:
        """Return a record."""
        ...


class Kept(Protocol):
    """Where claims are kept."""

    @property
    def claims(self) -> Claims:
        """The table, as it was last loaded and has been changed since."""
        ...

    def load(self) -> tuple[Iterable[str], Iterable[Resource]]:
        """Take over what others have claimed; return whose claim is another one now, and what was given up."""
        ...

    def save(self) -> None:
        """Write the table."""
        ...


File = TypeVar("File", bound=Kept)


class Served(Generic[File]):
    """All records as served. One reader."""

    def __init__(self, catalog: Records, file: File) -> None:
        self.file = file
        self.emitted: dict[Key, Record] = {}
        self.unclaimed: set[Key] = set()
        """Services whose claim is not on disk, because it can't be written: to be settled again when it can."""
        self.lapsed: list[str] = []
        """Claim ids whose record has gone since the reader last looked (who takes them empties the list)."""
        self._catalog = catalog
        self._changed: dict[Key, None] = {}
        """What may differ from what was emitted. Never a service that is unsettled: it comes here once it is not."""
        self._unsettled: dict[Key, None] = {}
        self._hasty: set[Key] = set()
        self._services: dict[Key, Service] = {}
        """Services that are served otherwise than written."""
        self._waiting: dict[Resource, set[Key]] = {}
        self._lacking: set[Key] = set()
        """Services that wait for anything."""

    @property
    def claims(self) -> Claims:
        """The table of claims."""
        return self.file.claims

    def touch(self, keys: Iterable[Key]) -> None:
        """Note records that may be other than what was emitted."""
        for key in keys:
            if key.kind == "Service":
                self._unsettled[key] = None
                self._changed.pop(key, None)
            else:
                self._changed[key] = None

    def load(self) -> None:
        """Take over claims made by others, and serve the services that they are for accordingly.

        One that names something else than its new claim is left as it is: whoever claimed has most likely seen a newer
        record, and to claim again for the older one would only take it back and forth.
        """
        changed, given_up = self.file.load()
        for key in map(claim_key, changed):
            if self._catalog.get(key) is None or self._serve_held(key):
                continue
            if key in self._lacking or key in self.unclaimed or not asks(self._service(key)):
                self.touch((key,))
        self._wake(given_up)

    def changes(self) -> list[tuple[Key, Record | None]]:
        """Return the records that differ from what was emitted, None for gone. Unsettled services wait."""
        found: list[tuple[Key, Record | None]] = []
        for key in self._changed:
            old = self.emitted.get(key)
            new = self._services.get(key) or self._catalog.get(key)
            if new is None:
                if self.emitted.pop(key, None) is not None:
                    found.append((key, None))
            elif new is not old and new != old:
                self.emitted[key] = new
                found.append((key, new))
        self._changed.clear()
        return found

    def mark_absent(self, names: Iterable[str]) -> None:
        """Take holders among `names` without a record for gone: only when they are few, as the brake on lists does."""
        absent = [name for name in names if self._catalog.get(claim_key(name)) is None]
        absent = [name for name in absent if name in self.claims.held and name not in self.claims.lapsed]
        if len(absent) < BRAKE_LEAST or 2 * len(absent) <= len(self.claims.held):
            self.claims.lapsed.update(absent)
            self.lapsed += absent

    @property
    def is_settled(self) -> bool:
        """Whether every service has what it holds or asks for."""
        return not self._unsettled

    @property
    def unsettled(self) -> Collection[Key]:
        """The services that have not."""
        return self._unsettled.keys()

    def settle_held(self) -> Iterator[None]:
        """Settle services that hold already what they ask for: it needs no lock. Yields between chunks."""
        self.touch(self._hasty)
        self._hasty.clear()
        for key in [key for key in self._unsettled if self._catalog.get(key) is None]:
            self._depart(key)
        for count, key in enumerate(list(self._unsettled), 1):
            self._serve_held(key)
            if not count % CHUNK:
                yield

    def settle(self, *, quiet: bool) -> None:
        """Settle the others, under the lock and after `load`, and save.

        `quiet`: no change waits to be read, so a holder without a record really is gone. What saving raises is raised,
        and nothing is settled.
        """
        done: list[Key] = []
        try:
            while self._unsettled:
                for key in self._in_order():
                    service = self._service(key)
                    settled = self.claims.settle(service, take_lapsed=quiet)
                    if settled.waits_for and not quiet and self.claims.lapsed:
                        self._hasty.add(key)
                    self._wake(self.claims.hold(claim_id(key), settled.claim))
                    self._serve(service, settled)
                    done.append(key)
            if self.claims.changed:
                self.file.save()
        except Exception:
            self.touch(done)
            raise

    def settle_unwritable(self, reason: str) -> None:
        """Settle the others where nothing can be claimed: with what they hold or name, else without address."""
        for key in self._in_order():
            service = self._service(key)
            settled = self.claims.settle(service, choose=False, take_lapsed=False)
            self.claims.hold(claim_id(key), settled.claim)
            self._serve(service, settled, reason)
            self.unclaimed.add(key)

    def _serve_held(self, key: Key) -> bool:
        """Serve a service with what it holds; False when that is not what it asks for."""
        service = self._service(key)
        settled = self.claims.settle(service, choose=False, take_lapsed=False)
        held = self.claims.held.get(claim_id(key), NOTHING)
        if settled.errors or settled.lacking or settled.claim != held:
            return False
        self._serve(service, settled)
        return True

    def _service(self, key: Key) -> Service:
        service = self._catalog.get(key)
        assert isinstance(service, Service)
        return service

    def _in_order(self) -> Sequence[Key]:
        """Return the unsettled services, those first that name what they want: nobody is given it by chance."""
        return sorted(self._unsettled, key=lambda key: not asks(self._service(key)))

    def _serve(self, service: Service, settled: Settled, reason: str = "") -> None:
        key = service.key
        self._unsettled.pop(key, None)
        self._changed[key] = None
        self.unclaimed.discard(key)
        self._lacking.discard(key)
        self.claims.lapsed.discard(claim_id(key))
        for resource in settled.waits_for:
            self._waiting.setdefault(resource, set()).add(key)
            self._lacking.add(key)
        if settled.service is service:
            self._services.pop(key, None)
        else:
            self._services[key] = settled.service
        wrong = [str(error).removeprefix(f"{key}: ") for error in settled.errors]
        if settled.lacking:
            wrong.append(f"no virtual IP or node port can be claimed: {reason}")
        self._catalog.reports.set(str(key), {str(key): "; ".join(wrong)} if wrong else {})

    def _depart(self, key: Key) -> None:
        """Let go of a service that is gone. What it holds stays its own until somebody asks for it."""
        del self._unsettled[key]
        self._changed[key] = None
        self._services.pop(key, None)
        self.unclaimed.discard(key)
        self._lacking.discard(key)
        self._catalog.reports.set(str(key), {})
        name = claim_id(key)
        if (claim := self.claims.held.get(name)) is not None:
            self.claims.lapsed.add(name)
            self.lapsed.append(name)
            self._wake(claim.resources())

    def _wake(self, given_up: Iterable[Resource]) -> None:
        for resource in given_up:
            for wish in wakes(resource):
                self.touch(key for key in self._waiting.pop(wish, ()) if self._catalog.get(key) is not None)
