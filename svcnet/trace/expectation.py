"""What the records say of a packet: refused, dropped, or which endpoints with which share, and masqueraded or not.

Owns: the meaning of a treatment for one packet, told without any rule: the tracer's answer can be held against it.
Pure.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from svcnet.iptables.desired import RANDOM, Pick, Target, Treatment
from svcnet.iptables.elements import untarget
from svcnet.iptables.held import share_out
from svcnet.iptables.ruleset import Class, Parameters
from svcnet.iptables.tracer import Arrival, Packet
from svcnet.nearness import Nearness
from svcnet.trace.addressee import Addressee, Kind

TRANSLATED, REFUSED, DROPPED, PASSED = "translated", "refused", "dropped", "passed"


class Said(NamedTuple):
    """The verdict in one word, every possible end with its share of 1, and why."""

    verdict: str
    arrivals: dict[Arrival, float]
    why: str
    choice: str = ""
    """How an endpoint is chosen."""
    masquerade: str = ""
    """Yes or no, and why."""
    local: bool = False
    """Whether only endpoints of this minion count."""
    exact: bool = True
    """Whether the shares are those of the kernel. A hash's are of all clients together, and nearly so."""


def expect(packet: Packet, whose: Addressee, treatment: Treatment | None, parameters: Parameters) -> Said:
    """Work it out. `treatment` is that of the packet's frontend; None where there is none."""
    if treatment is None:
        return _without(whose)
    if treatment.ranges and not _within(packet.source, treatment.ranges):
        return Said(DROPPED, {}, f"the source is outside loadBalancerSourceRanges {', '.join(treatment.ranges)}")
    if treatment.kind is Class.REFUSE:
        return Said(REFUSED, {}, "there is no endpoint for new connections")
    if treatment.kind is Class.DROP:
        return Said(DROPPED, {}, "policy Local, and no endpoint is on this minion", local=True)
    return _served(packet, treatment, parameters)


def expect_of_userspace(packet: Packet, whose: Addressee, treatment: Treatment | None, parameters: Parameters) -> Said:
    """The same where the proxy serves: it is the client that endpoints see, and where nobody listens is refused."""
    if treatment is None or treatment.kind is Class.REFUSE:
        ours = whose.kind not in {Kind.NODE_PORT, Kind.NOT_OURS}  # there others may listen
        why = "the proxy listens only where there are endpoints"
        return Said(REFUSED if ours else PASSED, {}, why if treatment or ours else "svcnet leaves it alone")
    return through_proxy(expect(packet, whose, treatment, parameters), treatment)


def through_proxy(said: Said, treatment: Treatment) -> Said:
    """What the kernel would have done, where the proxy does it."""
    if said.verdict != TRANSLATED:
        return said
    targets, levels = treatment.local if said.local else treatment.targets, treatment.levels
    found = near_first(targets, Nearness(levels, treatment.terms.share)) if levels else shares(targets, RANDOM)
    kind = treatment.pick.kind
    return said._replace(
        arrivals={Arrival(*place, masqueraded=True): share for place, share in found.items()},
        choice={"random": "in turn, by weight", "affinity": _stays("by its address", treatment.pick)}.get(
            kind, said.choice
        ),
        masquerade="yes, the proxy connects from this minion",
        exact=kind == "random",
    )


def _without(whose: Addressee) -> Said:
    if whose.kind is Kind.UNDEFINED_PORT:
        return Said(REFUSED, {}, "a virtual IP answers on the ports that its service defines, and refuses all others")
    if whose.kind is Kind.UNALLOCATED:
        return Said(DROPPED, {}, "no service has this address, and the service CIDR is never routed out")
    if whose.kind is Kind.VIRTUAL_IP:
        return Said(DROPPED, {}, "not served here")
    return Said(PASSED, {}, "svcnet leaves it alone")


