"""docs/connections.md is held to the program: each feature's module exists, and so do the tests that show it."""

import re
from pathlib import Path

import pytest

from svcnet.codec.annotations import RULES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "connections.md").read_text()
TABLE = PAGE.partition("## Feature by feature")[2]
LINES = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.endswith("| shown by |")]
NOT_OF_CONNECTIONS = {"proxy", "balance", "weight", "weights", "ttl"}
"""Which way connections go, and names; `balance` is there by its values."""


def defined() -> set[str]:
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


TESTS = defined()


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_every_feature_has_a_module_and_a_test_that_shows_it_or_is_said_not_to_be_there(line: str) -> None:
    _, what, modules, shown = (cell.strip() for cell in line.strip("|").split("|"))
    if what.startswith("none"):
        assert not modules + shown
        return
    paths, tests = re.findall(r"`([^`]+)`", modules), re.findall(r"`([^`]+)`", shown)
    assert paths
    assert tests
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    assert set(tests) <= TESTS


@pytest.mark.parametrize("name", sorted(RULES.keys() - NOT_OF_CONNECTIONS))
def test_every_annotation_of_connections_is_a_feature(name: str) -> None:
    assert re.search(rf"`{name}[`:]", TABLE)
