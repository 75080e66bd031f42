"""One daemon takes another's place, planned (`--takeover`) or after a crash: clients notice nothing."""

import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import pytest

import dns.query
from tests.harness import client
from tests.harness.client import LONG_SECONDS
from tests.harness.daemon import STATUS_PORT, Daemon
from tests.harness.files import Written, endpoints, service
from tests.harness.http_hammer import HttpHammer
from tests.harness.minion import VIP, A, B, C, Minion
from tests.harness.repeated import Repeated
from tests.harness.stage import minion
from tests.harness.until import until
from tests.kernel.test_node_ports import HEALTH_PORT, MINION
from tests.proxy.processes import children, serving

__all__ = ["minion"]

pytestmark = pytest.mark.kernel

MODE = "--mode=userspace"
DNS = ("--dns-listen=127.0.0.1:53", "--dns-upstream=off")
TAKEOVER = "--takeover"
HTTP_PORTS = [("127.0.0.1", STATUS_PORT, "/healthz"), ("127.0.0.1", STATUS_PORT, "/readyz"), (MINION, HEALTH_PORT, "/")]


class Asker(Repeated):
    """Asks one thing in a loop, each time with a new socket, and notes what is no answer."""

    def __init__(self, minion: Minion, protocol: str) -> None:
        super().__init__(f"asker {protocol}", minion.enter, 0.002)
        self._ask = {"udp": self._datagram, "dns": self._query}[protocol]

    def turn(self) -> list[str]:
        """Ask once."""
        said = self._ask()
        return [] if said in {A, B, VIP} else [said]

    @staticmethod
    def _datagram() -> str:
        return client.ask(VIP, "udp", patience_seconds=LONG_SECONDS)

    @staticmethod
    def _query() -> str:
        try:
            reply = dns.query.udp(dns.message.make_query("web.svc.", "A"), "127.0.0.1", LONG_SECONDS)
        except (OSError, dns.exception.Timeout) as error:
            return repr(error)
        return " ".join(str(item) for rrset in reply.answer for item in rrset)


def records(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A, B))


def checked(name: str, address: str) -> tuple[Written, Written]:
    """A service with a health port, and its endpoint here."""
    local: dict[str, Any] = {"externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT}
    here = endpoints(name, A)
    here["endpoints"][0]["nodeName"] = "m1"
    return service(name, address, type="LoadBalancer", **local), here


def dns_workers(daemon: Daemon) -> set[int]:
    found = set()
    for name in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
        with suppress(OSError):  # it has just ended
            if b"svcnet.dns.worker" in Path(f"/proc/{name}/cmdline").read_bytes():
                found.add(int(name))
    return found


def answers_more(*askers: Asker | client.Hammer) -> bool:
    """Wait until each has asked often, from now on."""
    before = [asker.answers for asker in askers]
    return until(lambda: all(a.answers > b + 20 for a, b in zip(askers, before, strict=True)))


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1, 1), (1, 2, 3, 1)])
def test_hand_overs_under_load_fail_nobody(minion: Minion, counts: tuple[int, ...]) -> None:
    records(minion)
    minion.put(*checked("local", "10.0.0.7"))
    workers_of = "--proxy-workers={0} --dns-workers={0}".format
    daemon = minion.daemon(MODE, *DNS, *workers_of(counts[0]).split()).ready()
    daemon.until(lambda: dns_workers(daemon))
    until(lambda: minion.ask(MINION, port=HEALTH_PORT) != client.REFUSED)
    with ExitStack() as stack:
        balancer = stack.enter_context(HttpHammer(minion.enter, HTTP_PORTS))
        askers = [stack.enter_context(Asker(minion, protocol)) for protocol in ("udp", "dns")]
        hammers = [stack.enter_context(minion.hammer(VIP)) for _ in range(2)]
        for count in counts[1:]:
            answers_more(*askers, *hammers)
            assert balancer.asks_more()
            old, daemon = daemon, minion.daemon(MODE, *DNS, TAKEOVER, *workers_of(count).split())
            assert old.ended() == 0, old.log
            daemon.ready()
            daemon.until(lambda d=daemon, n=count: len(dns_workers(d)) == n)  # type: ignore[misc]  # held values
            daemon.until(lambda d=daemon, n=count: len(children(d)) == n)  # type: ignore[misc]  # as above
            answers_more(*askers, *hammers)
        assert not [failure for asker in askers for failure in asker.failures]
        assert not balancer.failures
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    assert minion.reaches(VIP, C, protocol="udp")
    assert daemon.stop() == 0
    assert minion.ask(VIP) == client.REFUSED


def test_a_hand_over_cuts_no_connection_and_its_worker_ends_with_it(minion: Minion) -> None:
    records(minion)
    old = minion.daemon(MODE).ready()
    (pid,) = serving(old)
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)
    with minion.inside(lambda: socket.create_connection((VIP, 80))) as open_one:
        assert open_one.recv(512)
        new = minion.daemon(MODE, TAKEOVER)
        assert old.ended() == 0
        new.ready()
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_without_a_daemon_it_is_an_ordinary_start(minion: Minion) -> None:
    records(minion)
    daemon = minion.daemon(MODE, TAKEOVER).ready()
    assert minion.reaches(VIP, A, B)
    assert "an ordinary start" in daemon.log


def test_another_range_is_refused_and_the_old_one_goes_on(minion: Minion) -> None:
    records(minion)
    old = minion.daemon(MODE).ready()
    new = minion.daemon(MODE, TAKEOVER, "--service-cidr=10.7.0.0/16")
    assert new.ended() == 2
    assert "10.7.0.0/16" in new.log
    assert old.runs
    minion.put(endpoints("web", C))
    assert minion.reaches(VIP, C)


def test_one_that_is_killed_before_it_is_ready_changes_nothing(minion: Minion) -> None:
    records(minion)
    old = minion.daemon(MODE).ready()
    (pid,) = serving(old)
    with minion.hammer(VIP):
        new = minion.daemon(MODE, TAKEOVER)
        until(lambda: "about to take over" in old.log)
        new.kill()
        minion.put(endpoints("web", C))
        assert minion.reaches(VIP, C)
    assert children(old) == {pid}


def test_workers_serve_on_without_their_daemon_and_the_next_one_takes_over_from_them(minion: Minion) -> None:
    records(minion)
    daemon = minion.daemon(MODE, *DNS, "--proxy-workers=2").ready()
    pids = serving(daemon, 2)
    with minion.hammer(VIP):
        daemon.kill()
        assert minion.reaches(VIP, A, B)
        again = minion.daemon(MODE, *DNS).ready()
        minion.put(endpoints("web", C))
        assert minion.reaches(VIP, C)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert again.stop() == 0


def test_cleanup_ends_workers_without_a_daemon(minion: Minion) -> None:
    records(minion)
    daemon = minion.daemon(MODE, *DNS).ready()
    pids = serving(daemon)
    daemon.kill()
    assert minion.ask(VIP) in {A, B}
    done = minion.daemon("--cleanup")
    assert done.ended() == 0, done.log
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert minion.ask(VIP) not in {A, B}
