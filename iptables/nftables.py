"""The nftables data path: plans in, commits out; reads the kernel at start and after an error only.

Owns: when to read, install, grow and commit. The kernel itself is behind `Kernel`; `fake.py` has one that behaves.
"""

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from svcnet.iptables.adoption import READ_BACK, adopt
from svcnet.iptables.classes import FIRST_CODES, class_chain, codes_of, with_neighbours
from svcnet.iptables.desired import Desired, Treatment
from svcnet.iptables.elements import Op
from svcnet.iptables.held import Phases, Unit
from svcnet.iptables.netlink import MendedError, NetlinkError
from svcnet.iptables.nft_text import schema_name
from svcnet.iptables.ruleset import DISPATCH, LEAK_GUARD, SOURCE_RANGES, Parameters, base_chains
from svcnet.iptables.shadow import Shadow
from svcnet.model.frontend import Frontend
from svcnet.plan import Plan, diff

log = logging.getLogger(__name__)

MOST_ASKED = 2_000
"""Keys of a failed commit that are asked for one by one, 20 µs each; a longer one is a matter for `sync`."""
COMMIT_OPS = 30_000
"""Operations a commit at most: the kernel holds its lock for the length of one (~40 ms at this size)."""
CREATES = 2_000
"""Frontends at once of a plan that only adds, as the first one does."""


class Kernel(Protocol):
    """One network namespace's nftables. Errors: KernelError, NotPermittedError."""

    def chains(self, family: int) -> Mapping[str, int]:
        """Our table's chains, and how many rules each has; empty without a table."""
        ...

    def dump(self, family: int, table: str) -> list[tuple[bytes, bytes]]:
        """Every (key, data) of a map."""
        ...

    def get(self, family: int, table: str, key: bytes) -> bytes | None:
        """The data of one element; None without it."""
        ...

    def install(
        self, parameters: Parameters, codes: Iterable[int], ops: Sequence[Op] = (), *, replace: bool = False
    ) -> None:
        """Make (or replace, in one commit) the table."""
        ...

    def grow(self, parameters: Parameters, codes: Iterable[int]) -> None:
        """Add class chains."""
        ...

    def commit(self, ops: Sequence[Op]) -> None:
        """All or nothing."""
        ...

    def silence(self, family: int, chains: Iterable[str]) -> None:
        """Empty chains of the table."""
        ...

    def settle(self) -> None:
        """Wait until no packet is in rules that are gone: it still sees their elements as they are now."""
        ...

    def remove(self, family: int) -> None:
        """Delete the table."""
        ...

    def strangers(self) -> int:
        """How many transactions were not ours, in all nftables of the namespace, since it was first asked."""
        ...


