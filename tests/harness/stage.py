"""The fixture that the tests of the daemon stand on; conftest.py of a directory imports it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.minion import Minion

_numbers = itertools.count()


@pytest.fixture
def minion(tmp_path: Path) -> Iterator[Minion]:
    with Minion(f"minion-{next(_numbers)}", tmp_path) as made:
        yield made
