"""What the trees held at earlier serials, as far back as there is room. Pure.

Owns: the last changes, as what they replaced; which serial each led away from. Must not know zones or records' meaning.

A tree replaces what stands under an owner, so that a step holds references alone and costs what changed.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from svcnet.dns.tree import RRsets, Tree

MOST_STEPS = 4096
MOST_RECORDS = 100_000
MOST_BYTES = 8 << 20
"""Of all steps, about; beyond any of these the oldest go."""
_STEP_BYTES, _OWNER_BYTES, _RECORD_BYTES = 600, 120, 150

Past = dict[Tree, dict[bytes, RRsets]]
"""Tree → owner → what it had then, for the owners that are different now; {} for nothing."""


Before = tuple[tuple[Tree, dict[bytes, RRsets]], ...]


class Step(NamedTuple):
    """One change: what it replaced, and the serial that it led away from."""

    serial: int
    before: Before
    records: int
    bytes: int


class Journal:
    """The steps of some trees. Nothing is kept before `begin`."""

    def __init__(self, trees: Sequence[Tree]) -> None:
        self._trees = trees
        self._steps: deque[Step] = deque()
        self._records = 0
        self._bytes = 0

    def begin(self) -> None:
        """Keep what is replaced from now on."""
        for tree in self._trees:
            tree.before = {}

    def end(self, old: int, new: int) -> Before:
        """What changed since the last end led from serial `old` to `new`; return it as it was."""
        before = tuple((tree, tree.before) for tree in self._trees if tree.before)
        for tree, _ in before:
            tree.before = {}
        if old != new:
            self._steps.append(_step(old, before))
            self._records += self._steps[-1].records
            self._bytes += self._steps[-1].bytes
        while len(self._steps) > MOST_STEPS or self._records > MOST_RECORDS or self._bytes > MOST_BYTES:
            gone = self._steps.popleft()
            self._records -= gone.records
            self._bytes -= gone.bytes
        return before

    def now(self) -> Past:
        """The past that is the current serial: other than the trees themselves while a change comes in parts."""
        return {tree: tree.before or {} for tree in self._trees}

    def since(self, serial: int) -> Past | None:
        """The past at an earlier serial; None: it is too old, or never was."""
        found = {tree: dict(tree.before or {}) for tree in self._trees}
        for step in reversed(self._steps):
            for tree, owners in step.before:
                found[tree].update(owners)
            if step.serial == serial:
                return Past(found)
        return None


def later(one: int, other: int) -> bool:
    """Whether a serial comes after another (RFC 1982 §3.2); of larger numbers the low 32 bits count."""
    return 0 < (one - other) & 0xFFFFFFFF < 1 << 31


def _step(serial: int, before: Before) -> Step:
    owners = records = size = 0
    for _, those in before:
        owners += len(those)
        for rrsets in those.values():
            for rrs in rrsets.values():
                records += len(rrs)
                size += sum(len(rr.data) for rr in rrs)
    return Step(serial, before, owners + records, _STEP_BYTES + _OWNER_BYTES * owners + _RECORD_BYTES * records + size)