def _served(packet: Packet, treatment: Treatment, parameters: Parameters) -> Said:
    targets, masqueraded, why = treatment.targets, False, ""
    inside = _within(packet.source, parameters.cluster_cidrs)
    kind = treatment.kind
    if kind is Class.INTERNAL_LOCAL:
        targets = treatment.local
    if kind in {Class.CLUSTER, Class.INTERNAL_LOCAL}:
        masqueraded, why = _cluster_source(parameters, inside=inside)
    elif kind is Class.EXTERNAL:
        masqueraded, why = True, "external traffic under policy Cluster always is"
    elif inside or packet.outgoing:
        masqueraded, why = _short_circuit(parameters, inside=inside)
    else:
        targets = treatment.local
        masqueraded, why = parameters.masquerade_all, "externalTrafficPolicy Local keeps the client's address"
    local = targets is not treatment.targets
    if not targets:
        return Said(DROPPED, {}, "externalTrafficPolicy Local, and no endpoint is on this minion", local=True)
    if parameters.masquerade_all:
        masqueraded, why = True, "--masquerade-all"
    hairpins = {t.address for t in (*treatment.targets, *treatment.local) if t.hairpin}
    itself = packet.source in hairpins
    arrivals = {
        Arrival(address, port, masqueraded or (itself and address == packet.source)): share
        for (address, port), share in shares(targets, treatment.pick).items()
    }
    if not masqueraded and any(a.masqueraded for a in arrivals):
        why += "; but yes where an endpoint is its own client (hairpin)"
    return Said(
        TRANSLATED,
        arrivals,
        _how_many(arrivals),
        _choice(treatment.pick),
        f"{'yes' if masqueraded else 'no'}, {why}",
        local,
        exact=treatment.pick.kind != "hash",
    )


def _cluster_source(parameters: Parameters, *, inside: bool) -> tuple[bool, str]:
    if not parameters.cluster_cidrs:
        return False, "without --cluster-cidr nobody is but hairpin traffic"
    cidrs = ", ".join(parameters.cluster_cidrs)
    return not inside, f"the source is {'in' if inside else 'outside'} --cluster-cidr {cidrs}"


def _short_circuit(parameters: Parameters, *, inside: bool) -> tuple[bool, str]:
    """Pods and the minion itself reach all endpoints under externalTrafficPolicy Local."""
    if inside:
        return False, f"the source is in --cluster-cidr {', '.join(parameters.cluster_cidrs)}"
    return True, "this minion reaches all endpoints of an external address by its own"


def shares(targets: tuple[Target, ...], pick: Pick) -> dict[tuple[str, int], float]:
    """(address, port) → its share of new connections, as far as there are slots for it."""
    counts = share_out(targets, pick)
    total = counts.total()
    return {untarget(data): count / total for data, count in counts.items()}


def near_first(targets: tuple[Target, ...], near: Nearness) -> dict[tuple[str, int], float]:
    """The same by the levels of annotation `locality`, as long as none is ejected."""
    weights = {(t.address, t.port): t.weight for t in targets}
    weighed = near.weighed(weights, near.parts(weights, ()))
    total = sum(weighed.values())
    return {place: weight / total for place, weight in weighed.items()}


def _how_many(arrivals: Mapping[Arrival, float]) -> str:
    return f"one of {len(arrivals)}" if len(arrivals) > 1 else "the only endpoint"


def _choice(pick: Pick) -> str:
    if pick.kind == "affinity":
        return _stays("at random by weight", pick)
    if pick.kind == "hash":
        return "by the client's address: the same endpoint each time (source-hash)"
    return "at random by weight for each connection"


def _stays(how: str, pick: Pick) -> str:
    stay = f"for {pick.seconds} s after its last connection" if pick.seconds else "for ever"
    return f"{how} for a new client, which then stays {stay} (ClientIP affinity)"


def _within(address: str, networks: Iterable[str]) -> bool:
    where = ip_address(address)
    return any(where in ip_network(n, strict=False) for n in networks)
