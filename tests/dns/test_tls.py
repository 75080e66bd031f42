"""DNS over TLS to a server upstream (RFC 7858): whose certificate is believed, and how long a connection serves."""

import os
import socket
import ssl
import subprocess
from contextlib import ExitStack
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from svcnet.dns.forward import FAILURE_SECONDS
from svcnet.dns.settings import Settings
from svcnet.dns.stream import IDLE_SECONDS
from svcnet.dns.upstream import PROBE_SECONDS, Server
from tests.dns.clockwork import Forwarding, forwarding
from tests.dns.serving import HOST, PATIENT, Upstream, worker
from tests.dns.test_forward import answers
from tests.dns.world import lines
from tests.harness.until import until

pytestmark = pytest.mark.needs("openssl")
NAME = "dns.example.net"
ANSWER = ["example.org. 60 IN A 192.0.2.7"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for NAME and 127.0.0.1, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=svcnet"
    command += f" -addext subjectAltName=DNS:{NAME},IP:127.0.0.1 -out {path}/cert.pem -keyout {path}/key.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    return path


@pytest.fixture
def context(files: Path) -> ssl.SSLContext:
    """A server's end."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(files / "cert.pem", files / "key.pem")
    return made


@pytest.fixture
def believed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's authorities are this certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "cert.pem"))


def secure(upstream: Upstream, name: str = "") -> Server:
    return upstream.address._replace(tls=True, name=name)


def failed(running: Forwarding) -> str:
    """What is told of the only server when it can't be used."""
    assert running.ask("example.org.").rcode() == dns.rcode.SERVFAIL
    (trouble,) = running.forwarder.troubles
    return trouble


@pytest.mark.usefixtures("believed")
@pytest.mark.parametrize("name", [NAME, ""])
def test_many_questions_share_one_connection(context: ssl.SSLContext, name: str) -> None:
    with Upstream(answers, tls=context) as upstream, forwarding(secure(upstream, name)) as running:
        waiting = [running.send(f"n{number}.example.org.") for number in range(50)]
        running.loop.until(lambda: all(waiting))
        assert lines(running.ask("example.org.").answer) == ANSWER
        assert upstream.connections == 1
        assert {stream for _, stream in upstream.asked} == {True}
        assert running.forwarder.troubles == ()


@pytest.mark.usefixtures("believed")
def test_large_answers_and_a_connection_that_was_idle(context: ssl.SSLContext) -> None:
    def large(query: dns.message.Message, _stream: bool) -> dns.message.Message:
        reply = answers(query, True)
        text = " ".join(f'"{"x" * 250}"' for _ in range(200))
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", text))
        return reply

    with Upstream(large, tls=context) as upstream, forwarding(secure(upstream)) as running:
        replies = [running.send(f"n{number}.example.org.") for number in range(20)]
        running.loop.until(lambda: all(replies))
        assert running.forwarder.levels()["cache_bytes"] > 20 * 50_000
        running.loop.leap(IDLE_SECONDS + 3)
        running.loop.leap(IDLE_SECONDS + 3)
        running.ask("late.example.org.")
        assert upstream.connections == 2


@pytest.mark.usefixtures("believed")
def test_a_certificate_for_another_name_is_refused(context: ssl.SSLContext) -> None:
    with Upstream(answers, tls=context) as upstream, forwarding(secure(upstream, "other.example")) as running:
        assert "certificate: Hostname mismatch" in failed(running)
        assert upstream.asked == [], "nothing was asked"


def test_a_certificate_that_nobody_vouches_for_is_refused(context: ssl.SSLContext) -> None:
    with Upstream(answers, tls=context) as upstream, forwarding(secure(upstream, NAME)) as running:
        assert "certificate: self-signed certificate" in failed(running)
        assert upstream.asked == []


@pytest.mark.usefixtures("believed")
def test_a_server_without_tls_is_never_asked_in_the_clear() -> None:
    with Upstream(answers) as upstream, forwarding(secure(upstream)) as running:
        assert running.ask("example.org.").rcode() == dns.rcode.SERVFAIL
        assert upstream.asked == []
        running.loop.until(lambda: running.forwarder.troubles)
        assert running.forwarder.troubles == ("no server upstream gives a sign of life",)


@pytest.mark.usefixtures("believed")
def test_a_server_that_has_its_certificate_right_again_is_used(context: ssl.SSLContext, tmp_path: Path) -> None:
    wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={NAME}"
    command += f" -out {tmp_path}/cert.pem -keyout {tmp_path}/key.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    wrong.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with Upstream(answers, tls=wrong) as upstream, forwarding(secure(upstream, NAME)) as running:
        assert "certificate: " in failed(running)
        upstream.tls = context
        running.loop.leap(PROBE_SECONDS)
        running.loop.until(lambda: not running.forwarder.troubles)
        running.loop.leap(FAILURE_SECONDS)
        assert running.ask("example.org.").answer


@pytest.mark.usefixtures("believed")
def test_a_server_that_does_not_shake_hands_is_passed_over(context: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        mute = stack.enter_context(socket.create_server((HOST, 0)))
        good = stack.enter_context(Upstream(answers, tls=context))
        stuck = Server(HOST, mute.getsockname()[1], tls=True, name=NAME)
        running = stack.enter_context(forwarding(stuck, secure(good)))
        assert lines(running.ask("example.org.").answer) == ANSWER


@pytest.mark.usefixtures("believed")
def test_a_server_that_closes_is_asked_on_a_new_connection(context: ssl.SSLContext) -> None:
    with Upstream(answers, keeps=False, tls=context) as upstream, forwarding(secure(upstream)) as running:
        for number in range(4):
            assert running.ask(f"n{number}.example.org.").answer
        assert upstream.connections >= 4


@pytest.mark.usefixtures("believed")
def test_a_worker_forwards_by_tls(context: ssl.SSLContext) -> None:
    assert os.environ["SSL_CERT_FILE"], "a worker inherits it"
    with Upstream(answers, tls=context) as upstream:
        with worker(Settings(upstreams=(secure(upstream, NAME),)), [], changed=PATIENT) as served:
            assert lines(until(lambda: served.udp("example.org.")).answer) == ANSWER
            assert "192.0.2.7" in served.dig("example.org", "A", "+short")
            assert lines(served.tcp("example.org.").answer)[0].endswith("A 192.0.2.7")
        assert upstream.asked == [("example.org.", True)]
