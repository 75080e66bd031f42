"""Take-overs and reloads as a load balancer and Prometheus see them: every port answers all the time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.daemon import STATUS_PORT, Daemon
from tests.harness.files import endpoints, service
from tests.harness.http_hammer import HttpHammer
from tests.harness.manager import notices
from tests.harness.minion import VIP, A, Minion
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


def test_no_http_port_refuses_anybody_in_a_reload_that_comes_before_another_is_through(
    minion: Minion, tmp_path: Path
) -> None:
    file = tmp_path / "svcnet.toml"
    file.write_text('zone = "zone1"\n')
    daemon = serving(minion, f"--config={file}", "--mode=nftables")
    with asked(minion):
        for number in (2, 3, 4):
            file.write_text(f'zone = "zone{number}"\n')
            daemon.signal(signal.SIGHUP)
            daemon.until(lambda n=number: daemon.log.count("starting node=") == n)  # type: ignore[misc]  # the loop's
        daemon.ready()
    assert daemon.stop() == 0


def test_a_port_that_the_next_one_does_not_want_is_closed(minion: Minion) -> None:
    old = serving(minion, "--mode=nftables")
    elsewhere = STATUS_PORT + 1
    new = minion.daemon("--mode=nftables", "--takeover", f"--status-listen=127.0.0.1:{elsewhere}")
    assert old.ended() == 0, old.log
    until(lambda: minion.ask("127.0.0.1", port=STATUS_PORT) == "refused")
    with HttpHammer(minion.enter, [("127.0.0.1", elsewhere, "/readyz")]) as hammer:
        assert until(lambda: hammer.answers > len(hammer.failures))
    assert health(minion)[0] == 200
    assert new.stop() == 0


def test_no_counter_falls_but_with_a_later_start_time(minion: Minion, tmp_path: Path) -> None:
    """Over a reload too, after which the process is the same, and what it has counted is not."""
    file = tmp_path / "svcnet.toml"
    file.write_text('zone = "one"\n')
    serving(minion, f"--config={file}", "--mode=nftables")
    seen: list[tuple[float, dict[str, float]]] = []

    def starts() -> set[float]:
        return {began for began, _ in seen}

    with HttpHammer(minion.enter, PORTS[2:3], lambda body: seen.append(scraped(body))) as hammer:
        assert hammer.asks_more()
        daemon = minion.daemon(f"--config={file}", "--mode=nftables", "--takeover")
        daemon.until(lambda: len(starts()) == 2)
        file.write_text('zone = "two"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda: len(starts()) == 3)
        assert hammer.asks_more()
    assert not hammer.failures
    for (began, counts), (later, more) in pairwise(seen):
        assert began <= later
        if began == later:
            assert not {name: (count, more.get(name)) for name, count in counts.items() if more.get(name, 0) < count}
    assert daemon.stop() == 0


def scraped(body: str) -> tuple[float, dict[str, float]]:
    """The start time, and every counter."""
    samples = [s for family in text_string_to_metric_families(body) for s in family.samples]
    counts = {
        f"{s.name}{s.labels}": s.value for s in samples if s.name.endswith(("_total", "_count", "_bucket", "_sum"))
    }
    return next(s.value for s in samples if s.name == "process_start_time_seconds"), counts


def test_the_service_manager_is_told_who_the_service_is(minion: Minion) -> None:
    with notices(minion.root) as (environ, heard):
        minion.put(service("web", VIP), endpoints("web", A))
        old = minion.daemon("--mode=nftables", environ=environ).ready()
        new = minion.daemon("--mode=nftables", "--takeover", environ=environ)
        assert old.ended() == 0, old.log
        new.ready()
        assert new.stop() == 0
    status = "STATUS=nftables, 1 services"
    assert heard == [
        (old.pid, ["READY=1", status]),
        (new.pid, ["READY=1", f"MAINPID={new.pid}", status]),
        (new.pid, ["STOPPING=1"]),
    ]
