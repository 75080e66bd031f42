"""Active health checks by a daemon, of real servers that fail and come back, in every mode."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from threading import Thread

import pytest

from tests.harness.daemon import Daemon
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, Minion
from tests.kernel.test_daemon_dns import ask

pytestmark = pytest.mark.kernel

MODES = ("nftables", "iptables", "userspace")


def checked(health: str, *, number: int) -> tuple[Written, ...]:
    """A service that answers on `number` of its endpoints, with a check, and its slices."""
    record = service("web", VIP, VIP6, protocols=("TCP",))
    record["metadata"]["annotations"] = {"svcnet.dev/health": health}
    record["spec"]["ports"][0]["targetPort"] = number
    slices = endpoints("web", A, B, protocols=("TCP",)), endpoints("web", A6, B6, protocols=("TCP",))
    for one in slices:
        one["ports"][0]["port"] = number
    return record, *slices


class Website:
    """HTTP on one address; `code` is what it answers, its body who it is."""

    def __init__(self, minion: Minion, address: str, number: int) -> None:
        self.code = 200
        self.asked: list[str] = []
        site = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(f"{self.path} {(self.headers['User-Agent'] or '').partition('/')[0]}")
                self.send_response(site.code if self.path.startswith("/ready") else 200)
                self.send_header("Content-Length", str(len(address)))
                self.end_headers()
                self.wfile.write(address.encode())

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

            def server_bind(self) -> None:
                TCPServer.server_bind(self)  # HTTPServer's asks for a name too

        self._server = minion.inside(lambda: Server((address, number), Answer))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def websites(minion: Minion, number: int) -> Iterator[dict[str, Website]]:
    """One on each address."""
    found = {address: Website(minion, address, number) for address in (A, B, A6, B6)}
    try:
        yield found
    finally:
        for site in found.values():
            site.close()


def answers(minion: Minion, vip: str, tries: int = 12) -> set[str]:
    """Who answers a virtual IP, over some connections."""

    def ask() -> str:
        with socket.create_connection((vip, 80), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            text = b""
            while more := sock.recv(4096):
                text += more
            return text.rpartition(b"\r\n")[2].decode()

    return {minion.inside(ask) for _ in range(tries)}


def gets_all(daemon: Daemon, minion: Minion, vip: str, endpoint: str) -> bool:
    """Wait until one endpoint answers; whether it is the only one then. /status may say so before the kernel knows.

    The first dozen may be its by chance; the rest may not.
    """
    daemon.until(lambda: answers(minion, vip) == {endpoint})
    return answers(minion, vip, tries=48) == {endpoint}


def failing(daemon: Daemon) -> set[str]:
    return {
        entry["what"].split()[1].rpartition(":")[0]
        for entry in daemon.status()["left_out"]
        if "health check" in entry["reason"]
    }


@pytest.mark.parametrize("mode", MODES)
def test_an_endpoint_whose_check_fails_gets_no_connections_until_it_passes_again(minion: Minion, mode: str) -> None:
    minion.put(*checked("http:/ready,interval=100ms,timeout=5s,rise=2,fall=2", number=8081))
    with websites(minion, 8081) as sites:
        daemon = minion.daemon(f"--mode={mode}").ready()
        daemon.until(lambda: answers(minion, VIP) == {A, B} and answers(minion, VIP6) == {A6, B6})
        sites[A].code = sites[B6].code = 503
        daemon.until(lambda: failing(daemon) == {A, B6})
        assert gets_all(daemon, minion, VIP, B)
        assert gets_all(daemon, minion, VIP6, A6)
        reasons = {e["reason"] for e in daemon.status()["left_out"]}
        assert reasons == {"its health check fails: HTTP 503"}
        if mode == "nftables":
            assert minion.plan().startswith("0 ")
        sites[A].code = 302
        daemon.until(lambda: failing(daemon) == {B6})
        daemon.until(lambda: answers(minion, VIP) == {A, B})
        assert set(sites[A].asked) >= {"/ready svcnet"}


@pytest.mark.parametrize("mode", MODES)
def test_when_too_few_pass_all_are_used_if_that_is_asked_for(minion: Minion, mode: str) -> None:
    asked = "http:/ready,interval=100ms,timeout=5s,rise=1,fall=1"
    minion.put(*checked(f"{asked},panic=50", number=8081))
    with websites(minion, 8081) as sites:
        daemon = minion.daemon(f"--mode={mode}").ready()
        sites[A].code = 503
        daemon.until(lambda: failing(daemon) == {A})
        assert gets_all(daemon, minion, VIP, B), "half is not less than half"
        sites[B].code = 503
        daemon.until(lambda: failing(daemon) == {A, B})
        daemon.until(lambda: answers(minion, VIP) == {A, B})
        reason = "its health check fails: HTTP 503; it is used, as 0 of 2 pass (panic)"
        assert {entry["reason"] for entry in daemon.status()["left_out"]} == {reason}
        minion.put(*checked(asked, number=8081))
        daemon.until(lambda: minion.ask(VIP) == "refused")


def test_a_server_that_is_down_when_the_daemon_starts_is_out_with_its_first_check(minion: Minion) -> None:
    minion.put(*checked("tcp,interval=1h,fall=3", number=8081))
    with websites(minion, 8081) as sites:
        sites[A].close()
        daemon = minion.daemon().ready()
        daemon.until(lambda: failing(daemon) == {A})
        assert gets_all(daemon, minion, VIP, B)
        daemon.until(lambda: answers(minion, VIP6) == {A6, B6})
        assert daemon.until(lambda: daemon.status()["parts"]["health checks"] == "running: 4 checks, 1 failing")
        text = daemon.get("/metrics")[1]
        assert 'svcnet_health_checks_total{result="failed"} 1.0' in text
        assert "svcnet_health_failing 1.0" in text
        sites.pop(A)


@pytest.mark.parametrize("mode", ["nftables", "userspace"])
def test_a_near_endpoint_that_fails_leaves_its_clients_to_a_far_one(minion: Minion, mode: str) -> None:
    record, four, six = checked("http:/ready,interval=100ms,timeout=5s,rise=1,fall=1", number=8081)
    record["metadata"]["annotations"]["svcnet.dev/locality"] = "node"
    four["endpoints"][0]["nodeName"], four["endpoints"][1]["nodeName"] = "m1", "m2"
    minion.put(record, four, six)
    with websites(minion, 8081) as sites:
        daemon = minion.daemon(f"--mode={mode}").ready()
        daemon.until(lambda: answers(minion, VIP) == {A})
        done = minion.svcnet("trace", "-", f"{VIP}:80", *minion.options(), f"--state-dir={minion.state}")
        assert re.search(rf"{A}:8081 +100 % +100 %.*\n +{B}:8081 +- +-", done.stdout), done.stdout + done.stderr
        assert "locality: on m2 in zone unknown, and enough who are nearer to m1" in done.stdout
        sites[A].code = 503
        daemon.until(lambda: answers(minion, VIP) == {B})
        sites[A].code = 200
        daemon.until(lambda: answers(minion, VIP) == {A})


def test_a_script_of_the_operator_decides_and_without_a_directory_nothing_runs(minion: Minion, tmp_path: Path) -> None:
    minion.put(*checked("script:writable,interval=100ms,timeout=60s,rise=1,fall=1", number=8081))
    readonly = tmp_path / A
    script = tmp_path / "writable"
    script.write_text(f'#!/bin/sh\ntest ! -e {tmp_path}/"$1" || {{ echo "$1:$2 is read-only" >&2; exit 1; }}\n')
    script.chmod(0o755)
    with websites(minion, 8081):
        daemon = minion.daemon().ready()
        daemon.until(lambda: "svcnet.dev/health of default/web" in {e["what"] for e in daemon.status()["left_out"]})
        assert "expected --health-scripts DIR" in json.dumps(daemon.status()["left_out"])
        assert answers(minion, VIP) == {A, B}
        assert daemon.stop() == 0
        careless = ("env", "--ignore-signal=CHLD")  # the kernel keeps no exit code for who ignores it
        daemon = minion.daemon(f"--health-scripts={tmp_path}", wrap=careless).ready()
        daemon.until(lambda: re.search(r'checks_total{result="passed"} [1-9]', daemon.get("/metrics")[1]))
        assert daemon.status()["left_out"] == []
        readonly.touch()
        daemon.until(lambda: failing(daemon) == {A})
        daemon.until(lambda: answers(minion, VIP) == {B})
        assert "192.0.2.21:8081 is read-only" in json.dumps(daemon.status()["left_out"])
        readonly.unlink()
        daemon.until(lambda: answers(minion, VIP) == {A, B})


def test_an_http_server_that_answers_nothing_or_nonsense_fails(minion: Minion) -> None:
    minion.put(*checked("http:/,interval=100ms,timeout=200ms,fall=1", number=8080))  # which greets with its address
    daemon = minion.daemon().ready()
    daemon.until(lambda: failing(daemon) == {A, B, A6, B6})
    assert minion.ask(VIP) == "refused"
    done = minion.svcnet("trace", "192.0.2.1", f"{VIP}:80", *minion.options(), f"--state-dir={minion.state}")
    assert "its health check fails: " in done.stdout, done.stdout + done.stderr

    def described() -> str:
        return minion.svcnet("describe", "service", "web", *minion.options()[:2]).stdout

    line = f"endpoint {A}:8080 (its health check fails: no "
    daemon.until(lambda: line in described())  # it does not wait long for a daemon, which may be busy


def test_an_endpoint_of_a_headless_service_has_names_while_its_check_passes(minion: Minion) -> None:
    service_, *slices = checked("tcp,interval=100ms,fall=2,rise=2", number=8081)
    service_["spec"] |= {"clusterIP": "None", "clusterIPs": ["None"]}
    minion.put(service_, *slices)
    with websites(minion, 8081) as sites:
        daemon = minion.daemon("--mode=none", "--dns-listen=127.0.0.1:53", "--dns-upstream=off").ready()
        daemon.until(lambda: sorted(ask(minion, "web.svc.")) == [A, B])
        sites.pop(A).close()
        daemon.until(lambda: ask(minion, "web.svc.") == [B])
        assert ask(minion, "192-0-2-21.web.svc.") == ["NXDOMAIN"]
        targets = {line.split()[-1] for line in ask(minion, "_tcp._tcp.web.svc.", "SRV")}
        assert {target.partition(".")[0] for target in targets} == {"192-0-2-22", "fd00-99--21", "fd00-99--22"}
        sites[A] = Website(minion, A, 8081)
        daemon.until(lambda: sorted(ask(minion, "web.svc.")) == [A, B])
