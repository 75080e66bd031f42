"""The iptables data path: plans in, one atomic iptables-restore a family out; reads at start and after errors only.

Owns: when to read, in what order a load goes in, and our jumps in the built-in chains. The programs are behind
`Tables`; `fake_xtables.py` has one that behaves.
"""

import logging
import threading
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from svcnet.iptables.chain_text import FILTER, JUMPS, NAT, Chain, Chains, jump, restore_text
from svcnet.iptables.desired import Desired, Treatment
from svcnet.iptables.layout import Edit, Layout
from svcnet.iptables.ruleset import Parameters
from svcnet.iptables.saved import Saved, current
from svcnet.iptables.service_text import AFFINITY
from svcnet.model.errors import KernelError
from svcnet.model.frontend import Frontend
from svcnet.model.snapshot import LeftOut
from svcnet.plan import Plan, diff

log = logging.getLogger(__name__)

PIECE_CHAINS = 1_000
"""Chains that one restore of a load writes in nft tables, whose cost grows faster than their number."""
DROP_SECONDS = 0.5
FAMILIES = (4, 6)


class Tables(Protocol):
    """One network namespace's tables of one variant. Errors: KernelError, NotPermittedError."""

    variant: str

    def save(self, family: int) -> Saved:
        """What is in force."""
        ...

    def restore(self, family: int, text: str) -> None:
        """Carry a text of iptables-restore out, all of a table or nothing."""
        ...

    def lacks(self, family: int) -> Mapping[str, str]:
        """What does not work here, and why: ways to pick (`Pick.kind`), HAIRPIN. Nothing else of ours needs it."""
        ...

    def sets(self, family: int) -> frozenset[str]:
        """Our ipsets of a family."""
        ...

    def make_sets(self, family: int, names: Iterable[str]) -> None:
        """Make ipsets, those that are there stay as they are; of clients' addresses, with room for a million."""
        ...

    def empty_sets(self, names: Iterable[str]) -> None:
        """Let ipsets forget their clients."""
        ...

    def drop_sets(self, names: Iterable[str], seconds: float = 0.0) -> frozenset[str]:
        """Delete those of these ipsets that no rule names; return the others.

        nft tables let an ipset go some time after the rule: wait so long for it.
        """
        ...

    def watermark(self) -> Hashable:
        """A value that is another after a change, whoever made it."""
        ...


