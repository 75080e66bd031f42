"""`svcnet status` and `release` against a daemon's two doors: HTTP on loopback, JSON lines on a socket."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

REPORT: dict[str, Any] = {
    "node": "m1",
    "mode": "nftables",
    "mode_reason": "the first that works",
    "ready": True,
    "revision_seen": 7,
    "revision_applied": 7,
    "services": 2,
    "endpoints": 3,
    "oldest_unapplied_seconds": 0.0,
    "drift": 0,
    "left_out": [{"what": "endpoint 127.0.0.1:80 of Service default/a", "reason": "loopback"}],
    "last_error": "",
    "store": {"connected": True, "staleness_seconds": 0.0, "held": None},
    "parts": {"dns": "off", "env": "running"},
}


class Web:
    """Answers /status with what `reports` yields, the last one for ever."""

    def __init__(self) -> None:
        self.reports: list[bytes] = [json.dumps(REPORT).encode()]
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = web.reports.pop(0) if len(web.reports) > 1 else web.reports[0]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listen = f"127.0.0.1:{self.server.server_address[1]}"

    def tells(self, *reports: dict[str, Any]) -> None:
        self.reports = [json.dumps(REPORT | report).encode() for report in reports]


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()


def test_status_is_readable(cli: "Cli", web: Web) -> None:
    page = cli.ok("status", "--status-listen", web.listen)
    assert "Minion      m1\n" in page.replace("Minion     m1", "Minion      m1")
    assert "nftables (the first that works)" in page
    assert "7 applied, 7 seen: in sync" in page
    assert "2 services, 3 endpoints" in page
    assert "Left out (1)\n  endpoint 127.0.0.1:80 of Service default/a: loopback\n" in page


def test_much_that_is_left_out_is_counted_and_does_not_hide_the_rest(cli: "Cli", web: Web) -> None:
    web.tells({"left_out": [{"what": f"external IP {n}", "reason": "no"} for n in range(10_000)]})
    lines = cli.ok("status", "--status-listen", web.listen).splitlines()
    shown = [line for line in lines if "external IP" in line]
    assert "Left out (10000)" in lines
    assert shown == [f"  external IP {n}: no" for n in range(20)]
    assert lines[-1] == "  and 9980 more: svcnet status -o json has all"
    whole = json.loads(cli.ok("status", "-o", "json", "--status-listen", web.listen))
    assert len(whole["left_out"]) == 10_000


def test_status_names_what_is_wrong(cli: "Cli", web: Web) -> None:
    store = {"connected": False, "staleness_seconds": 12.3, "held": {"missing": 20, "known": 30, "revision": 8}}
    web.tells({"store": store, "revision_applied": 6, "oldest_unapplied_seconds": 2.5, "last_error": "no nft"})
    page = cli.ok("status", "--status-listen", web.listen)
    assert "away for 12 s, the last state serves" in page
    assert "6 applied, 7 seen: behind by 2.5 s" in page
    assert "a list lacks 20 of 30 services: svcnet release" in page
    assert "no nft" in page


def test_status_as_json_is_what_the_daemon_said(cli: "Cli", web: Web) -> None:
    assert json.loads(cli.ok("status", "--status-listen", web.listen, "-o", "json")) == REPORT


def test_wait_returns_when_all_that_was_seen_is_applied(cli: "Cli", web: Web) -> None:
    web.tells(
        {"ready": False, "revision_seen": 0, "revision_applied": 0},
        {"ready": False},
        {"revision_applied": 6},
        {"revision_applied": 8, "revision_seen": 8},
    )
    assert "8 applied, 8 seen: in sync" in cli.ok("status", "--wait", "--status-listen", web.listen)


def test_what_the_last_error_left_undone_is_shown_and_an_age_is_never_in_sync(cli: "Cli", web: Web) -> None:
    batch = ["~ 10.0.0.5 tcp/80 → a ⇒ b", "- 10.0.0.6 tcp/80 → c"]
    fault = {"last_error": "ENOENT", "last_error_batch": batch, "last_error_changes": 40}
    web.tells({**fault, "oldest_unapplied_seconds": 3})
    shown = cli.ok("status", "--status-listen", web.listen)
    assert "Not done then (40)\n  ~ 10.0.0.5 tcp/80 → a ⇒ b\n  - 10.0.0.6 tcp/80 → c\n" in shown
    assert "behind by 3.0 s" in shown


def test_wait_that_is_too_long_exits_4_and_says_what_lacks(cli: "Cli", web: Web) -> None:
    web.tells({"revision_applied": 6, "last_error": "kernel says no"})
    done = cli("status", "--wait", "--timeout", "0.1", "--status-listen", web.listen)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == ("svcnet: not converged in 0.1 s: revision 6 of 7 applied, last error: kernel says no\n")


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address where nobody listens, and nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_no_daemon_exits_1(cli: "Cli", closed_port: str) -> None:
    done = cli("status", "--status-listen", closed_port)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"svcnet-proxy doesn't answer at {closed_port} (--status-listen): Connection refused" in done.stderr


def test_waiting_for_a_daemon_that_never_comes_exits_4(cli: "Cli", closed_port: str) -> None:
    done = cli("status", "--wait", "--timeout", "0.1", "--status-listen", closed_port)
    assert done.returncode == 4
    assert "doesn't answer" in done.stderr


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"\xff"])
def test_something_else_on_the_port_is_not_taken_for_a_daemon(cli: "Cli", web: Web, body: bytes) -> None:
    web.reports = [body]
    done = cli("status", "--status-listen", web.listen)
    assert done.returncode == 1
    assert f"what answers at {web.listen} is not svcnet-proxy" in done.stderr


@pytest.fixture
def control(cli: "Cli") -> Iterator[Callable[[bytes], list[bytes]]]:
    """Serve one connection on the control socket with a reply; the list holds what was asked."""
    threads: list[threading.Thread] = []
    path = cli.directory / "control.sock"

    def serve(reply: bytes) -> list[bytes]:
        asked: list[bytes] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener, listener.accept()[0] as client:
                asked.append(client.recv(4096))
                client.sendall(reply)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return asked

    yield serve
    for thread in threads:
        thread.join(timeout=10)


def test_release_tells_the_daemon_and_prints_its_reply(cli: "Cli", control: Callable[[bytes], list[bytes]]) -> None:
    asked = control(b'{"ok": true, "message": "released: 20 of 30 services deleted"}\n')
    assert cli.ok("release", "--state-dir", cli.directory) == "released: 20 of 30 services deleted\n"
    assert [json.loads(line) for line in asked] == [{"command": "release"}]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b'{"ok": false, "message": "store away"}\n', "svcnet: store away\n"),
        (b"", "ended before it answered"),
        (b"?\n", "control.sock"),
    ],
)
def test_a_refused_release_exits_1(
    cli: "Cli", control: Callable[[bytes], list[bytes]], reply: bytes, said: str
) -> None:
    control(reply)
    done = cli("release", "--state-dir", cli.directory)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_release_without_a_daemon_exits_1(cli: "Cli") -> None:
    done = cli("release", "--state-dir", cli.directory)
    assert (done.returncode, done.stderr) == (
        1,
        f"svcnet: no svcnet-proxy runs with {cli.directory} (--state-dir)\n",
    )
