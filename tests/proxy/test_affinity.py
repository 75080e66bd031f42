"""Many clients of a service with affinity, in userspace mode: who stays where."""

import os
import select
import signal
import socket

import pytest

from svcnet.proxy.row import Backend, Choice
from tests.harness.crowd import CLIENTS, moved, settle, sticky, visit
from tests.harness.files import endpoints
from tests.harness.minion import A6, B6, VIP, VIP6, A, B, C, Minion
from tests.harness.stage import minion
from tests.harness.until import until
from tests.proxy.processes import another_than, serving
from tests.proxy.stage import HOST, Stage

__all__ = ["minion"]

MODE = "--mode=userspace"
STRANGERS = [f"198.18.6.{n}" for n in range(1, 100)]


@pytest.mark.kernel
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


@pytest.mark.kernel
def test_250_clients_stay_when_a_worker_is_killed_or_the_daemon_starts_anew(minion: Minion) -> None:
    settle(minion)
    minion.put(sticky(10800), endpoints("web", A, B))
    daemon = minion.daemon(MODE).ready()
    before = visit(minion, VIP, CLIENTS[4])
    assert set(before.values()) == {A, B}
    (pid,) = serving(daemon)
    os.kill(pid, signal.SIGKILL)
    daemon.until(lambda: another_than(pid, daemon))
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()
    daemon.stop()
    minion.daemon(MODE, "--proxy-workers=2").ready()
    assert moved(before, visit(minion, VIP, CLIENTS[4])) == set()


@pytest.mark.parametrize("choice", [Choice.AFFINITY, Choice.HASH])
def test_a_client_whose_endpoint_refuses_goes_to_another_and_with_affinity_stays_there(
    stage: Stage, choice: Choice
) -> None:
    made = [stage.keep(socket.create_server((HOST, 0))) for _ in range(2)]
    servers = [(server, Backend(*server.getsockname())) for server in made]
    ident = stage.frontend(*(backend for _, backend in servers), choice=choice)

    def led() -> int:
        """The number of the server that a connection comes to."""
        with stage.client(ident):
            (ready, *others), _, _ = select.select([s for s, _ in servers], [], [])
            assert not others
            stage.accept(ready).close()
        return next(number for number, (s, _) in enumerate(servers) if s is ready)

    first = led()
    backend = servers[first][1]
    servers[first][0].close()
    servers[first] = stage.server()  # nobody is led there
    assert led() == 1 - first
    servers[first] = stage.keep(socket.create_server(backend)), backend  # with SO_REUSEADDR
    assert led() == (1 - first if choice is Choice.AFFINITY else first)