class Iptables:
    """Translation by chains SVCNET-…, one layout a family."""

    name = "iptables"

    def __init__(self, tables: Tables, parameters: Sequence[Parameters]) -> None:
        self._tables = tables
        self._parameters = {p.family: p for p in parameters}
        self._layouts: dict[int, Layout] = {}
        self._lingering: frozenset[str] = frozenset()
        """Ipsets that nobody of ours needs; rules that went a moment ago may hold them yet."""
        self._watermark: Hashable = None
        """As of our last change. What others change while we do is found at the next change or start alone."""
        self._at_work = threading.Lock()
        """Held while we change the tables, by whatever thread."""

    def changed_by_others(self) -> bool:
        """Whether anybody else has changed the tables since our last change, or the last call: time to `sync`."""
        if not self._at_work.acquire(blocking=False):
            return False
        try:
            before, self._watermark = self._watermark, self._tables.watermark()
        finally:
            self._at_work.release()
        return self._watermark != before

    def left_out(self) -> tuple[LeftOut, ...]:
        """What services ask for and this machine can't do."""
        return tuple(dict.fromkeys(item for layout in list(self._layouts.values()) for item in layout.left_out))

    def look(self, desired: Desired) -> Desired:
        """What is in force, in the plan's terms; changes nothing. For `svcnet plan`."""
        found: Desired = {}
        for family, parameters in self._parameters.items():
            layout = Layout(parameters, self._tables.lacks(family))
            layout.everything(desired)
            found |= current(family, self._read(family), desired, layout)
        return found

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Make the tables equal to `desired`, whatever they held: chains that differ, all others stay as they are."""
        with self._at_work:
            before = self._sync(desired)
            self._watermark = self._tables.watermark()
        return diff(before, desired)

    def _sync(self, desired: Desired) -> Desired:
        """Return what was in force before."""
        before: Desired = {}
        unneeded: set[str] = set()
        for family, parameters in self._parameters.items():
            saved = self._read(family)
            layout, wanted, sets = self._lay_out(parameters, desired)
            before |= current(family, saved, desired, layout)
            edit: Edit = {chain: lines for chain, lines in wanted.items() if saved.chains.get(chain) != lines}
            edit |= dict.fromkeys(saved.chains.keys() - wanted.keys())
            self._load(family, edit, _jump_edits(saved))
            unneeded |= sets - layout.sets
            self._layouts[family] = layout
            if edit:
                log.info("wrote chains family=%s variant=%s chains=%s", family, self._tables.variant, len(edit))
        self._discard(unneeded)
        for family in set(FAMILIES) - self._parameters.keys():  # the family that the service CIDR has no more
            try:
                _remove(self._tables, family)
            except KernelError as error:  # a kernel without IPv6: it holds nothing of ours either
                log.debug("no tables family=%s why=%s", family, error)
        return before

    def _lay_out(self, parameters: Parameters, desired: Desired) -> tuple[Layout, Chains, frozenset[str]]:
        """What is wanted, with its ipsets made, or without where they can't be; and the ipsets of before."""
        family, lacks = parameters.family, dict(self._tables.lacks(parameters.family))
        sets = self._tables.sets(family)
        layout = Layout(parameters, lacks)
        wanted = layout.everything(desired)
        try:
            self._make_sets(family, layout.sets - sets | layout.sets & self._lingering)
        except KernelError as error:
            log.warning("services are served without session affinity family=%s why=%s", family, error)
            layout = Layout(parameters, lacks | {AFFINITY: f"session affinity is not kept: {error}"})
            wanted = layout.everything(desired)
        return layout, wanted, sets

    def _make_sets(self, family: int, names: frozenset[str]) -> None:
        if forgotten := names & self._lingering:
            self._tables.empty_sets(forgotten)
            self._lingering -= forgotten
        self._tables.make_sets(family, names)

    def _discard(self, names: Collection[str]) -> None:
        """Delete ipsets; those that can't go yet are tried again with the next change."""
        self._lingering = self._tables.drop_sets(self._lingering.union(names))

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry a plan out; return the number of chains written. After a KernelError call `sync`."""
        count = 0
        with self._at_work:
            for family, layout in self._layouts.items():
                edit, needed, unneeded = layout.apply(c for c in plan.changes() if c.key.family == family)
                self._make_sets(family, needed)
                # That packets still come to us costs nothing to ask in the same restore.
                self._tables.restore(family, restore_text(edit, {}, JUMPS))
                self._discard(unneeded)
                count += len(edit)
            self._watermark = self._tables.watermark()
        return count

    def track(self) -> bool:
        """Where there are no chains, make those that no service changes; nothing leads there before the first sync.

        The kernel tracks connections for their rules. Return whether any were missing.
        """
        missing = [(family, own) for family, own in self._parameters.items() if not self._read(family).chains]
        for family, parameters in missing:
            layout = Layout(parameters, self._tables.lacks(family))
            self._tables.restore(family, restore_text(layout.everything({}), {}))
        return bool(missing)

    def silence(self) -> bool:
        """Translate no new connection, and go on with those that are; False where there is nothing of ours.

        The chains stay: it is their rules for which the kernel tracks connections at all.
        """
        return any([_silence(self._tables, family) for family in FAMILIES])  # noqa: C419 (both, not until the first)

    def remove(self) -> bool:
        """Delete our chains and jumps; whether there were any."""
        return any([_remove(self._tables, family) for family in FAMILIES])  # noqa: C419 (both, not until the first)

    def _read(self, family: int) -> Saved:
        return self._tables.save(family)

    def _load(self, family: int, edit: Edit, jumps: Mapping[str, Sequence[str]]) -> None:
        limit = PIECE_CHAINS if self._tables.variant == "nft" else max(len(edit), 1)
        for text in pieces(edit, jumps, limit):
            self._tables.restore(family, text)


def pieces(edit: Edit, jumps: Mapping[str, Sequence[str]], limit: int) -> Iterator[str]:
    """Texts that write at most `limit` chains each; a packet, whenever it comes, finds the old or the new way whole.

    What a chain leads to is there before it, the jumps come after all, and what nobody leads to goes last.
    """
    kept = list(_targets_first(edit))
    for begin in range(0, len(kept) - limit, limit):
        yield restore_text({chain: edit[chain] for chain in kept[begin : begin + limit]}, {})
    rest = kept[(len(kept) - 1) // limit * limit :] if kept else []
    last: Edit = {chain: edit[chain] for chain in rest}
    yield restore_text(last | {chain: None for chain, lines in edit.items() if lines is None}, jumps)


def _targets_first(edit: Edit) -> Iterator[Chain]:
    """The chains to write, each after those of them that it leads to."""
    done: set[Chain] = set()

    def visit(chain: Chain) -> Iterator[Chain]:
        if chain in done:
            return
        done.add(chain)
        for line in edit[chain] or ():
            target = Chain(chain.table, line.rpartition(" ")[2])
            if edit.get(target) is not None:
                yield from visit(target)
        if edit[chain] is not None:
            yield chain

    for chain in edit:
        yield from visit(chain)


def _jump_edits(saved: Saved) -> dict[str, list[str]]:
    """What makes ours the first rule of each built-in chain, by table; nothing where it is."""
    edits: dict[str, list[str]] = {NAT: [], FILTER: []}
    for chain in (*JUMPS, *(saved.jumps.keys() - JUMPS.keys())):
        if chain in saved.in_front:
            continue
        lines = edits.setdefault(chain.table, [])
        lines += [f"-D {chain.name} {rule}" for rule in saved.jumps.get(chain, ())]
        if chain in JUMPS:
            lines.append(f"-I {chain.name} 1 {jump(JUMPS[chain])}")
    return edits


def _silence(tables: Tables, family: int) -> bool:
    saved = tables.save(family)
    edits: dict[str, list[str]] = {}
    for chain, rules in saved.jumps.items():
        if chain.name != "POSTROUTING":  # for first packets that are on their way there
            edits.setdefault(chain.table, []).extend(f"-D {chain.name} {rule}" for rule in rules)
    tables.restore(family, restore_text({}, edits, tables=(FILTER, NAT)))
    return bool(saved.chains or saved.jumps)


def _remove(tables: Tables, family: int) -> bool:
    saved, sets = tables.save(family), tables.sets(family)
    if not saved.chains and not saved.jumps:
        return bool(sets - tables.drop_sets(sets, DROP_SECONDS))  # of one that was killed between its chains and these
    edits: dict[str, list[str]] = {}
    for chain, rules in saved.jumps.items():
        edits.setdefault(chain.table, []).extend(f"-D {chain.name} {rule}" for rule in rules)
    # What nat does not translate any more, filter would refuse, though another path of ours may serve it by now.
    text = restore_text(dict.fromkeys(saved.chains), edits, tables=(FILTER, NAT))
    if set(edits) - {NAT, FILTER}:
        raise KernelError(f"our chains are jumped to from table {', '.join(sorted(set(edits) - {NAT, FILTER}))}")
    tables.restore(family, text)
    if left := tables.drop_sets(sets, DROP_SECONDS):
        log.info("ipsets stay, as other rules name them count=%s such_as=%s", len(left), min(left))
    return True
