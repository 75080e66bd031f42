"""What an operator sees of the userspace proxy's choices: a daemon, its status, its metrics, the command line."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.harness import files
from tests.harness.client import LONG_SECONDS
from tests.harness.daemon import Daemon
from tests.harness.files import PORT, Written, endpoints
from tests.harness.minion import VIP, A, B, Minion
from tests.harness.stage import minion

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

MODE = "--mode=userspace"
DEAD_PORT = 8081
"""Nobody listens there."""


def service(**annotations: str) -> Written:
    """One with TCP alone."""
    record = files.service("web", VIP, protocols=["TCP"])
    record["metadata"]["annotations"] = {f"svcnet.dev/{k.replace('_', '-')}": v for k, v in annotations.items()}
    return record


def backends(*addresses: str) -> Written:
    return endpoints("web", *addresses, protocols=["TCP"])


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    """The value of the one series with these labels; -1: there is none."""
    for line in daemon.get("/metrics")[1].splitlines():
        if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    return -1.0


Hold = Callable[[int], None]


@pytest.fixture
def hold(minion: Minion) -> Iterator[Hold]:
    """So many clients more that stay connected, until the end."""
    clients: list[socket.socket] = []

    def connect() -> None:
        with suppress(ConnectionResetError):  # at once
            clients.append(socket.create_connection((VIP, PORT), LONG_SECONDS))

    def connect_all(number: int) -> None:
        for _ in range(number):
            minion.inside(connect)

    yield connect_all
    for client in clients:
        client.close()


def reads(daemon: Daemon, name: str, value: float, **labels: str) -> Callable[[], bool]:
    return lambda: metric(daemon, name, **labels) == value


def test_who_is_ejected_is_named_everywhere_until_it_is_back(minion: Minion) -> None:
    dead = backends(B)
    dead["metadata"]["name"], dead["ports"][0]["port"] = "dead", DEAD_PORT
    minion.put(service(eject="failures=2,base=1h,max=1h", balance="leastconn"), backends(A), dead)
    daemon = minion.daemon(MODE).ready()
    where = f"{B}:{DEAD_PORT} of default/web:80/tcp"

    def ejected() -> bool:
        assert minion.ask(VIP) == A
        named: list[str] = daemon.status()["ejected"]
        return named == [where]

    daemon.until(ejected)
    daemon.until(reads(daemon, "svcnet_endpoint_ejected", 1, endpoint=f"{B}:{DEAD_PORT}"))
    daemon.until(reads(daemon, "svcnet_endpoint_ejected", 0, endpoint=f"{A}:8080"))
    daemon.until(reads(daemon, "svcnet_service_dial_failures_total", 2, reason="refused"))
    assert f"Ejected, as dials failed (1)\n  {where}\n" in minion.svcnet("status").stdout

    def described() -> str:
        return minion.svcnet("describe", "service", "web", *minion.options()[:2]).stdout

    # It does not wait long for a daemon, which may be busy.
    line = rf"^Ejected: +80/tcp → {B}:{DEAD_PORT} \(too many dials"
    daemon.until(lambda: re.search(line, described(), re.MULTILINE))
    minion.put(service(eject="off"))
    daemon.until(lambda: daemon.status()["ejected"] == [])
    assert "Ejected" not in minion.svcnet("status").stdout
    assert "Ejected" not in described()


def test_a_limit_that_is_reached_is_shown_as_long_as_it_is(minion: Minion, hold: Hold) -> None:
    minion.put(service(max_connections="2"), backends(A))
    daemon = minion.daemon(MODE).ready()
    hold(3)
    daemon.until(reads(daemon, "svcnet_service_connections_limited", 1))
    daemon.until(reads(daemon, "svcnet_service_open_connections", 2))
    minion.put(service(max_connections="5"))
    daemon.until(reads(daemon, "svcnet_service_connections_limited", 0))
    daemon.until(reads(daemon, "svcnet_service_open_connections", 3))


def test_clients_in_the_queue_are_counted_and_so_are_those_that_waited_too_long(minion: Minion, hold: Hold) -> None:
    minion.put(service(max_connections_per_endpoint="1,queue=2,timeout=1h"), backends(A, B))
    daemon = minion.daemon(MODE).ready()
    hold(4)
    daemon.until(reads(daemon, "svcnet_service_queued_connections", 2))
    daemon.until(reads(daemon, "svcnet_service_open_connections", 2))
    hold(1)
    daemon.until(reads(daemon, "svcnet_service_rejections_total", 1, reason="no room"))
    for endpoint in (A, B):
        daemon.until(reads(daemon, "svcnet_endpoint_open_connections", 1, endpoint=f"{endpoint}:8080"))
    minion.put(service(max_connections_per_endpoint="1,queue=3,timeout=20ms"))

    def gives_up() -> bool:
        hold(1)
        return metric(daemon, "svcnet_service_rejections_total", reason="queue timeout") > 0

    daemon.until(gives_up)
    minion.put(service())
    daemon.until(reads(daemon, "svcnet_service_queued_connections", 0))
    daemon.until(lambda: metric(daemon, "svcnet_service_open_connections") >= 4)


def test_a_new_endpoint_starts_slowly_and_then_the_load_evens_out(minion: Minion, hold: Hold) -> None:
    minion.put(service(slow_start="1h", balance="leastconn"), backends(A))
    daemon = minion.daemon(MODE).ready()
    hold(10)
    minion.put(backends(A, B))

    def share() -> float:
        """Of B, of the connections that are open."""
        hold(4)
        here = metric(daemon, "svcnet_endpoint_open_connections", endpoint=f"{B}:8080")
        return max(0.0, here) / metric(daemon, "svcnet_service_open_connections")

    daemon.until(lambda: share() > 0)
    hold(30)
    assert share() < 0.25, "a tenth of A's weight"
    minion.put(service(balance="leastconn"))
    daemon.until(lambda: share() > 0.4)
