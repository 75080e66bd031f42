"""docs/services.md is held to the packet table and the tests: what it names exists, and no line is without proof."""

import re
from pathlib import Path

import pytest

from tests.flows import rows_service
from tests.flows.rows import FLOWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "services.md").read_text()
ROWS = {flow.name for flow in (*FLOWS, *rows_service.SERVICE_FLOWS)}
TABLES = ("NODE_PORTS", "EXTERNAL_LOCAL", "INTERNAL_LOCAL", "EXTERNAL", "STICKY", "TOPOLOGY", "SELECTED", "ODD")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.endswith("| shown by |")]


def defined() -> set[str]:
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


def shown_by(line: str) -> list[str]:
    return re.findall(r"`([^`]+)`", line.rstrip("| ").rpartition(" | ")[2])


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("|")[1].strip())
def test_every_line_is_shown_by_rows_or_tests_that_exist(line: str) -> None:
    assert line.count(" | ") == 2
    assert shown_by(line)
    assert not set(shown_by(line)) - ROWS - defined()


@pytest.mark.parametrize("table", TABLES)
def test_each_table_of_rows_has_some_on_the_page(table: str) -> None:
    named = {name for line in LINES for name in shown_by(line)}
    assert named & {flow.name for flow in getattr(rows_service, table)}
