"""What was read back of table `svcnet` → a table that the tracer can walk. Pure.

Owns: the trust in rules: a chain with as many rules as we write has ours, an empty one has none, and of any other the
tracer says that it can't be told. Elements are taken as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from svcnet.iptables.adoption import Dump
from svcnet.iptables.classes import class_chain, class_of, codes_of, fixed_codes
from svcnet.iptables.elements import unnumber
from svcnet.iptables.fake import FakeTable
from svcnet.iptables.nft_text import SCHEMA_PREFIX, schema_name
from svcnet.iptables.ruleset import (
    AFFINITY,
    CHAINS,
    CLUSTER_CIDR,
    INNER,
    SERVICE_CIDR,
    SOURCE_RANGES,
    TABLES,
    Parameters,
    base_chains,
)
from svcnet.model.errors import KernelError

READ = tuple(t.name for t in TABLES if t.name != AFFINITY)
"""Maps and sets to dump. Of the clients' notes, which may be a million, one is asked for (note.py)."""


@dataclass(frozen=True)
class Foreign:
    """In place of rules that somebody else changed."""

    chain: str
    there: int
    ours: int

    def __str__(self) -> str:
        """What the tracer says of it."""
        return f"somebody else changed chain {self.chain}: it has {self.there} rules, we wrote {self.ours}"


def table_of(parameters: Parameters, chains: Mapping[str, int], dumps: Mapping[str, Dump]) -> FakeTable:
    """Put it together; `chains` has the number of rules of each. KernelError: the rules are not of this schema."""
    wanted = schema_name(parameters)
    if wanted not in chains:
        schema = next((name for name in sorted(chains) if name.startswith(SCHEMA_PREFIX)), "none")
        raise KernelError(
            f"table svcnet has {schema}, expected {wanted}: it was made by another version, or with another"
            " --service-cidr, --cluster-cidr, --masquerade-all or --masquerade-bit"
        )
    table = FakeTable(maps={name: dict(dump) for name, dump in dumps.items()})
    table.maps[AFFINITY] = {}
    # An interval comes as its first key and its last; in one element, as the tracer has them.
    table.maps[SOURCE_RANGES] = {first + last: b"" for first, last in dumps[SOURCE_RANGES]}
    for name in (SERVICE_CIDR, CLUSTER_CIDR):
        cidrs = parameters.service_cidrs if name == SERVICE_CIDR else parameters.cluster_cidrs
        table.networks[name] = cidrs if table.maps.pop(name, None) else ()
    for chain in (*base_chains(parameters), *(class_chain(parameters, code) for code in codes_of(chains))):
        there = chains.get(chain.name)
        if there is None:
            continue
        rules = chain.rules if there == len(chain.rules) else ()
        if there not in {0, len(chain.rules)}:
            rules = ((Foreign(chain.name, there, len(chain.rules)),),)  # type: ignore[assignment]  # no rule of ours
        table.chains[chain.name] = replace(chain, rules=rules)
    for name, inner in ((CHAINS, False), (INNER, True)):
        # A verdict is not read back: where a code leads is in its own name.
        fixed = dict(fixed_codes(inner=inner))
        table.maps[name] = {key: _chain(unnumber(key), fixed).encode() for key in table.maps[name]}
    return table


def _chain(code: int, fixed: Mapping[int, str]) -> str:
    found = class_of(code)
    return fixed.get(code) or (found.chain() if found else f"unknown class {code:#x}")
