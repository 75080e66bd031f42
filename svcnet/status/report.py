"""The state of one minion's daemon at one moment: what `/status` says (contract, Status server). Pure."""

from collections.abc import Iterable

import msgspec

from svcnet.model.snapshot import Held, LeftOut

RUNNING, OFF, FAILED = "running", "off", "failed"
"""States of a part; a failed one may say why: `failed: address in use`."""


class LeftOutEntry(msgspec.Struct, frozen=True):
    """A record, or one address of it, that is not served, and why."""

    what: str
    reason: str


class HeldList(msgspec.Struct, frozen=True):
    """A list that the brake holds, until `svcnet release`: it lacks `missing` of `known` services, at `revision`."""

    missing: int
    known: int
    revision: int


class StoreState(msgspec.Struct, frozen=True):
    """Whether records flow. `staleness_seconds` is 0 while they do, else the time since they last did."""

    connected: bool = False
    staleness_seconds: float = 0.0
    held: HeldList | None = None
    reason: str = ""
    """Why it is away."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; the fields are the keys of the JSON. Revisions are the store's, 0 before the first."""

    node: str
    mode: str
    mode_reason: str = ""
    ready: bool = False
    """The store's first sync is applied: the code of `/readyz`."""
    healthy: bool = True
    """The loop turns and the last commit went through: the code of `/healthz`."""
    revision_seen: int = 0
    revision_applied: int = 0
    services: int = 0
    endpoints: int = 0
    oldest_unapplied_seconds: float = 0.0
    """Age of the oldest change that is not in the kernel yet; 0 when all are."""
    drift: int = 0
    """How often the kernel was found to hold something else than what was written."""
    left_out: tuple[LeftOutEntry, ...] = ()
    ejected: tuple[str, ...] = ()
    """Endpoints that the userspace proxy makes no dials of for now, as too many failed."""
    last_error: str = ""
    last_error_at: float | None = None
    """Unix time of it; it stays until the next one."""
    last_error_batch: tuple[str, ...] = ()
    """What the sync that failed was to do, as a plan has it: the first 20 lines."""
    last_error_changes: int = 0
    """How many changes that batch had."""
    store: StoreState = StoreState()
    parts: dict[str, str] = {}
    """Name of each part → `running`, `off`, or `failed: why`."""

    @property
    def failed_parts(self) -> dict[str, str]:
        """The parts that failed."""
        return {name: state for name, state in sorted(self.parts.items()) if state.startswith(FAILED)}


def entries(items: Iterable[LeftOut]) -> tuple[LeftOutEntry, ...]:
    """Return what the tracker left out in the form of the report."""
    return tuple(LeftOutEntry(item.what, item.reason) for item in items)


def held_list(held: Held | None) -> HeldList | None:
    """Return what the brake holds in the form of the report."""
    return None if held is None else HeldList(held.missing, held.known, held.rev)
