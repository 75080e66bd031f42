"""Many clients of a service with affinity, in userspace mode: who stays where."""

import os
import signal

import pytest

from tests.harness.crowd import CLIENTS, moved, settle, sticky, visit
from tests.harness.files import endpoints
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import until
from tests.proxy.processes import another_than, children

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

MODE = "--mode=userspace"
STRANGERS = [f"198.18.6.{n}" for n in range(1, 100)]


@pytest.mark.parametrize("workers", [1, 2])
def test_250_clients_stay_until_their_endpoint_goes_also_with_two_workers(minion: Minion, workers: int) -> None:
    settle(minion)
    minion.put(sticky(10800), endpoints("web", A, B), endpoints("web", A6, B6))
    minion.daemon(MODE, f"--proxy-workers={workers}").ready()
    for family, vip, others in ((4, VIP, {A, B}), (6, VIP6, {A6, B6})):
        before = visit(minion, vip, CLIENTS[family])
        assert set(before.values()) == others
        assert [moved(before, visit(minion, vip, CLIENTS[family])) for _ in range(2)] == [set(), set()]
    before = visit(minion, VIP, CLIENTS[4])
    minion.put(endpoints("web", A, B, C))
    minion.run("ip", "route", "add", "local", "198.18.6.0/24", "dev", "lo")
    until(lambda: C in visit(minion, VIP, STRANGERS).values())
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()
    minion.put(endpoints("web", A, C))
    until(lambda: B not in visit(minion, VIP, CLIENTS[4]).values())
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == {client for client, at in before.items() if at == B}


def test_250_clients_stay_when_a_worker_is_killed_or_the_daemon_starts_anew(minion: Minion) -> None:
    settle(minion)
    minion.put(sticky(10800), endpoints("web", A, B))
    daemon = minion.daemon(MODE).ready()
    before = visit(minion, VIP, CLIENTS[4])
    assert set(before.values()) == {A, B}
    (pid,) = children(daemon)
    os.kill(pid, signal.SIGKILL)
    daemon.until(lambda: another_than(pid, daemon))
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()
    daemon.stop()
    minion.daemon(MODE, "--proxy-workers=2").ready()
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()
