"""The checkpoint: what was saved comes back whole, or not at all."""

from pathlib import Path

import pytest

from svcnet import checkpoint
from svcnet.bench.world import records


@pytest.mark.parametrize("services", [0, 1, 100, 250])
def test_what_was_saved_comes_back_in_its_order(tmp_path: Path, services: int) -> None:
    saved = tuple(records(services, 3))
    checkpoint.save(tmp_path / "checkpoint", 17, saved, 1.5)
    found = checkpoint.load(tmp_path / "checkpoint")
    assert found == checkpoint.Checkpoint(17, 1.5, saved)


def test_one_that_is_cut_off_anywhere_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint.save(path, 17, records(150, 1), 1.5)
    whole = path.read_bytes()
    for size in (*range(64), len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert checkpoint.load(path) is None, size


def test_one_of_another_schema_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "checkpoint", 17, records(1, 1), 1.5)
    monkeypatch.setattr(checkpoint, "SCHEMA", checkpoint.SCHEMA + 1)
    assert checkpoint.load(tmp_path / "checkpoint") is None
