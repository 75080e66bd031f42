"""What the trees held at earlier serials, as far back as there is room. Pure.

Owns: the last changes, as what they replaced; which serial each led away from. Must not know zones or records' meaning.

A tree replaces what stands under an owner, so that a step holds references alone and costs what changed.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from svcnet.dns.tree import RRsets, Tree

MOST_STEPS = 4096
MOST_RECORDS = 100_000
MOST_BYTES = 8 << 20
"""Of all steps, about; beyond any of these the oldest go."""
_STEP_BYTES, _OWNER_BYTES, _RECORD_BYTES = 600, 250, 200
FREED = 20
"""Owners whose past is given up at a time."""

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
        self._over: deque[Step] = deque()
        """What is no longer kept, but takes long to free."""

    def begin(self) -> None:
        """Keep what is replaced from now on."""
        for tree in self._trees:
            tree.note()

    def end(self, old: int, new: int) -> None:
        """What changed since the last end led from serial `old` to `new`."""
        changed = [tree for tree in self._trees if tree.before]
        records = sum(tree.noted for tree in changed)
        before = tuple((tree, tree.before) for tree in changed if tree.before)
        for tree in changed:
            tree.note()
        if old != new:
            owners = sum(len(those) for _, those in before)
            size = _STEP_BYTES + _OWNER_BYTES * owners + _RECORD_BYTES * records
            self._steps.append(Step(old, before, owners + records, size))
            self._records += owners + records
            self._bytes += size
        if self._steps and (self._steps[-1].records > MOST_RECORDS or self._steps[-1].bytes > MOST_BYTES):
            self._over += self._steps
            self._steps, self._records, self._bytes = deque(), 0, 0
        while len(self._steps) > MOST_STEPS or self._records > MOST_RECORDS or self._bytes > MOST_BYTES:
            gone = self._steps.popleft()
            self._records -= gone.records
            self._bytes -= gone.bytes
            self._over.append(gone)

    def tidy(self) -> Iterator[None]:
        """Free what is no longer kept, in small steps: a load's would hold answers up for milliseconds."""
        freed = 0
        while self._over:
            for _, owners in self._over.popleft().before:
                while owners:
                    owners.popitem()
                    freed += 1
                    if freed % FREED == 0:
                        yield

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
