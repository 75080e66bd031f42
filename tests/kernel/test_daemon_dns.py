"""DNS of a whole daemon in a namespace: `dig` and dnspython ask, records change, workers and stores go away."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import dns.rrset
import pytest

import dns.query
from tests.harness.daemon import Daemon
from tests.harness.files import endpoints, service
from tests.harness.minion import A6, VIP, VIP6, A, B, Minion
from tests.harness.until import until

pytestmark = pytest.mark.kernel

LISTEN = "--dns-listen=127.0.0.1:53"
HERE = (LISTEN, "--mode=none", "--dns-upstream=off")
SECONDS, TRIES = 5.0, 6


def ask(minion: Minion, name: str, kind: str = "A", server: str = "127.0.0.1", port: int = 53) -> list[str]:
    """The data of the answer; the code when there is none; [] when nobody answers. As clients do, it asks again."""

    def query() -> list[str]:
        for _ in range(TRIES):
            try:
                reply = dns.query.udp(dns.message.make_query(name, kind), server, SECONDS, port)
            except dns.exception.Timeout:
                continue
            except OSError:
                return []
            return [str(item) for rrset in reply.answer for item in rrset] or [dns.rcode.to_text(reply.rcode())]
        return []

    return minion.inside(query)


def workers(daemon: Daemon) -> list[int]:
    """Pids of its DNS workers."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    found = []
    for pid in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"svcnet.dns.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def says(daemon: Daemon, wanted: Callable[[str], bool]) -> str:
    """Wait for what /status says of DNS."""
    return daemon.until(lambda: state if wanted(state := daemon.status()["parts"]["dns"]) else "")


def test_names_follow_the_records(minion: Minion) -> None:
    minion.put(service("web", VIP, VIP6), endpoints("web", A))
    daemon = minion.daemon(LISTEN, "--dns-upstream=off").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert ask(minion, "web.default.svc.cluster.local.", "AAAA") == [VIP6]
    assert ask(minion, "5.0.0.10.in-addr.arpa.", "PTR") == ["web.default.svc.cluster.local."]
    assert minion.run("dig", "@127.0.0.1", "+short", "+tcp", "web.svc").stdout.split() == [VIP]
    minion.put(service("db", clusterIP="None"), endpoints("db", A, B))
    daemon.until(lambda: sorted(ask(minion, "db.svc.")) == [A, B])
    minion.put(endpoints("db", B))
    daemon.until(lambda: ask(minion, "db.svc.") == [B])
    minion.remove(service("web"))
    daemon.until(lambda: ask(minion, "web.svc.") == ["NXDOMAIN"])
    assert says(daemon, bool) == "running"
    assert daemon.stop() == 0


