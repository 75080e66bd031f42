"""Names and the kernel follow the same records, and secondaries are never led astray, whoever dies or falls back."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.rdatatype
import pytest

import dns.name
import dns.query
from tests.dns.secondary import Secondary, query_for
from tests.harness import client
from tests.harness.daemon import Daemon
from tests.harness.files import Written, endpoints, service
from tests.harness.minion import SERVICE_CIDRS, A, B, Minion
from tests.harness.until import PATIENCE_SECONDS, until
from tests.store.etcd_server import EtcdServer

pytestmark = pytest.mark.kernel

HOST = "127.0.0.1"
OPTIONS = (f"--dns-listen={HOST}:53", "--dns-upstream=off", "--dns-transfer-to=127.0.0.0/8")
MANY = 400


def resolved(name: str) -> str:
    """The first address of a name, "" while there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE_SECONDS)
        asking.connect((HOST, 53))
        try:
            asking.send(dns.message.make_query(name, "A").to_wire())
            answer = dns.message.from_wire(asking.recv(4096)).answer
        except ConnectionRefusedError:
            return ""
    return str(answer[0][0]) if answer else ""


def connected(name: str) -> str:
    """Ask again and again until the name leads somewhere, and connect there at once: who answers."""
    return client.ask(until(lambda: resolved(name)), patience_seconds=client.LONG_SECONDS)


