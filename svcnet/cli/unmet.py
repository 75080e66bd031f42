"""Annotations that have no effect where their service is served: `/status` names them in `left_out`.

Owns: which those are, by frontend: a change costs the same however many there are. Must not know how one is served.
"""

from collections.abc import Callable, Iterable

from svcnet.iptables.desired import Desired, Treatment
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.model.terms import USUAL, Terms
from svcnet.plan import Plan
from svcnet.proxy.userspace import PROTOCOLS

UNTOLD = {
    "connect_seconds": "connect-timeouts",
    "idle_seconds": "idle-timeout",
    "half_closed_seconds": "half-closed-timeout",
    "drain_seconds": "drain",
    "most_connections": "max-connections",
    "most_rate": "max-connection-rate",
    "udp_replies": "udp-replies",
    "endpoint_limit": "max-connections-per-endpoint",
    "send_proxy": "send-proxy",
    "accept_proxy": "accept-proxy",
    "eject": "eject",
    "hedge_seconds": "hedge",
    "slow_start_seconds": "slow-start",
}
"""Terms that no kernel carries out, and their annotations."""
INTRODUCTIONS = ("send_proxy", "accept_proxy")
"""Those about PROXY headers, without which datagrams would be taken for what they are not."""


class Unmet:
    """What all frontends ask for in vain; `why` says it of one, or ""."""

    def __init__(self, why: Callable[[Treatment], str]) -> None:
        self._why = why
        self._found: dict[Frontend, LeftOut] = {}

    def renew(self, desired: Desired) -> None:
        """These are all."""
        self._found.clear()
        for front, treatment in desired.items():
            self._note(front, treatment)

    def follow(self, plan: Plan[Frontend, Treatment]) -> None:
        """These have changed."""
        for front, _, after in plan.changes():
            self._note(front, after)

    def left_out(self) -> tuple[LeftOut, ...]:
        """By service, each reason once."""
        return tuple(sorted(set(self._found.copy().values())))

    def _note(self, front: Frontend, treatment: Treatment | None) -> None:
        self._found.pop(front, None)
        if treatment is not None and treatment.terms is not USUAL and treatment.owner is not None:
            why = self._why(treatment)
            if why:
                self._found[front] = LeftOut(f"{treatment.owner.namespace}/{treatment.owner.service}", why)


def in_userspace(treatment: Treatment) -> str:
    """What the proxy can't do for a frontend that it serves."""
    if treatment.owner is None or treatment.owner.protocol != "UDP":
        return ""
    names = _named(treatment.terms, INTRODUCTIONS)
    return f"{names}: no effect on UDP port {treatment.owner.port}: datagrams have no PROXY header" if names else ""


def in_kernel(treatment: Treatment) -> str:
    """What a kernel mode can't do for a frontend, the proxy beside it included."""
    terms = treatment.terms
    if is_proxied(treatment):
        return in_userspace(treatment)
    if terms.needs_userspace and treatment.owner is not None:
        return f"the userspace proxy has no {treatment.owner.protocol}: the kernel translates it"
    names = _named(terms, UNTOLD)
    expected = "no effect in this mode, expected svcnet.dev/proxy: userspace beside"
    return f"{names}: {expected} {'them' if ',' in names else 'it'}" if names else ""


def is_proxied(treatment: Treatment) -> bool:
    """Whether a frontend is to be led to the proxy that is beside the kernel."""
    if treatment.terms is USUAL or treatment.owner is None or not treatment.terms.needs_userspace:
        return False
    return treatment.owner.protocol.lower() in PROTOCOLS


def _named(terms: Terms, among: Iterable[str]) -> str:
    return ", ".join(f"svcnet.dev/{UNTOLD[field]}" for field in among if getattr(terms, field) != getattr(USUAL, field))
