"""Fixtures of this directory."""

from collections.abc import Iterator

import pytest

from tests.proxy.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made
