"""Take-overs and reloads as a load balancer and Prometheus see them: every port answers all the time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.daemon import STATUS_PORT, Daemon
from tests.harness.http_hammer import HttpHammer
from tests.harness.minion import A, Minion
from tests.harness.stage import minion
from tests.harness.until import until
from tests.kernel.test_node_ports import HEALTH_PORT, MINION, balanced, health, here

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

PORTS = (
    ("127.0.0.1", STATUS_PORT, "/healthz"),
    ("127.0.0.1", STATUS_PORT, "/readyz"),
    ("127.0.0.1", STATUS_PORT, "/metrics"),
    (MINION, HEALTH_PORT, "/"),
)


def serving(minion: Minion, *options: str) -> Daemon:
    """A daemon whose service has a health port that answers."""
    minion.put(balanced(externalTrafficPolicy="Local", healthCheckNodePort=HEALTH_PORT), here(A))
    daemon = minion.daemon(*options).ready()
    until(lambda: health(minion)[0] == 200)
    return daemon


@contextmanager
def asked(minion: Minion) -> Iterator[HttpHammer]:
    """A client of every port, which never fails."""
    with HttpHammer(minion.enter, PORTS) as hammer:
        assert hammer.asks_more()
        yield hammer
        assert hammer.asks_more()
    assert not hammer.failures


@pytest.mark.parametrize("mode", ["nftables", "none"])
def test_no_http_port_refuses_anybody_in_a_take_over(minion: Minion, mode: str) -> None:
    old = serving(minion, f"--mode={mode}")
    with asked(minion):
        daemon = minion.daemon(f"--mode={mode}", "--takeover")
        assert old.ended() == 0, old.log
        daemon.ready()
    minion.put(here(A, ready=False))
    until(lambda: health(minion)[0] == 503)
    assert daemon.stop() == 0
    assert health(minion)[0] == 0


def test_no_http_port_refuses_anybody_in_a_reload(minion: Minion, tmp_path: Path) -> None:
    file = tmp_path / "svcnet.toml"
    file.write_text('zone = "one"\n')
    daemon = serving(minion, f"--config={file}", "--mode=nftables")
    with asked(minion):
        file.write_text('zone = "two"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda: daemon.log.count("starting node=") == 2)
        daemon.ready()
    assert daemon.stop() == 0


def test_a_port_that_the_next_one_does_not_want_is_closed(minion: Minion) -> None:
    old = serving(minion, "--mode=nftables")
    elsewhere = STATUS_PORT + 1
    new = minion.daemon("--mode=nftables", "--takeover", f"--status-listen=127.0.0.1:{elsewhere}")
    assert old.ended() == 0, old.log
    until(lambda: minion.ask("127.0.0.1", port=STATUS_PORT) == "refused")
    with HttpHammer(minion.enter, [("127.0.0.1", elsewhere, "/readyz")]) as hammer:
        assert until(lambda: hammer.rounds > len(hammer.failures))
    assert health(minion)[0] == 200
    assert new.stop() == 0