def test_a_worker_that_is_killed_is_back_with_the_current_records(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon(*HERE).ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    minion.put(service("db", "10.0.0.9"))
    daemon.until(lambda: ask(minion, "db.svc.") == ["10.0.0.9"])
    (old,) = workers(daemon)
    os.kill(old, signal.SIGKILL)
    # What is asked meanwhile waits in the socket, which is the daemon's.
    assert ask(minion, "db.svc.") in (["10.0.0.9"], ["SERVFAIL"])
    daemon.until(lambda: ask(minion, "db.svc.") == ["10.0.0.9"])
    (new,) = workers(daemon)
    assert new != old
    assert says(daemon, lambda state: state == "running")
    assert daemon.runs


def test_workers_answer_on_when_the_daemon_is_killed_until_the_next_one_has_the_port(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon(*HERE, "--dns-workers=2").ready()
    daemon.until(lambda: len(workers(daemon)) == 2 and ask(minion, "web.svc.") == [VIP])
    left = workers(daemon)
    daemon.kill()
    assert ask(minion, "web.svc.") == [VIP]
    again = minion.daemon(*HERE).ready()
    again.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    again.until(lambda: ask(minion, "web.svc.") == [VIP])
    left = workers(again)
    assert again.stop() == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_taken_port_is_named_the_rest_is_served_and_it_is_tried_again(
    minion: Minion, kind: socket.SocketKind
) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    taken = minion.inside(lambda: socket.socket(socket.AF_INET, kind))
    with taken:
        taken.bind(("127.0.0.1", 53))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        daemon = minion.daemon("--dns-listen=127.0.0.1:53,127.0.0.1:5353", "--mode=none", "--dns-upstream=off").ready()
        assert says(daemon, lambda s: s.startswith("failed")) == "failed: 127.0.0.1:53: Address already in use"
        assert "127.0.0.1:53" in daemon.get("/readyz")[1]
        daemon.until(lambda: ask(minion, "web.svc.", port=5353) == [VIP])
    assert says(daemon, lambda state: state == "running")
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert ask(minion, "web.svc.", port=5353) == [VIP]


def test_with_no_port_at_all_everything_else_goes_on(minion: Minion) -> None:
    minion.put(service("web", VIP), endpoints("web", A))
    with minion.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind(("127.0.0.1", 53))
        daemon = minion.daemon(LISTEN).ready()
        assert says(daemon, lambda s: s.startswith("failed"))
        assert workers(daemon) == []
        assert daemon.get("/readyz")[0] == 200
        assert daemon.stop() == 0


def test_an_address_that_comes_later_is_served_then(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon("--dns-listen=192.0.2.99:53", "--mode=none", "--dns-upstream=off").ready()
    assert says(daemon, lambda s: s.startswith("failed")) == "failed: 192.0.2.99:53: Cannot assign requested address"
    minion.run("ip", "addr", "add", "192.0.2.99/32", "dev", "lo")
    assert says(daemon, lambda state: state == "running")
    daemon.until(lambda: ask(minion, "web.svc.", server="192.0.2.99") == [VIP])


def test_without_store_or_checkpoint_it_fails_rather_than_denies(minion: Minion) -> None:
    away = minion.records.rename(minion.root / "away")
    daemon = minion.daemon(*HERE)
    assert says(daemon, lambda state: state == "running")
    daemon.until(lambda: ask(minion, "web.svc.") == ["SERVFAIL"])
    away.rename(minion.records)
    minion.put(service("web", VIP))
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])


def test_a_checkpoint_is_answered_from_while_the_store_is_away(minion: Minion) -> None:
    minion.put(service("web", VIP))
    first = minion.daemon(*HERE).ready()
    first.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert first.stop() == 0
    away = minion.records.rename(minion.root / "away")
    daemon = minion.daemon(*HERE)
    assert says(daemon, lambda state: state == "running")
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert daemon.get("/readyz")[0] == 503
    away.rename(minion.records)
    daemon.ready()


@pytest.mark.parametrize(
    ("listen", "server", "other", "name_server"),
    [("0.0.0.0:53", A, "127.0.0.1", "192.0.2.1"), ("[::]:53", A6, "::1", "fd00:99::1")],
)
def test_every_address_is_asked_and_answers_and_only_for_the_allowed(
    minion: Minion, listen: str, server: str, other: str, name_server: str
) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon(
        f"--dns-listen={listen}", "--mode=none", "--dns-upstream=off", "--dns-allow=192.0.2.0/24,fd00:99::/64"
    ).ready()
    daemon.until(lambda: ask(minion, "web.svc.", server=server) == [VIP])
    assert ask(minion, "web.svc.", server=other) == ["REFUSED"]
    kind = "AAAA" if ":" in server else "A"
    assert ask(minion, "ns.dns.cluster.local.", kind, server) == [name_server], "the source of the default route"
    by_tcp = minion.run("dig", f"@{server}", "+short", "+tcp", "web.svc")
    assert by_tcp.stdout.split() == [VIP]


def test_a_server_upstream_that_leads_back_is_named_and_asked_no_more(minion: Minion) -> None:
    minion.put(service("web", VIP))
    upstream = f"{A}:53"  # which is this minion
    daemon = minion.daemon("--dns-listen=0.0.0.0:53", "--mode=none", f"--dns-upstream={upstream}").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert ask(minion, "example.org.") == ["SERVFAIL"]
    assert says(daemon, lambda state: state == f"failed: upstream {upstream} leads back to this server")
    assert f"upstream {upstream} leads back to this server" in daemon.get("/readyz")[1]
    assert ask(minion, "other.example.org.") == ["SERVFAIL"]
    assert ask(minion, "web.svc.") == [VIP]


def test_the_name_server_of_our_zones_is_no_loopback_address_where_others_may_ask(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon("--dns-listen=127.0.0.1:53,192.0.2.1:53", "--mode=none", "--dns-upstream=off").ready()
    daemon.until(lambda: ask(minion, "web.svc.") == [VIP])
    assert ask(minion, "svc.", "NS") == ["ns.dns.cluster.local."]
    assert ask(minion, "ns.dns.cluster.local.") == ["192.0.2.1"]
    glue = minion.run("dig", "@127.0.0.1", "svc", "NS", "+noall", "+additional").stdout.split()
    assert glue == ["ns.dns.cluster.local.", "5", "IN", "A", "192.0.2.1"]


def test_endpoints_of_the_minion_come_first_then_those_of_its_zone(minion: Minion) -> None:
    for node, zone in (("here", "east"), ("near", "east"), ("far", "west")):
        labels = {"topology.kubernetes.io/zone": zone}
        record = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
        (minion.records / f"{node}.json").write_text(json.dumps(record))
    nodes = {"10.1.9.1": "far", "10.1.9.2": "near", "10.1.9.3": "here", "10.1.9.4": "far"}
    for number, (address, node) in enumerate(nodes.items()):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"db-{number}", "labels": {"app": "db"}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "podIP": address},
        }
        (minion.records / f"pod-{number}.json").write_text(json.dumps(pod))
    minion.put(service("db", clusterIP="None", selector={"app": "db"}))
    daemon = minion.daemon(*HERE, "--node=here").ready()
    daemon.until(lambda: len(ask(minion, "db.svc.")) == len(nodes))
    for _ in range(4):
        assert [nodes[address] for address in ask(minion, "db.svc.")] == ["here", "near", "far", "far"]


