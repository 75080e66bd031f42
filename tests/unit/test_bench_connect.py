"""The connect suite: its arithmetic and options, a connect over loopback, and one short run as a user makes it."""

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from svcnet.bench import connect
from svcnet.bench.connect import Figures
from svcnet.bench.server import listener

RUN = Path(__file__).parents[2] / "bench" / "run.py"


def test_ratios_are_to_direct_and_to_the_own_address_of_the_same_round() -> None:
    base = [Figures(10e-6, 20e-6, 10e-6, 20e-6), Figures(20e-6, 40e-6, 20e-6, 40e-6)]
    mine = [Figures(15e-6, 40e-6, 10e-6, 40e-6), Figures(20e-6, 40e-6, 10e-6, 20e-6)]
    direct, nftables = connect.lines(1000, {"direct": base, "nftables": mine})
    assert direct.split() == ["1000", "direct", "15.0", "1", "1", "30.0", "1", "1"]
    assert nftables.split()[:6] == ["1000", "nftables", "17.5", "1.25", "(1.00-1.50)", "1.75"]
    assert nftables.split()[7:] == ["40.0", "1.50", "(1.00-2.00)", "1.50", "(1.00-2.00)"]


@pytest.mark.parametrize("wrong", ["--sizes=0", "--sizes=100000", "--paths=ipvs", "--paths=direct", "--rounds=0"])
def test_options_out_of_range_are_usage_errors(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        connect.parser().parse_args([wrong])
    assert wrong.partition("=")[0] in capsys.readouterr().err


def test_each_connection_is_timed_until_it_stands_and_then_used() -> None:
    said: list[bytes] = []

    def serve() -> None:
        with closing(door.accept()[0]) as one:
            said.append(one.recv(1))
            one.sendall(b"\0")

    with closing(listener(0)) as door:
        door.setblocking(True)
        thread = threading.Thread(target=serve)
        thread.start()
        times = connect.handshakes(("127.0.0.1", door.getsockname()[1]), 1e-9)
        thread.join()
    assert len(times) == 1
    assert said == [b"\0"]


@pytest.mark.kernel
def test_a_run_prints_a_row_for_each_path_at_each_size() -> None:
    options = ["--sizes=1,20", "--paths=nftables", "--rounds=2", "--seconds=0.02"]
    done = subprocess.run(
        [sys.executable, RUN, "--suite=connect", *options], capture_output=True, text=True, check=True
    )
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line.split()[0].isdigit()]
    assert rows == [["1", "direct"], ["1", "nftables"], ["20", "direct"], ["20", "nftables"]]
