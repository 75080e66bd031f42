"""The serial rises with every change, whatever becomes of the store and the daemon."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from svcnet.cli.name_service import NameService
from svcnet.config import load
from svcnet.model.meta import Key
from svcnet.model.snapshot import Delta, Snapshot

CHANGED = (Key("Namespace", "", "shop"),)


def no_file(path: Path) -> bytes:
    """Nothing but flags counts."""
    raise FileNotFoundError(path)


class Told(NameService):
    """A daemon's DNS before its workers run: `serial` is what they would be told."""

    @property
    def serial(self) -> int:
        assert self._snapshot is not None
        return self._snapshot.rev & 0xFFFFFFFF

    def at(self, rev: int, changed: bool = True) -> int:
        """Hand a revision on; the serial then."""
        self.publish(structs.replace(Snapshot(), rev=rev), Delta(rev, census=CHANGED if changed else ()))
        return self.serial


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], Told]:
    """Start a daemon's DNS on one state directory."""
    flags = {"state_dir": str(tmp_path / "state"), "dns_listen": "off"}
    return lambda: Told(load(flags, {}, "m1", no_file), lambda _: None)


def test_it_is_the_revision_where_that_rises(started: Callable[[], Told]) -> None:
    told = started()
    begin = told.at(1)
    assert [told.at(begin + step) for step in (3, 4, 900)] == [begin + 3, begin + 4, begin + 900]
    assert told.at(begin + 950, changed=False) == begin + 900


def test_it_rises_where_the_revision_does_not_as_of_an_etcd_restored_from_a_backup(started: Callable[[], Told]) -> None:
    told = started()
    begin = told.at(1)
    high = told.at(begin + 500)
    assert [told.at(rev) for rev in (begin + 500, 17, 18, 18)] == [high + 1, high + 2, high + 3, high + 4]


def test_it_rises_over_restarts(started: Callable[[], Told]) -> None:
    last = 0
    for _ in range(3):
        told = started()  # the one before ended without a word
        serials = [told.at(rev) for rev in (5, 5, 6)]
        assert last < serials[0] < serials[1] < serials[2]
        last = serials[2]
    assert started().at(last + 100_000) == last + 100_000


def test_a_revision_far_ahead_does_not_look_like_one_before(started: Callable[[], Told]) -> None:
    told = started()
    begin = told.at(1)
    assert told.at(begin + (1 << 33)) == begin + 1


def test_it_is_never_0_where_it_begins_again(started: Callable[[], Told], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "serial").write_text(str((1 << 32) - 3))
    told = started()
    assert [told.at(rev) for rev in (1, 1, 1 << 32, 1)] == [(1 << 32) - 2, (1 << 32) - 1, 1, 2]
    assert started().at(1) > 2