class Nftables:
    """Translation by table `svcnet`, one shadow a family."""

    name = "nftables"

    def __init__(self, kernel: Kernel, parameters: Sequence[Parameters], commit_ops: int = COMMIT_OPS) -> None:
        self._kernel = kernel
        self._parameters = {p.family: p for p in parameters}
        self._commit_ops = commit_ops
        self._shadows: dict[int, Shadow] = {}
        self._chains: dict[int, set[int]] = {}
        self._garbage: list[Op] = []
        self._strangers = 0
        self._mended: MendedError | None = None

    def changed_by_others(self) -> bool:
        """Whether anybody else has changed nftables in this namespace since the last call: time to `sync`."""
        before, self._strangers = self._strangers, self._kernel.strangers()
        return self._strangers != before

    def read(self, desired: Desired) -> Desired:
        """Read the kernel back, make the table where there is none; the current state in the plan's terms.

        O(everything): at start and after a KernelError. A table of another schema, or that lost rules, counts as
        empty and stays in force until the next `apply` replaces it.
        """
        current: Desired = {}
        self._garbage = []
        self._strangers = self._kernel.strangers()  # whoever comes after this has changed what is read now
        for family, parameters in self._parameters.items():
            chains = self._kernel.chains(family)
            if chains and not _is_whole(parameters, chains):
                self._shadows[family], self._chains[family] = Shadow(family), set()
                continue
            if not chains:
                self._kernel.install(parameters, sorted(FIRST_CODES))
            self._chains[family] = codes_of(chains) or set(FIRST_CODES)
            dumps = {t: self._kernel.dump(family, t) if chains else [] for t in READ_BACK}
            mine = {f: t for f, t in desired.items() if f.family == family}
            adopted = adopt(family, dumps, mine)
            self._shadows[family] = adopted.shadow
            self._garbage += adopted.garbage
            current |= adopted.current
        return current

    def look(self, desired: Desired) -> Desired:
        """What `read` returns, writing nothing: for `svcnet plan`."""
        current: Desired = {}
        for family, parameters in self._parameters.items():
            if _is_whole(parameters, self._kernel.chains(family)):
                dumps = {t: self._kernel.dump(family, t) for t in READ_BACK}
                current |= adopt(family, dumps, {f: t for f, t in desired.items() if f.family == family}).current
        return current

    def sync(self, desired: Desired) -> Plan[Frontend, Treatment]:
        """Make the kernel equal to `desired`, whatever it held."""
        plan = diff(self.read(desired), desired)
        self.apply(plan)
        for family in {4, 6} - self._parameters.keys():  # the family that the service CIDR has no more
            if self._kernel.chains(family):
                self._kernel.remove(family)
        return plan

    def apply(self, plan: Plan[Frontend, Treatment]) -> int:
        """Carry a plan out; return the number of element operations.

        MendedError: it is in force, and somebody else had changed some of its keys. After any other KernelError call
        `sync`.
        """
        count, self._mended = 0, None
        garbage, self._garbage = self._garbage, []
        for family, parameters in self._parameters.items():
            shadow = self._shadows[family]
            changes = [c for c in plan.changes() if c.key.family == family]
            if not self._chains[family]:
                count += self._replace(parameters, shadow, shadow.operations(changes))
                continue
            mine = [(op,) for op in garbage if op.family == family]
            # Creates need not wait for one another; the operations of all of them would be most of a start's memory.
            step = CREATES if len(changes) == len(plan.creates) else len(changes)
            for at in range(0, max(len(changes), 1), max(step, 1)):
                phases = shadow.operations(changes[at : at + step])
                self._grow(parameters, shadow.codes)
                # A packet looks up a number of slots, an id and a slot, one after the other: one that is on its way
                # when a commit lands must still find what it was sent to, so what nobody leads to goes in the next.
                for units in ([*mine, *phases.leading()], phases.leftovers):
                    for batch in batches(units, self._commit_ops):
                        self._commit(batch)
                        count += len(batch)
                mine = []
        if self._mended is not None:
            raise self._mended
        return count

    def _commit(self, batch: list[Op]) -> None:
        """Where keys are not as we left them, ask for those of this batch, and write what they lack."""
        try:
            self._kernel.commit(batch)
        except NetlinkError as error:
            keyed = len(batch) <= MOST_ASKED and all(op.table != SOURCE_RANGES for op in batch)
            if error.code not in {errno.ENOENT, errno.EEXIST} or not keyed:
                raise
            ops, wrong = self._put_right(batch)
            if not wrong:
                raise  # then it was not the keys: a rule or a map is gone
            self._kernel.commit(ops)
            self._mended = MendedError(error.code, wrong + (self._mended.keys if self._mended else 0))

    def _put_right(self, batch: list[Op]) -> tuple[list[Op], int]:
        """The operations that lead to the same end from what is there; for how many keys they differ."""
        first: dict[tuple[int, str, bytes], Op] = {}
        last: dict[tuple[int, str, bytes], Op] = {}
        for op in batch:
            first.setdefault((op.family, op.table, op.key), op)
            last[op.family, op.table, op.key] = op
        ops: list[Op] = []
        wrong = 0
        for where, op in last.items():
            there = self._kernel.get(*where)
            wrong += (there is None) == first[where].delete
            if there is not None and (op.delete or there != op.data):
                ops.append(Op(*where, delete=True))
            if not op.delete and there != op.data:
                ops.append(op)
        return ops, wrong

    def track(self) -> bool:
        """Where there is no table, make one that drops and translates nothing: the kernel tracks connections for it.

        The first sync replaces it in one commit. Return whether one was missing.
        """
        missing = [family for family in self._parameters if not self._kernel.chains(family)]
        for family in missing:
            self._kernel.install(Parameters(family), ())
        return bool(missing)

    def silence(self) -> bool:
        """Translate no new connection, and go on with those that are; False where there is no table of ours.

        Its other rules stay: it is for them that the kernel tracks and translates connections at all.
        """
        there = {family: chains for family in (4, 6) if (chains := self._kernel.chains(family))}
        for family, chains in there.items():
            self._kernel.silence(family, [name for name in (DISPATCH, LEAK_GUARD) if name in chains])
        return bool(there)

    def remove(self) -> bool:
        """Delete our tables; whether there were any.

        Nobody is led into them before that: a packet between two look-ups would find the second map empty, and refuse.
        """
        if not self.silence():
            return False
        self._kernel.settle()
        for family in (4, 6):
            if self._kernel.chains(family):
                self._kernel.remove(family)
        return True

    def _replace(self, parameters: Parameters, shadow: Shadow, phases: Phases) -> int:
        """A table that is not as it should be, and all it translates, give way in one commit: no moment without."""
        codes = with_neighbours(shadow.codes) | FIRST_CODES
        ops = [op for unit in phases.units() for op in unit]
        log.info(
            "replaced a table of another schema or without its rules family=%s elements=%s", parameters.family, len(ops)
        )
        self._kernel.install(parameters, sorted(codes), ops, replace=True)
        self._chains[parameters.family] = codes
        return len(ops)

    def _grow(self, parameters: Parameters, codes: set[int]) -> None:
        there = self._chains[parameters.family]
        if not codes <= there:
            missing = with_neighbours(codes - there) - there
            self._kernel.grow(parameters, sorted(missing))
            there |= missing


def batches(units: Iterable[Unit], limit: int) -> Iterator[list[Op]]:
    """Operations in order, at most `limit` a batch; what belongs together is not split."""
    batch: list[Op] = []
    for unit in units:
        if batch and len(batch) + len(unit) > limit:
            yield batch
            batch = []
        batch += unit
    if batch:
        yield batch


def _is_whole(parameters: Parameters, chains: Mapping[str, int]) -> bool:
    """Whether a table has our schema and all of its rules."""
    wanted = (*base_chains(parameters), *(class_chain(parameters, code) for code in codes_of(chains)))
    return schema_name(parameters) in chains and all(chains.get(c.name) == len(c.rules) for c in wanted)
