"""The query log as an operator reads it: lines of JSON on the worker's stderr."""

import json
import threading

import dns.message
import pytest

import dns.name
import dns.query
from svcnet.dns import name
from svcnet.dns.query_log import MOST_LINES, QueryLog
from svcnet.dns.settings import Settings
from tests.dns.serving import HOST, PATIENCE_SECONDS, worker
from tests.dns.world import virtual
from tests.harness.until import until


def test_a_query_is_a_line_of_json_and_off_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    for every in (0, 1):
        with worker(Settings(log_every=every), [virtual("tomcat", "10.0.0.5")]) as running:
            until(lambda r=running: r.udp("ToMcAt.svc.").answer)  # type: ignore[misc]  # the loop's value, held
            running.tcp("nothing.svc.", "TYPE4711")
            assert running.raw(b"\1\2\1\0\0\2" + bytes(6)) is not None
            read: list[str] = []

            def told(read: list[str] = read, wanted: int = every * 3) -> bool:
                read += [line for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
                return len(read) >= wanted and ("FORMERR" in read[-1] if wanted else True)

            until(told)
        assert bool(read) == bool(every)
    lines = [json.loads(line) for line in read]
    assert all(line.pop("time") > 1e9 and line.pop("client") == HOST and line.pop("bytes") >= 12 for line in lines)
    assert lines[-3:] == [
        {"proto": "udp", "rcode": "NOERROR", "answers": 1, "name": "ToMcAt.svc.", "type": "A"},
        {"proto": "tcp", "rcode": "NXDOMAIN", "answers": 0, "name": "nothing.svc.", "type": "TYPE4711"},
        {"proto": "udp", "rcode": "FORMERR", "answers": 0},
    ]


def test_a_client_is_told_by_its_address_by_tcp_too(capfd: pytest.CaptureFixture[str]) -> None:
    with worker(Settings(log_every=1), [virtual("tomcat", "10.0.0.5")], "::1") as running:
        query = dns.message.make_query("tomcat.svc.", "A")
        assert dns.query.tcp(query, "::1", PATIENCE_SECONDS, running.port).answer
        read: list[str] = []

        def told() -> bool:
            read.extend(line for line in capfd.readouterr().err.splitlines() if line.startswith("{"))
            return bool(read)

        until(told)
    assert json.loads(read[0])["client"] == "::1"


class Stuck:
    """A pipe that nobody reads, until `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.go.wait()
        self.lines.append(line)

    def flush(self) -> None:
        pass


def test_about_one_of_so_many_is_logged_and_a_reader_that_stands_still_holds_up_nobody() -> None:
    out = Stuck()
    lost: list[str] = []
    log = QueryLog(1, out, lost.append, lambda: 0.0)  # type: ignore[arg-type]  # it has what is used
    reply = b"\x81\x80\0\1\0\0\0\0\0\0\3svc\0\0\1\0\1"
    for _ in range(MOST_LINES + 500):
        log.note(HOST, 0, reply)
    assert set(lost) == {"query_log_lost"}
    assert 498 <= len(lost) <= 500
    out.go.set()
    until(lambda: len(out.lines) + len(lost) == MOST_LINES + 500)
    seldom = Stuck()
    seldom.go.set()
    log = QueryLog(10, seldom, lost.append, lambda: 0.0)  # type: ignore[arg-type]  # as above
    for _ in range(5000):
        log.note(HOST, 0, reply)
    until(lambda: len(seldom.lines) > 300)
    assert len(seldom.lines) < 700


def test_a_name_of_any_bytes_is_shown_as_zone_files_have_it() -> None:
    wire = b"".join(b"\x10" + bytes(range(at, at + 16)) for at in range(0, 256, 16))
    for whole in (wire[: 17 * 8] + b"\0", wire[17 * 8 :] + b"\0"):
        shown = name.text(whole)
        assert shown.isascii()
        assert dns.name.from_text(shown).to_wire() == whole
