"""The load suite's arithmetic, text and drawing, and its client and server over the loopback device."""

import os
import socket
import struct
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from svcnet.bench import client, load, plot, report
from svcnet.bench.paths import haproxy_config
from svcnet.bench.report import Round
from svcnet.bench.server import Server, listener
from svcnet.bench.worker import Try, outcome
from svcnet.model.errors import SvcnetError
from tests.harness.until import until

MIB = 1 << 20
SVG = "{http://www.w3.org/2000/svg}"


def a_round(throughput: float = 1000 * MIB, connect: float = 50e-6, payload: float = MIB) -> Round:
    return Round(throughput, 10_000, connect, 4 * connect, 20e-6, 40e-6, ((10, payload), (24, 500 * payload)))


def test_a_percentile_is_the_value_below_which_that_share_lies() -> None:
    times = [float(n) for n in range(100, 0, -1)]
    assert [report.percentile(times, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 51, 100, 100]


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        report.percentile([], 0.5)


def test_ratios_are_taken_round_by_round() -> None:
    base = [a_round(100), a_round(200), a_round(400)]
    mine = [a_round(50), a_round(180), a_round(240)]
    ratio = report.ratio(mine, base, lambda r: r.throughput)
    assert (ratio.middle, ratio.lowest, ratio.highest) == pytest.approx((0.6, 0.5, 0.9))
    assert str(ratio) == "0.60 (0.50-0.90)"


def test_the_table_has_a_row_a_path_with_medians_ratios_and_what_is_left_out() -> None:
    results = {"direct": [a_round()] * 2, "userspace": [a_round(400 * MIB, 100e-6), a_round(600 * MIB, 200e-6)]}
    lines = report.table(results, {"haproxy": "not installed"}).splitlines()
    rows = [line.split() for line in lines]
    assert ["direct", "1000", "1", "10000", "1"] in rows
    assert ["direct", "200", "50", "1", "40", "20", "1"] in rows
    assert ["userspace", "500", "0.50", "(0.40-0.60)", "10000", "1.00", "(1.00-1.00)"] in rows
    assert ["userspace", "600", "150", "3.00", "(2.00-4.00)", "40", "20", "1.00", "(1.00-1.00)"] in rows
    assert "MiB/s by size  1 KiB  16 MiB" in lines
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "left out: haproxy: not installed"


def test_the_json_has_every_round_in_plain_units() -> None:
    whole = report.as_json({"direct": [a_round()], "iptables": [a_round(500 * MIB)]}, {}, {"rounds": 1})
    path = whole["paths"]["iptables"]
    assert path["rounds"][0]["throughput"] == 500 * MIB
    assert path["rounds"][0]["payload"] == path["payload"]
    assert path["ratio_to_direct"]["throughput"] == {"middle": 0.5, "lowest": 0.5, "highest": 0.5}
    assert path["payload"][0] == {"bytes": 1024, "bytes_per_second": MIB}
    assert whole["run"] == {"rounds": 1}


@pytest.mark.parametrize(
    ("exponent", "text"), [(0, "1 B"), (6, "64 B"), (10, "1 KiB"), (18, "256 KiB"), (26, "64 MiB")]
)
def test_sizes_are_said_as_people_say_them(exponent: int, text: str) -> None:
    assert report.size_text(exponent) == text


def test_every_path_is_first_once_before_one_is_again() -> None:
    names = ["a", "b", "c"]
    turns = [load.rotated(names, turn) for turn in range(3)]
    assert [turn[0] for turn in turns] == names
    assert all(sorted(turn) == names for turn in turns)


def test_the_drawing_is_xml_with_a_line_and_a_name_a_path() -> None:
    root = ET.fromstring(plot.svg({"direct": [(10, 1e7), (20, 1e9)], "a<b": [(10, 1e6), (20, 1e8)]}))
    assert len(root.findall(f"{SVG}polyline")) == 2
    texts = {text.text for text in root.findall(f"{SVG}text")}
    assert {"direct", "a<b", "1 KiB", "1 MiB", "1 GB/s"} <= texts


def test_faster_is_higher_and_larger_is_further_right() -> None:
    root = ET.fromstring(plot.svg({"direct": [(10, 1e7), (20, 1e9)]}))
    line = root.find(f"{SVG}polyline")
    assert line is not None
    first, last = ([float(n) for n in point.split(",")] for point in line.attrib["points"].split())
    assert first[0] < last[0]
    assert first[1] > last[1]


def test_names_at_the_same_height_are_put_apart() -> None:
    root = ET.fromstring(plot.svg({name: [(10, 1e7)] for name in ("direct", "nftables", "iptables")}))
    heights = [float(t.attrib["y"]) for t in root.findall(f"{SVG}text") if t.text in {"direct", "nftables", "iptables"}]
    assert len({round(height) for height in heights}) == 3


def test_bars_are_as_long_as_the_rate() -> None:
    text = plot.bars({"direct": [(10, 100 * MIB)], "userspace": [(10, 50 * MIB)]})
    assert text.splitlines()[2:] == [
        "1 KiB",
        f"  direct    {'█' * 40} 100 MiB/s",
        f"  userspace {'█' * 20}{' ' * 20} 50 MiB/s",
    ]


@pytest.mark.parametrize("wrong", ["--seconds=0", "--seconds=nan", "--rounds=0", "--rounds=1000", "--paths=ipvs"])
def test_options_out_of_range_are_usage_errors(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        load.parser().parse_args([wrong])
    assert wrong.partition("=")[0] in capsys.readouterr().err


def test_direct_comes_along_whatever_paths_are_asked_for() -> None:
    assert load.parser().parse_args(["--paths=userspace,nftables"]).paths == ["direct", "nftables", "userspace"]


def test_haproxy_is_one_thread_on_the_virtual_ip() -> None:
    config = haproxy_config("10.0.0.1:80", "192.0.2.2:8080")
    assert {"nbthread 1", "mode tcp", "bind 10.0.0.1:80", "server one 192.0.2.2:8080"} <= {
        line.strip() for line in config.splitlines()
    }


def test_each_haproxy_option_has_its_line() -> None:
    config = haproxy_config("10.0.0.1:80", "192.0.2.2:8080", ["splice-request", "splice-response"])
    assert "  option splice-request\n  option splice-response\nlisten bench\n" in config


@pytest.fixture
def address() -> Iterator[client.Address]:
    door = listener(0)
    over, end = os.pipe()
    server = Server([door], over)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield "127.0.0.1", door.getsockname()[1]
    os.close(end)
    thread.join()
    server.close()
    os.close(over)


def test_a_byte_is_answered_with_so_many_bytes_as_two_to_its_power(address: client.Address) -> None:
    with socket.create_connection(address) as sock:
        for exponent in (0, 10, 17, 21):
            sock.sendall(bytes([exponent]))
            assert len(sock.recv(1 << exponent, socket.MSG_WAITALL)) == 1 << exponent


def test_what_is_asked_for_at_once_is_answered_with_the_sum(address: client.Address) -> None:
    with socket.create_connection(address) as sock:
        sock.sendall(bytes([3, 4]))
        assert len(sock.recv(24, socket.MSG_WAITALL)) == 24


def test_more_than_the_server_gives_closes_the_connection_and_no_other(address: client.Address) -> None:
    with socket.create_connection(address) as other, socket.create_connection(address) as sock:
        sock.sendall(b"\xff")
        assert sock.recv(1) == b""
        other.sendall(b"\0")
        assert other.recv(1)


def test_a_client_that_leaves_in_the_middle_of_an_answer_does_no_harm(address: client.Address) -> None:
    with socket.create_connection(address) as sock:
        sock.sendall(bytes([28]))
        assert sock.recv(1)
    assert client.answers(address, 5)


def test_a_round_measures_every_figure_and_ends_by_itself(address: client.Address) -> None:
    def whole() -> bool:
        measured = load.measure(lambda act: act(), address, 0.02, (10, 24))
        assert [size for size, _ in measured.payload] == [10, 24]
        return all(figure > 0 for figure in (*measured[:-1], *(rate for _, rate in measured.payload)))

    until(whole)  # a busy machine may not get anywhere in so short a time


def test_nobody_there_is_an_error_of_every_measurement() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = ("127.0.0.1", closed.getsockname()[1])
    assert not client.answers(nobody, 1)
    for act in (client.throughput, client.connections, client.connect_seconds, client.exchange_seconds):
        with pytest.raises(OSError, match="refused"):
            act(nobody, 1)


def test_a_server_that_says_nothing_ends_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PATIENCE", struct.pack("ll", 0, 20_000))
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for act in (client.throughput, client.connect_seconds, client.exchange_seconds, client.connections):
            with pytest.raises((BlockingIOError, TimeoutError)):
                act(("127.0.0.1", silent.getsockname()[1]), 1)


def test_the_gap_ends_with_the_first_answer_to_a_connection_that_began_after_the_kill() -> None:
    tries = [
        Try(0.0, 0.9, answered=True),
        Try(0.95, 1.01, answered=False),
        Try(1.01, 1.02, answered=False),
        Try(1.02, 1.25, answered=True),
        Try(1.25, 1.26, answered=True),
    ]
    found = outcome(1.0, tries)
    assert found.gap_seconds == pytest.approx(0.25)
    assert (found.cut, found.failed) == (1, 1)


def test_a_worker_that_never_comes_back_is_an_error() -> None:
    with pytest.raises(SvcnetError, match="no connection was answered"):
        outcome(1.0, [Try(0.5, 0.6, answered=True), Try(1.1, 4.1, answered=False)])
