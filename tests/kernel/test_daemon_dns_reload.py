"""DNS of the daemon while workers die and programs are started anew: no query is lost."""

import contextlib
import itertools
import os
import signal
import socket
import threading

import dns.exception
import dns.message
import dns.rcode
import dns.rrset
import pytest

import dns.query
from tests.harness.daemon import Daemon
from tests.harness.files import service
from tests.harness.minion import VIP, Minion
from tests.harness.until import PATIENCE_SECONDS
from tests.kernel.test_daemon_dns import HERE, LISTEN, ask, says, workers

pytestmark = pytest.mark.kernel


class Caller(threading.Thread):
    """Asks again and again, never twice for the same; what was answered, with whole timeouts as None."""

    def __init__(self, minion: Minion, name: str, stream: bool = False) -> None:
        super().__init__()
        self._minion, self._name, self._stream = minion, name, stream
        self.answers: list[str | None] = []
        self._over = threading.Event()

    def run(self) -> None:
        self._minion.enter()
        self._ask()

    def _ask(self) -> None:
        how = dns.query.tcp if self._stream else dns.query.udp
        while not self._over.is_set():
            try:
                reply = how(dns.message.make_query(self._name, "A"), "127.0.0.1", PATIENCE_SECONDS)
            except (OSError, EOFError, dns.exception.Timeout) as error:
                self.answers.append(f"lost: {error!r}")
            else:
                self.answers.append(str(reply.answer[0][0]) if reply.answer else dns.rcode.to_text(reply.rcode()))

    def said(self) -> set[str | None]:
        """All different answers."""
        self._over.set()
        self.join()
        return set(self.answers)


def more(daemon: Daemon, callers: list[Caller], number: int = 20) -> None:
    """Wait until each has so many answers more."""
    before = [len(caller.answers) for caller in callers]
    daemon.until(lambda: all(len(c.answers) >= b + number for c, b in zip(callers, before, strict=True)))


def test_a_worker_that_dies_loses_no_query_that_it_had_not_taken(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon(*HERE).ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    for _ in range(3):
        (worker,) = workers(daemon)
        os.kill(worker, signal.SIGSTOP)
        asking = minion.inside(lambda: [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)])
        with contextlib.ExitStack() as stack:
            for client in asking:
                stack.enter_context(client)
                client.settimeout(PATIENCE_SECONDS)
                client.connect(("127.0.0.1", 53))
                client.send(dns.message.make_query("web.svc.", "A").to_wire())
            os.kill(worker, signal.SIGKILL)
            replies = [dns.message.from_wire(client.recv(512)) for client in asking]
        assert [str(reply.answer[0][0]) for reply in replies] == [VIP] * len(asking), "not one of them SERVFAIL"
        daemon.until(lambda w=worker: workers(daemon) not in ([], [w]))  # type: ignore[misc]  # the loop's value, held


@pytest.mark.parametrize("count", [1, 2])
def test_a_reload_loses_no_query(minion: Minion, count: int) -> None:
    minion.put(service("web", VIP))
    config = minion.root / "svcnet.toml"
    config.write_text('dns-ttl = "5"\n')
    daemon = minion.daemon(*HERE, f"--config={config}", f"--dns-workers={count}").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    callers = [Caller(minion, "web.svc.", stream) for stream in (False, False, True)]
    for caller in callers:
        caller.start()
    for ttl in (6, 7):
        old = workers(daemon)
        more(daemon, callers)
        config.write_text(f'dns-ttl = "{ttl}"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda o=old: len(new := workers(daemon)) == count and not set(new) & set(o))  # type: ignore[misc]  # as above
        more(daemon, callers)
    assert {caller.said() == {VIP} for caller in callers} == {True}, [c.said() for c in callers]
    ttls = minion.run("dig", "@127.0.0.1", "web.svc", "+noall", "+answer").stdout.split()
    assert ttls[:5] == ["web.svc.", "7", "IN", "A", VIP]
    minion.put(service("db", "10.0.0.9"))
    daemon.until(lambda: ask(minion, "db.svc.") == ["10.0.0.9"])
    assert daemon.stop() == 0


def test_reloads_in_the_middle_of_the_start_that_the_last_one_asked_for_lose_nothing(minion: Minion) -> None:
    minion.put(service("web", VIP))
    config = minion.root / "svcnet.toml"
    config.write_text('dns-ttl = "5"\n')
    daemon = minion.daemon(*HERE, f"--config={config}").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    caller = Caller(minion, "web.svc.")
    caller.start()
    for ttl in range(6, 11):
        starts = daemon.log.count("daemon starting node=")
        config.write_text(f'dns-ttl = "{ttl}"\n')
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda s=starts: daemon.log.count("daemon starting node=") > s)  # type: ignore[misc]  # as above
    try:
        daemon.until(
            lambda: minion.run("dig", "@127.0.0.1", "web.svc", "+noall", "+answer").stdout.split()[1:2] == ["10"]
        )
        assert says(daemon, lambda state: state == "running")
    finally:
        said = caller.said()
    assert said == {VIP}


def test_a_reload_that_needs_other_sockets_gets_them(minion: Minion) -> None:
    minion.put(service("web", VIP))
    config = minion.root / "svcnet.toml"
    config.write_text('dns-listen = "127.0.0.1:53"\n')
    daemon = minion.daemon(*HERE[1:], f"--config={config}", without="--dns-listen").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    for said, count in (
        ('"0.0.0.0:53"', 1),
        ('"127.0.0.1:53"\ndns-workers = 2', 2),
        ('"off"', 0),
        ('"127.0.0.1:53"', 1),
    ):
        config.write_text(f"dns-listen = {said}\n")
        daemon.signal(signal.SIGHUP)
        daemon.until(lambda n=count: len(workers(daemon)) == n)  # type: ignore[misc]  # the loop's value, held
        if count:
            daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert says(daemon, bool) == "running"


def test_what_waits_for_upstream_at_a_reload_is_answered(minion: Minion) -> None:
    minion.put(service("web", VIP))
    config = minion.root / "svcnet.toml"
    config.write_text('dns-ttl = "5"\n')
    with minion.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as upstream:
        upstream.bind(("127.0.0.1", 5300))
        upstream.settimeout(PATIENCE_SECONDS)
        daemon = minion.daemon(LISTEN, "--mode=none", "--dns-upstream=127.0.0.1:5300", f"--config={config}").ready()
        daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
        ttls = itertools.count(6)

        def is_answered() -> bool:
            """What is asked before a reload and answered upstream after it; SERVFAIL where that took over 4 s."""
            name, old = f"far{(ttl := next(ttls))}.example.", workers(daemon)
            caller = Caller(minion, name)
            caller.start()
            packet, client = upstream.recvfrom(4096)
            while str((query := dns.message.from_wire(packet)).question[0].name) != name:  # of the time before
                packet, client = upstream.recvfrom(4096)
            config.write_text(f'dns-ttl = "{ttl}"\n')
            daemon.signal(signal.SIGHUP)
            daemon.until(lambda: set(workers(daemon)) - set(old))
            reply = dns.message.make_response(query)
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.77"))
            upstream.sendto(reply.to_wire(), client)
            daemon.until(lambda: caller.answers)
            caller.said()
            assert caller.answers[0] in {"192.0.2.77", "SERVFAIL"}
            return caller.answers[0] == "192.0.2.77"

        daemon.until(is_answered)
