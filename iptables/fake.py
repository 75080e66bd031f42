"""A kernel in memory that behaves: for tests, and for asking what would happen.

Owns: table `svcnet` as the real one keeps it (maps of bytes, chains of statements), with the same errors. A commit
works on a copy and takes effect whole or not at all.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from svcnet.iptables.classes import class_chain, fixed_codes
from svcnet.iptables.elements import Op, number
from svcnet.iptables.netlink import NetlinkError
from svcnet.iptables.nft_text import schema_name
from svcnet.iptables.ruleset import (
    CHAINS,
    CLUSTER_CIDR,
    INNER,
    SERVICE_CIDR,
    TABLES,
    Chain,
    Parameters,
    base_chains,
)

Elements = dict[bytes, bytes]


@dataclass
class FakeTable:
    """One family's table."""

    chains: dict[str, Chain] = field(default_factory=dict)
    maps: dict[str, Elements] = field(default_factory=dict)
    networks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The interval sets, as CIDRs."""

    def copy(self) -> "FakeTable":
        """A table that can be changed without changing this one."""
        return FakeTable(dict(self.chains), {name: dict(m) for name, m in self.maps.items()}, dict(self.networks))

    def change(self, op: Op) -> None:
        """Carry out one operation; NetlinkError as the kernel has it."""
        elements = self.maps.get(op.table)
        if elements is None:
            raise NetlinkError(errno.ENOENT)
        if op.delete:
            if op.key not in elements:
                raise NetlinkError(errno.ENOENT)
            del elements[op.key]
        elif elements.setdefault(op.key, op.data) != op.data:
            raise NetlinkError(errno.EEXIST)


class FakeKernel:
    """Both families' tables. `log` has every commit; `fail_after` makes the commit after that many fail (a crash)."""

    def __init__(self) -> None:
        self.tables: dict[int, FakeTable] = {}
        self.log: list[tuple[Op, ...]] = []
        self.reads = 0
        self.fail_after: int | None = None
        self.others = 0
        """Transactions of somebody else: a test that acts as one counts itself here."""

    def chains(self, family: int) -> Mapping[str, int]:
        """Chains and how many rules each has; empty without a table."""
        table = self.tables.get(family)
        return {name: len(chain.rules) for name, chain in table.chains.items()} if table else {}

    def dump(self, family: int, table: str) -> list[tuple[bytes, bytes]]:
        """Elements of one map."""
        self.reads += 1
        return list(self._table(family).maps[table].items())

    def get(self, family: int, table: str, key: bytes) -> bytes | None:
        """One element."""
        return self._table(family).maps[table].get(key)

    def install(
        self, parameters: Parameters, codes: Iterable[int], ops: Sequence[Op] = (), *, replace: bool = False
    ) -> None:
        """Make or replace the table."""
        if parameters.family in self.tables and not replace:
            raise NetlinkError(errno.EEXIST)
        table = FakeTable(maps={t.name: {} for t in TABLES if not t.interval})
        table.networks = {SERVICE_CIDR: parameters.service_cidrs, CLUSTER_CIDR: parameters.cluster_cidrs}
        for chain in (*base_chains(parameters), Chain(schema_name(parameters), ())):
            table.chains[chain.name] = chain
        for name, inner in ((CHAINS, False), (INNER, True)):
            table.maps[name] = {number(code): chain.encode() for code, chain in fixed_codes(inner=inner)}
        _grow(table, parameters, codes)
        self._carry_out(table, ops)
        self.tables[parameters.family] = table

    def grow(self, parameters: Parameters, codes: Iterable[int]) -> None:
        """Add class chains."""
        _grow(self._table(parameters.family), parameters, codes)

    def commit(self, ops: Sequence[Op]) -> None:
        """All or nothing, over both families."""
        copies = {family: self._table(family).copy() for family in {op.family for op in ops}}
        for family, copy in copies.items():
            self._carry_out(copy, [op for op in ops if op.family == family])
        if self.fail_after is not None and len(self.log) >= self.fail_after:
            raise NetlinkError(errno.EIO)
        self.tables |= copies
        self.log.append(tuple(ops))

    def silence(self, family: int, chains: Iterable[str]) -> None:
        """Empty these chains."""
        table = self._table(family)
        for name in chains:
            table.chains[name] = replace(table.chains[name], rules=())

    def settle(self) -> None:
        """Packets are through at once here."""

    def remove(self, family: int) -> None:
        """Delete the table."""
        del self.tables[family]

    def strangers(self) -> int:
        """Transactions that were not ours."""
        return self.others

    def networks(self, family: int, name: str) -> tuple[object, ...]:
        """An interval set as ip_network objects."""
        return tuple(ip_network(n) for n in self._table(family).networks.get(name, ()))

    def _table(self, family: int) -> FakeTable:
        if family not in self.tables:
            raise NetlinkError(errno.ENOENT)
        return self.tables[family]

    @staticmethod
    def _carry_out(table: FakeTable, ops: Iterable[Op]) -> None:
        for op in ops:
            table.change(op)


def _grow(table: FakeTable, parameters: Parameters, codes: Iterable[int]) -> None:
    for code in codes:
        chain = class_chain(parameters, code)
        table.chains[chain.name] = chain
        for name in (CHAINS, INNER):
            table.maps[name][number(code)] = chain.name.encode()
