"""The daemon's parts at this moment → a Report. Pure but for reading the agent's state.

Owns: what counts as ready and healthy. Must not know how the report is served.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from svcnet.agent import Agent
from svcnet.status.report import FAILED, Report, StoreState, entries, held_list

UNHEALTHY_SECONDS = 60.0
"""A change that waits longer than this for the kernel makes the minion unhealthy (kube-proxy: 2 sync periods)."""


class Mode(NamedTuple):
    """The data path in force, and why this one."""

    name: str
    reason: str


def gather(
    agent: Agent, node: str, mode: Mode, parts: Mapping[str, str], now: float, ejected: Iterable[str] = ()
) -> Report:
    """Return the report; `now` is the agent's clock."""
    state, tracker = agent.state, agent.tracker
    oldest = now - state.behind_since if state.behind_since is not None else 0.0
    away = state.away_since
    store = StoreState(
        connected=away is None and state.store_seen,
        staleness_seconds=round(now - away, 3) if away is not None else 0.0,
        held=held_list(tracker.held),
        reason=state.away,
    )
    return Report(
        node=node,
        mode=mode.name,
        mode_reason=mode.reason,
        ready=state.synced,
        healthy=oldest < UNHEALTHY_SECONDS or agent.is_loading,
        revision_seen=state.revision_seen,
        revision_applied=state.revision_applied,
        services=len(tracker.snapshot.services),
        endpoints=tracker.endpoints,
        oldest_unapplied_seconds=round(oldest, 6),
        drift=state.drift,
        left_out=entries(agent.left_out()),
        ejected=tuple(ejected),
        last_error=state.last_error,
        last_error_at=state.last_error_at,
        last_error_batch=state.last_error_batch.lines,
        last_error_changes=state.last_error_batch.total,
        store=store,
        parts={**parts, **_faults(agent)},
    )


def _faults(agent: Agent) -> dict[str, str]:
    """What is kept behind the syncs and could not be written: tried again, and told until it works."""
    kept = {"env": agent.env.fault, "checkpoint": agent.checkpoint.fault}
    return {name: f"{FAILED}: {fault}" for name, fault in kept.items() if fault}
