"""The chains of one frontend as text: who may come in, how the source is treated, which endpoint is chosen. Pure.

Owns: the rules of a service (docs/adr/0006-iptables.md, 0012). Knows neither programs nor other frontends.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from svcnet.iptables.chain_text import HAIRPIN, MASQ, NAT, PREFIX, Chain, Chains, chain_name, digest, service_name
from svcnet.iptables.desired import RANDOM, SERVING, Target, Treatment
from svcnet.iptables.prefix_tree import WIDTH
from svcnet.iptables.ruleset import Class, Parameters
from svcnet.model.frontend import Frontend
from svcnet.rendezvous import Rendezvous

SET_PREFIX = "svcnet-"
AFFINITY, HASH = "affinity", "hash"
"""`Pick.kind`: what a kernel may lack; served by chance there."""
HASH_FANOUT, HASH_DEPTH = 5, 3
"""Source hash is three steps of five buckets, 125 in all: iptables 1.8.9 refuses a mask of buckets above 32."""
AT_LOCAL = "-m addrtype --src-type LOCAL"
"""The minion itself."""


class Rendering(NamedTuple):
    """What a frontend needs in the kernel: chains of table nat, and the ipsets that they name."""

    chains: Chains
    sets: frozenset[str] = frozenset()


def rendering(
    front: Frontend, treatment: Treatment, parameters: Parameters, lacks: Collection[str] = frozenset()
) -> Rendering:
    """Render one frontend; nothing for one that is refused or dropped. A way to pick that `lacks` names is by chance.

    `lacks` with HAIRPIN: who may be its own client has a chain that marks its own packets.
    """
    if treatment.kind not in SERVING:
        return Rendering({})
    if treatment.pick.kind in lacks:
        treatment = treatment._replace(pick=RANDOM)
    return _Service(front, treatment, parameters, HAIRPIN in lacks).render()


def set_name(front: Frontend, treatment: Treatment, target: Target) -> str:
    """The ipset of the clients that stay with an endpoint: one for all addresses of a service port."""
    return f"{SET_PREFIX}{front.family}-{digest(f'{treatment.owner or front}>{target.address},{target.port}')}"


class _Service:
    def __init__(self, front: Frontend, treatment: Treatment, parameters: Parameters, marks_hairpin: bool) -> None:
        self.marks_hairpin = marks_hairpin
        self.front, self.treatment, self.parameters = front, treatment, parameters
        self.name = service_name(front)
        self.width = WIDTH[front.family]
        bit = f"{1 << parameters.masquerade_bit:#x}"
        self.mark = f"-j MARK --set-xmark {bit}/{bit}"
        self.chains: Chains = {}

    def render(self) -> Rendering:
        treatment = self.treatment
        inside = self._part("in") if treatment.ranges else self.name
        if treatment.ranges:
            self._chain(self.name, (f"-s {r} -g {inside}" for r in treatment.ranges))
        match treatment.kind:
            case Class.EXTERNAL_LOCAL:
                lines = self._external_local()
            case Class.EXTERNAL:
                lines = [self.mark, *self._choice(treatment.targets)]
            case Class.PROXIED:
                lines = self._choice(treatment.targets)
            case Class.PROXIED_LOCAL:
                lines = self._choice(treatment.local)
            case Class.INTERNAL_LOCAL:
                lines = [f"-j {MASQ}", *self._choice(treatment.local)]
            case _:
                lines = [f"-j {MASQ}", *self._choice(treatment.targets)]
        self._chain(inside, lines)
        targets = {*treatment.targets, *treatment.local} if treatment.pick.kind == AFFINITY else set()
        return Rendering(self.chains, frozenset(set_name(self.front, treatment, t) for t in targets))

    def _external_local(self) -> list[str]:
        """Pods and the minion itself reach all; everybody else what is here, with their own source."""
        everyone = self._part("all")
        self._chain(everyone, self._choice(self.treatment.targets))
        pods = [f"-s {cidr} -g {everyone}" for cidr in self.parameters.cluster_cidrs]
        return [
            *([self.mark] if self.parameters.masquerade_all else []),
            *pods,
            f"{AT_LOCAL} {self.mark}",
            f"{AT_LOCAL} -g {everyone}",
            *self._choice(self.treatment.local, "here"),
        ]

    def _choice(self, targets: tuple[Target, ...], part: str = "") -> list[str]:
        """The lines that send a packet to one of the targets; none of them falls through."""
        if self.treatment.pick.kind == HASH and len(targets) > 1:
            return self._hashed(targets, part)
        lines = []
        if self.treatment.pick.kind == AFFINITY:
            for target in targets:
                name = set_name(self.front, self.treatment, target)
                lines.append(f"-m set --match-set {name} src -g {self._endpoint(target)}")
        left = sum(t.weight for t in targets)
        for target in targets:
            chance, comment = _chance(target.weight, left), _weight(target)
            lines.append(f"-p {self.front.protocol}{chance}{comment} {self._action(target)}")
            left -= target.weight
        return lines

    def _hashed(self, targets: tuple[Target, ...], part: str) -> list[str]:
        by_key = {f"{t.address},{t.port}".encode(): t for t in targets}
        table = Rendezvous(HASH_FANOUT**HASH_DEPTH).assign({key: t.weight for key, t in by_key.items()})
        return self._buckets(table, by_key, f"{part}h")

    def _buckets(self, table: list[bytes], by_key: dict[bytes, Target], part: str) -> list[str]:
        """Lines that lead a client by its hash to the target of its part of the table."""
        if len(table) == HASH_FANOUT:
            masks: dict[bytes, int] = {}
            for bucket, key in enumerate(table):
                masks[key] = masks.get(key, 0) | 1 << bucket
            return [
                f"-p {self.front.protocol} {_bucket(mask, 1)} {self._action(by_key[key])}"
                for key, mask in sorted(masks.items())
            ]
        size = len(table) // HASH_FANOUT
        lines = []
        for bucket in range(HASH_FANOUT):
            name = self._part(f"{part}{bucket}")
            self._chain(name, self._buckets(table[bucket * size : (bucket + 1) * size], by_key, f"{part}{bucket}"))
            lines.append(f"{_bucket(1 << bucket, size)} -g {name}")
        return lines

    def _action(self, target: Target) -> str:
        """Translate; by way of a chain of its own for one that clients stay with, or whose own packets are marked."""
        if self._is_marked(target) or self.treatment.pick.kind == AFFINITY:
            return f"-g {self._endpoint(target)}"
        return _dnat(target)

    def _endpoint(self, target: Target) -> str:
        name = f"{PREFIX}EP-{digest(f'{self.front}>{target.address},{target.port}')}"
        lines = [f"-s {target.address}/{self.width} {self.mark}"] if self._is_marked(target) else []
        pick = self.treatment.pick
        if pick.kind == AFFINITY:
            stay = f" --timeout {pick.seconds}" if pick.seconds else ""
            lines.append(f"-j SET --add-set {set_name(self.front, self.treatment, target)} src --exist{stay}")
        self._chain(name, (*lines, f"-p {self.front.protocol} {_dnat(target)}"))
        return name

    def _is_marked(self, target: Target) -> bool:
        return target.hairpin and self.marks_hairpin

    def _part(self, what: str) -> str:
        front = self.front
        return chain_name(f"{front.address}.{front.protocol}.{front.port}.{what}")

    def _chain(self, name: str, lines: Iterable[str]) -> None:
        self.chains[Chain(NAT, name)] = tuple(lines)


def _dnat(target: Target) -> str:
    host = f"[{target.address}]" if ":" in target.address else target.address
    return f"-j DNAT --to-destination {host}:{target.port}"


def _chance(weight: int, left: int) -> str:
    """Of those that come this far; the kernel counts in 2⁻³¹, and prints that."""
    if weight == left:
        return ""
    return f" -m statistic --mode random --probability {round(2**31 * weight / left) / 2**31:.11f}"


def _weight(target: Target) -> str:
    return "" if target.weight == 1 else f" -m comment --comment weight={target.weight}"


def _bucket(mask: int, seed: int) -> str:
    """A match of some buckets of the client's address (xt_cluster: a hash of the connection's original source)."""
    return (
        f"-m cluster --cluster-local-nodemask {mask:#010x} --cluster-total-nodes {HASH_FANOUT}"
        f" --cluster-hash-seed {seed:#010x}"
    )
