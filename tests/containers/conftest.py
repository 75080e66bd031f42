"""Fixtures of this directory."""

from collections.abc import Iterator

import pytest

from tests.containers.engine import Engine
from tests.harness.minion import Minion
from tests.harness.stage import minion

__all__ = ["engine", "minion"]


@pytest.fixture
def engine(minion: Minion) -> Iterator[Engine]:
    with Engine(minion, minion.root / "engine") as made:
        yield made
