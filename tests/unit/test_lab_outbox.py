"""Records on their way: a store that is away, one that refuses, and states that are overtaken."""

import asyncio
from collections.abc import Callable

import pytest

from svcnet.lab import outbox
from svcnet.lab.outbox import Outbox
from svcnet.model.errors import ConflictError, StoreError
from svcnet.model.meta import Key, Meta
from svcnet.model.pod import Pod
from svcnet.model.record import Record


class Shelf:
    """A store that keeps records, may be away for a while, and refuses one name."""

    def __init__(self, away: int = 0, error: type[Exception] = StoreError) -> None:
        self.away, self.error = away, error
        self.held: dict[Key, Record] = {}
        self.writes = 0

    def put(self, *records: Record, create: bool = False) -> tuple[Record, ...]:
        assert not create
        self._reached()
        if any(record.meta.name == "refused" for record in records):
            raise ConflictError("refused")
        self.held |= {record.key: record for record in records}
        return records

    def delete(self, *keys: Key) -> tuple[Key, ...]:
        self._reached()
        return tuple(key for key in keys if self.held.pop(key, None))

    def _reached(self) -> None:
        self.writes += 1
        if self.away:
            self.away -= 1
            raise self.error("away")


def pod(name: str, phase: str = "Pending") -> Pod:
    return Pod(Meta(name, "default"), phase=phase)


def sent(shelf: Shelf, fill: Callable[[Outbox], None], until: Callable[[], bool]) -> list[str]:
    """Run an outbox until a condition holds; return what it said."""
    said: list[str] = []

    async def run() -> None:
        box = Outbox(shelf, said.append)
        fill(box)
        running = asyncio.create_task(box.run())
        async with asyncio.timeout(30):
            while not until():  # noqa: ASYNC110 - a condition of the test, which has no event
                await asyncio.sleep(0.001)
        running.cancel()

    asyncio.run(run())
    return said


def test_the_last_state_of_a_record_is_written_once() -> None:
    shelf = Shelf()

    def fill(box: Outbox) -> None:
        box.put(pod("a"))
        box.put(pod("b"))
        box.delete(pod("b").key)
        box.put(pod("a", "Running"))

    assert sent(shelf, fill, lambda: bool(shelf.held)) == ["records deleted keys=Pod default/b"]
    assert shelf.held == {pod("a").key: pod("a", "Running")}


@pytest.mark.parametrize("error", [StoreError, OSError])
def test_a_store_that_is_away_gets_it_later(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.01)
    shelf = Shelf(away=2, error=error)
    said = sent(shelf, lambda box: box.put(pod("a")), lambda: bool(shelf.held))
    assert len([line for line in said if line.startswith("store away")]) == 2


def test_a_record_that_is_refused_does_not_keep_the_others() -> None:
    shelf = Shelf()

    def fill(box: Outbox) -> None:
        for name in ("a", "refused", "b"):
            box.put(pod(name))

    assert sent(shelf, fill, lambda: len(shelf.held) == 2) == ["record refused error=refused"]


def test_without_a_store_nothing_is_kept() -> None:
    said: list[str] = []
    box = Outbox(None, said.append)
    box.put(pod("a"))
    box.delete(pod("a").key)
    assert said == []
