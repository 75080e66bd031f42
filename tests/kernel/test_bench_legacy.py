"""The suite that ADR 0009 stands on, in a small: it measures both ways on the same tables and leaves no rule."""

import pytest

from svcnet.bench import legacy
from tests.harness.minion import Minion


@pytest.mark.kernel
@pytest.mark.needs("iptables")
def test_restore_and_libiptc_change_the_same_tables_and_nothing_stays(
    minion: Minion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(legacy, "SIZES", (2, 5))
    monkeypatch.setattr(legacy, "CHAINS", 3)
    monkeypatch.setattr(legacy, "ROUNDS", 2)
    minion.inside(legacy.main)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:3]] == ["2", "5"]
    assert [line.partition(" µs for ")[2] for line in printed if " µs for " in line] == list(legacy.KINDS)
    assert "SVCNET" not in minion.run("iptables-legacy-save").stdout
