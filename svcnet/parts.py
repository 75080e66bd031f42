"""What the agent's loop stands on: one small Protocol a part, next to their consumer, and the loop's own state.

Owns: the shapes. Must not do anything.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from svcnet.iptables.desired import Desired, Minion, Treatment
from svcnet.iptables.reach import Look, Reaches
from svcnet.model.frontend import Frontend
from svcnet.model.node import Node
from svcnet.model.snapshot import Delta, LeftOut, Snapshot
from svcnet.plan import NOTHING, Excerpt, Plan
from svcnet.store.protocol import Store
from svcnet.tracker import Tracker


class DataPath(Protocol):
    """What makes the kernel translate (nftables; later iptables, eBPF)."""

    name: str

    def look(self, desired: Desired) -> Desired:
        """What is in force; changes nothing."""
        ...

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Read everything back and make it equal."""
        ...

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry out a plan."""
        ...


class Flows(Protocol):
    """The connection table."""

    def clean(self, wanted: Reaches) -> int:
        """Remove UDP flows of these frontends that lead where they may not."""
        ...

    def sweep(self, look: Look) -> int:
        """The same for all flows that there are; those to addresses that services gave up go too."""
        ...


class EnvWriter(Protocol):
    """What keeps NAMESPACE.env files."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be a variable."""
        ...

    def update(self, snapshot: Snapshot, changed_namespaces: Iterable[str] | None) -> int:
        """Write what changed (None: everything); return how many files."""
        ...


class Follower(Protocol):
    """What serves records besides the kernel: DNS, the userspace proxy."""

    def publish(self, snapshot: Snapshot, delta: Delta) -> None:
        """Take a snapshot and what changed to it. Returns at once."""
        ...


class Meter(Protocol):
    """What counts (svcnet.status.metrics.Metrics)."""

    def synced(self, seconds: float, changes: int, rev: int, now: float) -> None: ...  # noqa: D102 (named by itself)
    def sync_failed(self) -> None: ...  # noqa: D102
    def programmed(self, seconds: float) -> None: ...  # noqa: D102
    def flows_deleted(self, count: int) -> None: ...  # noqa: D102
    def env_rendered(self, files: int) -> None: ...  # noqa: D102


@dataclass
class Parts:
    """What the loop moves values between. None: that part is off."""

    store: Store
    tracker: Tracker
    locate: Callable[[Node | None], Minion]
    """The minion's own Node record, if any → what rules need to know of this machine."""
    meter: Meter
    data_path: DataPath | None = None
    inline_changes: int = 200
    """A plan of at most so many changes is carried out in the loop; a longer one in a thread, so that health answers.
    200 are some ms of nftables; 0 for a path that starts programs."""
    waits: Callable[[Plan[Frontend, Treatment]], bool] = lambda _plan: False
    """Whether a plan takes a word with another process, and so a thread, however short it is."""
    flows: Flows | None = None
    env: EnvWriter | None = None
    followers: tuple[Follower, ...] = ()
    state_dir: Path | None = None
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    foreign: Callable[[], bool] | None = None
    """Whether somebody else changed the kernel's tables since the last call."""
    unserved: Callable[[], tuple[LeftOut, ...]] = tuple
    """What the data path can't serve, and why."""
    watch_seconds: float = 2.0
    """How often that is asked: one message of 20 bytes."""
    sweep_seconds: float = 60.0
    """How often all UDP flows are looked at: a packet that met the old rules while they changed is found by nothing
    else. 15,000 flows take 0.04 s."""
    on_ready: Callable[[str], None] = lambda _status: None
    """Called once, after the first sync, and with a text when a checkpoint serves."""


@dataclass
class State:
    """What `/status` tells of the loop. Times are of the monotonic clock; None: not now."""

    revision_seen: int = 0
    revision_applied: int = 0
    synced: bool = False
    """The store's first sync is applied."""
    from_checkpoint: float | None = None
    """Unix time of the checkpoint that serves."""
    store_seen: bool = False
    """The store has answered since the start."""
    away: str = ""
    away_since: float | None = None
    oldest_unapplied: float | None = None
    """Since when a change waits for its sync."""
    in_work: float | None = None
    """The same of those that are on their way to the kernel."""
    failing: float | None = None
    """Since when the kernel refuses what it should hold."""
    last_error: str = ""
    last_error_at: float | None = None
    """Unix time of it."""
    last_error_batch: Excerpt = NOTHING
    """What the sync that failed was to do."""
    drift: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def behind_since(self) -> float | None:
        """Since when the kernel has not been what the records say; None: it is."""
        return min((t for t in (self.oldest_unapplied, self.in_work, self.failing) if t is not None), default=None)