def test_who_resolves_a_new_service_and_connects_at_once_is_answered(minion: Minion) -> None:
    """The kernel is told first: one service after the other, and many in one change."""
    minion.put(service("web", "10.0.0.5"), endpoints("web", A))
    minion.daemon(*OPTIONS, "--mode=nftables").ready()
    minion.inside(lambda: until(lambda: resolved("web.svc.")))
    for number in range(10):
        minion.put(endpoints(f"new{number}", B))
        minion.put(service(f"new{number}", f"10.0.1.{number + 1}"))
        assert minion.inside(lambda n=number: connected(f"new{n}.svc.")) == B  # type: ignore[misc]  # the loop's value, held
    many = [service(f"many{n}", f"10.0.{n // 200 + 2}.{n % 200 + 1}") for n in range(MANY)]
    many += [endpoints(f"many{n}", A) for n in range(MANY)]
    at_once(minion, "many", many)
    for number in (MANY - 1, 0, MANY // 2):
        assert minion.inside(lambda n=number: connected(f"many{n}.svc.")) == A  # type: ignore[misc]  # as above


def at_once(minion: Minion, name: str, records: list[Written]) -> None:
    """Write many records into one file."""
    fresh = minion.records / f".{name}"
    fresh.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": records}))
    fresh.rename(minion.records / f"{name}.json")


def test_a_worker_that_dies_in_the_middle_of_a_transfer_is_followed_by_one_that_gives_the_whole(minion: Minion) -> None:
    at_once(minion, "many", [service(f"s{n}", f"10.0.{n // 250 + 1}.{n % 250 + 1}") for n in range(300)])
    # Of what it sends the kernel holds little, so that most of a transfer dies with it.
    minion.inside(lambda: Path("/proc/sys/net/ipv4/tcp_wmem").write_text("4096 4096 4096"))
    daemon = minion.daemon(*OPTIONS, "--mode=none").ready()
    minion.inside(lambda: until(lambda: resolved("s7.svc.")))
    secondary = Secondary("svc.")
    minion.inside(lambda: transfer(secondary))
    serial = secondary.serial
    for kind in (dns.rdatatype.AXFR, dns.rdatatype.IXFR):
        (worker,) = workers(daemon)
        with minion.inside(lambda k=kind: begun(k, serial)) as half:  # type: ignore[misc]  # as above
            at_once(minion, "more", [service("web", f"10.0.0.{int(kind) % 100}")])
            os.kill(worker, signal.SIGKILL)
            assert not ended_well(half)
        minion.inside(lambda k=kind: until(lambda: resolved("web.svc.") == f"10.0.0.{int(k) % 100}"))  # type: ignore[misc]  # as above
        minion.inside(lambda: transfer(secondary))
        assert f"web.svc. 5 IN A 10.0.0.{int(kind) % 100}" in secondary.records()
        assert secondary.serial > serial
    fresh = Secondary("svc.")
    minion.inside(lambda: transfer(fresh))
    assert fresh.records() == secondary.records()


def begun(kind: dns.rdatatype.RdataType, serial: int) -> socket.socket:
    """A transfer of which the first bytes have been read, by a client that takes few at a time."""
    taking = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taking.settimeout(PATIENCE_SECONDS)
    taking.connect((HOST, 53))
    # From a serial that nobody remembers, a difference is the whole.
    query = query_for(dns.name.from_text("svc."), kind, serial - 100_000 if kind == dns.rdatatype.IXFR else None)
    taking.sendall(len(query.to_wire()).to_bytes(2) + query.to_wire())
    assert len(taking.recv(100, socket.MSG_WAITALL)) == 100
    return taking


def ended_well(taking: socket.socket) -> bool:
    """Whether the last record that comes is the SOA, as at the end of a transfer; a reset is no good end."""
    data = b""
    taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    try:
        while more := taking.recv(65536):
            data += more
    except ConnectionResetError:
        return False
    return data.endswith(b"\x00\x01\x51\x80\x00\x00\x00\x05")


def transfer(secondary: Secondary) -> None:
    """Bring it up to date."""
    dns.query.inbound_xfr(HOST, secondary.zone, timeout=PATIENCE_SECONDS)


def workers(daemon: Daemon) -> list[int]:
    """Pids of its children."""
    return [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]


@pytest.fixture
def etcd(minion: Minion) -> Iterator[EtcdServer]:
    """One in the minion's namespace."""
    (minion.root / "etcd").mkdir()
    server = minion.inside(lambda: EtcdServer(minion.root / "etcd"))
    minion.inside(server.start)
    yield server
    minion.inside(server.stop)


@pytest.mark.needs("etcd")
def test_an_etcd_restored_from_a_backup_never_makes_the_serial_fall_and_secondaries_follow(
    minion: Minion, etcd: EtcdServer
) -> None:
    store = f"--records=etcd://{etcd.host}/svcnet"

    def write(*records: Written) -> None:
        path = minion.root / "write.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": records}))
        done = minion.svcnet("apply", "-f", str(path), store, f"--service-cidr={SERVICE_CIDRS}")
        assert done.returncode == 0, done.stderr

    write(*(service(f"s{n}", f"10.0.0.{n + 10}") for n in range(8)))
    minion.inside(etcd.stop)
    shutil.copytree(etcd.path / "data", etcd.path / "backup")
    minion.inside(etcd.start)
    daemon = minion.daemon(*OPTIONS, "--mode=none", store).ready()
    minion.inside(lambda: until(lambda: resolved("s7.svc.")))
    for number in range(3):
        write(service("s0", "10.0.0.10", sessionAffinity=("None", "ClientIP")[number % 2]))
    write(service("late", "10.0.0.99"))
    minion.inside(lambda: until(lambda: resolved("late.svc.")))
    secondary = Secondary("svc.")
    minion.inside(lambda: transfer(secondary))
    before = secondary.serial
    minion.inside(etcd.kill)
    shutil.rmtree(etcd.path / "data")
    shutil.copytree(etcd.path / "backup", etcd.path / "data")
    minion.inside(etcd.start)
    minion.inside(lambda: until(lambda: not resolved("late.svc.")))
    minion.inside(lambda: transfer(secondary))
    assert secondary.serial > before
    assert not any(line.startswith("late.") for line in secondary.records())
    write(service("after", "10.0.0.98"))
    minion.inside(lambda: until(lambda: resolved("after.svc.")))
    behind = secondary.serial
    minion.inside(lambda: transfer(secondary))
    assert secondary.serial > behind
    fresh = Secondary("svc.")
    minion.inside(lambda: transfer(fresh))
    assert fresh.records() == secondary.records()
    assert daemon.runs
