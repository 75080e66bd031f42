"""Processes that the daemon has as children after reloads: those that ended are gone, whoever led them."""

import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness.daemon import Daemon
from tests.harness.files import service
from tests.harness.minion import VIP, Minion
from tests.kernel.test_daemon_dns import HERE, ask, workers

pytestmark = pytest.mark.kernel


def children(daemon: Daemon) -> dict[int, str]:
    """Pid → state (proc(5)); Z is one that has ended and was not waited for."""
    found = {}
    for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found[int(pid)] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return found


def is_sleep(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):  # as above
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    return False


def test_a_child_of_the_program_that_this_process_was_before_does_not_stay_when_it_ends(minion: Minion) -> None:
    """As a worker that ends while nobody looks, because one reload comes soon after another."""
    wrap = ("sh", "-c", 'sleep 600 & exec "$@"', "sh")
    daemon = minion.daemon(*HERE, wrap=wrap).ready()
    (stranger,) = (pid for pid in children(daemon) if is_sleep(pid))
    minion.run("kill", str(stranger))
    daemon.until(lambda: stranger not in children(daemon))


def test_no_worker_stays_as_a_zombie_however_soon_one_reload_follows_another(minion: Minion) -> None:
    minion.put(service("web", VIP))
    config = minion.root / "svcnet.toml"
    config.write_text('dns-ttl = "5"\n')
    daemon = minion.daemon(*HERE, f"--config={config}").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    for ttl in range(6, 9):
        starts = daemon.log.count("daemon starting node=")
        config.write_text(f'dns-ttl = "{ttl}"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda s=starts: daemon.log.count("daemon starting node=") > s)  # type: ignore[misc]  # the loop's value, held
        if ttl % 2:  # right in the middle of the start, or when the workers before have just ended
            daemon.until(lambda: daemon.get("/readyz")[0] == 200 and len(workers(daemon)) == 1)
    daemon.until(lambda: list(children(daemon).values()) not in ([], ["Z"]) and len(children(daemon)) == 1)
    assert ask(minion, "web.svc.") == [VIP]
