"""kill -9 at any moment: no connect fails, no rule is lost, the next start makes the kernel equal to the records."""

import random
import signal
import sys
from itertools import cycle
from pathlib import Path

import pytest

from tests.harness.files import Written, endpoints, service
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion

pytestmark = pytest.mark.kernel

KILLS = 18
CUTS = 20
SERVICES = 2000
DONE = "0 to create, 0 to update, 0 to delete"
WEB = service("web", VIP, VIP6, ipFamilyPolicy="RequireDualStack")
CUT_LOAD = Path(__file__).with_name("cut_load.py")


def moving(step: int) -> tuple[Written, ...]:
    """Records that are different in every step: numbers of endpoints, services that come and go."""
    numbers = range(1, 60)
    ends = [endpoints(f"s{n}", *(A, B, C)[: (n + step) % 4]) for n in numbers]
    return (*(service(f"s{n}", f"10.0.1.{n}") for n in numbers), *ends)


def test_no_connect_fails_while_the_daemon_is_killed_again_and_again(minion: Minion) -> None:
    chance = random.Random(20140606)
    minion.put(WEB, endpoints("web", A, B), endpoints("web", A6), *moving(0))
    first = minion.daemon().ready()
    with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
        first.kill()
        for step in range(1, KILLS + 1):
            # From before its first line of code to well after its first sync, while files change all the time.
            stop_after = chance.randrange(0, 150)
            daemon = minion.daemon()
            for written, record in enumerate(cycle(moving(step))):
                if written >= stop_after and (stop_after < 75 or daemon.get("/healthz")[0]):
                    break
                minion.put(record)
                if written % 40 == 0:
                    minion.put(endpoints("web", *chance.choice([(A,), (A, B), (A, B, C)])))
                    minion.put(endpoints("web", *chance.choice([(A6,), (A6, B6)])))
            daemon.kill()
        last = minion.daemon().caught_up()
    assert minion.plan() == DONE
    assert four.answers > KILLS
    assert six.answers > KILLS
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert last.stop() == 0


def test_no_connect_fails_when_a_load_is_killed_between_two_commits(minion: Minion) -> None:
    """Loads of 2,000 services in commits of 50 operations, each cut off at some commit; the next goes elsewhere."""
    chance = random.Random(20060406)
    minion.put(WEB, endpoints("web", A), endpoints("web", A6))
    minion.daemon().ready().stop()
    with minion.hammer(VIP) as four, minion.hammer(VIP6) as six:
        for cut in range(CUTS):
            load = minion.start(
                sys.executable, str(CUT_LOAD), str(SERVICES if cut < CUTS // 2 else SERVICES // 2), str(cut % 5 + 1)
            )
            assert load.stdout is not None
            for _ in range(chance.choice([1, 2, chance.randrange(1, 60), chance.randrange(1, 250)])):
                if not load.stdout.readline():
                    break
            load.kill()
            load.wait()
            load.stdout.close()
        daemon = minion.daemon().ready()
    assert four.answers > CUTS
    assert six.answers > CUTS
    assert minion.plan() == DONE
    assert len(minion.elements("endpoints")) == 2  # web over TCP and UDP; nothing of the loads leads anywhere any more
    assert minion.ask("10.0.8.1") == "silence"
    assert daemon.stop() == 0


def test_the_first_load_is_finished_by_the_start_after_a_kill(minion: Minion) -> None:
    """Nothing served before: killed while it reads, and as it has just programmed and saves."""
    for n in range(1, 601):
        minion.put(service(f"s{n}", f"10.0.{8 + n // 250}.{n % 250 + 1}"), endpoints(f"s{n}", A))
    for line in ("starting node=", "synced rev="):
        daemon = minion.daemon()
        daemon.until(lambda line=line, daemon=daemon: line in daemon.log)  # type: ignore[misc] # mypy can't infer defaults
        daemon.kill()
    minion.daemon().caught_up()
    assert minion.plan() == DONE
    assert minion.ask("10.0.10.101") == A


def test_a_stopped_process_counts_as_running(minion: Minion) -> None:
    """SIGSTOP, as a debugger or a frozen cgroup does: rules go on, a second daemon is refused, nothing is lost."""
    minion.put(WEB, endpoints("web", A))
    daemon = minion.daemon().ready()
    daemon.signal(signal.SIGSTOP)
    minion.put(endpoints("web", B))
    assert minion.ask(VIP) == A
    second = minion.daemon()
    assert second.ended() == 1
    assert f"pid {daemon.pid}" in second.log
    daemon.signal(signal.SIGCONT)
    assert minion.reaches(VIP, B)
