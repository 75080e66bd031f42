"""What the documents say is what the program has."""

import json
import re
from pathlib import Path

import pytest

from svcnet.cli.main import COMMANDS
from svcnet.config import OPTIONS
from svcnet.dns.ledger import Ledger
from svcnet.prober import Prober
from svcnet.proxy.userspace import Userspace
from svcnet.status.exposition import Exposition
from svcnet.status.metrics import Metrics
from svcnet.status.report import Report
from svcnet.traffic import Traffic

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = (ROOT / "docs" / "contract.md").read_text()
PAGES = sorted(path for path in ROOT.glob("**/*.md") if not {".venv", ".git"} & set(path.relative_to(ROOT).parts))


@pytest.mark.parametrize("flag", [option.flag for option in OPTIONS])
def test_the_contract_names_every_option(flag: str) -> None:
    assert re.search(rf"{flag}\b(?!-)", CONTRACT)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_contract_names_every_command(command: str) -> None:
    assert re.search(rf"[`|]{command}[` |]", CONTRACT)


def metric_names() -> set[str]:
    metrics = Metrics()
    metrics.traffic = Traffic()
    metrics.traffic.bytes_known = metrics.traffic.is_proxied = True
    metrics.dns = Ledger()
    metrics.proxy = Userspace(())
    metrics.checks = Prober(lambda _: (), lambda _: None, lambda _: None)
    text = Exposition(metrics, lambda: Report(node="m1", mode="none")).render("")[0].decode()
    metrics.proxy.stop()
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE svcnet_")}


def test_the_contract_lists_the_metrics_that_are_served() -> None:
    table = CONTRACT.partition("### Metrics")[2].partition("\n### ")[0]
    listed = {name for row in re.findall(r"^\| (`svcnet_.*?) \|", table, re.MULTILINE) for name in _names(row)}
    assert listed == metric_names()


def _names(row: str) -> list[str]:
    return [name.partition("{")[0] for name in re.findall(r"`([^`]+)`", row)]


def test_the_contract_lists_every_field_of_status() -> None:
    assert not [field for field in Report.__struct_fields__ if f"`{field}`" not in CONTRACT]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_that_a_page_names_exist(page: Path) -> None:
    """A name of ours is a metric when it ends as one; variables are in capitals."""
    named = set(re.findall(r"\bsvcnet_[a-z_]+_(?:total|seconds|info|connected|revision)\b", page.read_text()))
    assert named <= metric_names()


def test_records_in_the_readme_are_records() -> None:
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"<<'POD'\n(.*?)\nPOD", text, re.DOTALL)
    assert [json.loads(record)["kind"] for record in found] == ["Pod"]