def test_zones_have_the_names_of_the_options(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon(*HERE, "--zone=corp,svc.example", "--cluster-domain=k8s.test").ready()
    for name in ("web.corp.", "web.default.svc.example.", "web.default.svc.k8s.test."):
        daemon.until(lambda n=name: ask(minion, n) == [VIP])  # type: ignore[misc]  # the loop's value, held
    assert ask(minion, "web.svc.") == ["REFUSED"]


def sample(daemon: Daemon, name: str) -> float:
    """The value of a metric, 0 while it isn't there."""
    found = [line.rpartition(" ")[2] for line in daemon.get("/metrics")[1].splitlines() if line.startswith(f"{name} ")]
    return float(found[0]) if found else 0.0


def test_queries_are_counted_over_the_life_of_workers_and_so_is_what_the_kernel_drops(minion: Minion) -> None:
    minion.put(service("web", VIP))
    daemon = minion.daemon(*HERE).ready()
    daemon.until(lambda: ask(minion, "web.svc.", "AAAA") == ["NOERROR"])
    name = 'svcnet_dns_requests_total{family="1",proto="udp",type="A"}'
    assert ask(minion, "web.svc.") == [VIP]
    daemon.until(lambda: sample(daemon, name) == 1)
    (worker,) = workers(daemon)
    os.kill(worker, signal.SIGSTOP)
    flood = dns.message.make_query("web.svc.", "A").to_wire()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", 53))
            for _ in range(10_000):
                client.send(flood)

    minion.inside(send)
    daemon.until(lambda: sample(daemon, 'svcnet_dns_dropped_total{reason="receive buffer full"}') > 0)
    os.kill(worker, signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    daemon.until(lambda: sample(daemon, "svcnet_dns_worker_starts_total") == 2)

    def counted() -> float:
        return sample(daemon, name) + sample(daemon, 'svcnet_dns_dropped_total{reason="receive buffer full"}')

    # All that was not dropped is answered by the next worker, and counted once.
    daemon.until(lambda: counted() >= 1 + 10_000)
    assert counted() == 1 + 10_000
