"""Name servers side by side on one set of data: each a process of its own on loopback, on the first CPU.

Owns: their configuration, their start and end, their CPU time and memory. Must not know what is asked.

All have an address for `sN.default.ZONE.` and know that other names of it are not there. Ours also has SRV and PTR
records, as it has no way to leave them out. One knows nothing: `svcnet.bench.echo`.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import msgspec

from svcnet.bench.worker import children
from svcnet.bench.world import PORT
from svcnet.dns.name import absolute
from svcnet.dns.settings import Settings
from svcnet.feed import CHUNK, Entry, Frame, Whole, encode, framed
from svcnet.model.errors import SvcnetError
from svcnet.model.meta import Meta
from svcnet.model.service import Service, ServicePort
from svcnet.model.snapshot import PortKey, ServedPort

HOST = "127.0.0.1"
START_SECONDS = 20.0
PATH = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")
PORTS = {"dnsmasq": 5301, "knot": 5302, "nsd": 5303, "svcnet": 5304, "echo": 5306}
ECHO = "echo"
TTL_SECONDS = 5
MOVED = 1 << 22
"""Between the address of a service and the one that it changes to: 10.64.0.0/10."""
ZONES = {"specification": "svc.cluster.local", "short": "svc"}
"""Below which services are asked for: names of the Kubernetes specification, or those of 2014."""
HEAD = """$TTL 5
@ SOA ns hostmaster 1 7200 1800 86400 5
@ NS ns
ns A 127.0.0.1
"""


class Server(NamedTuple):
    """One that answers. `feed`: where ours is told its records."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    feed: socket.socket | None = None

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        return sum(map(_cpu_seconds, self._pids()))

    def memory_mib(self) -> float:
        """Memory that is its alone, or its share of what its processes share."""
        return sum(map(_memory_mib, self._pids()))

    def tell(self, frames: Iterable[bytes]) -> None:
        """Send encoded frames of records to ours; waits where it is behind."""
        assert self.feed is not None, self.name
        for frame in frames:
            self.feed.sendall(frame)

    def _pids(self) -> Iterator[int]:
        found = [self.process.pid]
        while found:
            pid = found.pop()
            yield pid
            found += children(pid)


def address(i: int, moved: bool = False) -> str:
    """Address of service i (from 1), and the one that it may change to."""
    return str(IPv4Address(0x0A000000 + i + MOVED * moved))


def entry(i: int, moved: bool = False) -> Entry:
    """Service i as the daemon tells it: a virtual IP with one port, thus an A, two SRV and a PTR record."""
    name, ip = f"s{i}", address(i, moved)
    service = Service(Meta(name, "default"), (ServicePort(PORT, "http"),), cluster_ips=(ip,))
    return Entry("default", name, service, (ServedPort(PortKey("default", name, "TCP", PORT, 4), "http", ip, ()),))


def whole(services: int, moved: bool = False, rev: int = 1) -> list[bytes]:
    """The frames of them all."""
    starts = range(1, services + 1, CHUNK)
    frames: list[Frame] = [
        Whole(rev, tuple(entry(i, moved) for i in range(at, min(at + CHUNK, services + 1))), at == starts[-1])
        for at in starts
    ]
    return [encode(frame) for frame in frames]


def found(program: str) -> str | None:
    """Where a program is, in directories that a user's PATH may lack too."""
    return shutil.which(program) or shutil.which(program, path=":".join(PATH))


@contextlib.contextmanager
def running(directory: Path, services: int, cpu: int, zone: str) -> Iterator[tuple[list[Server], dict[str, str]]]:
    """Start all that are installed; yield them, ours last, and why others are left out."""
    servers, left_out = [], {}
    with contextlib.ExitStack() as stack:
        for name, command in _COMMANDS.items():
            place = directory / name
            place.mkdir()
            try:
                servers.append(stack.enter_context(_foreign(name, command(place, services, zone), cpu, zone)))
            except SvcnetError as error:
                left_out[name] = str(error)
        servers.append(stack.enter_context(_echo(cpu)))
        servers.append(stack.enter_context(ours(whole(services), cpu, services)))
        yield servers, left_out


@contextlib.contextmanager
def ours(frames: Sequence[bytes], cpu: int, last: int) -> Iterator[Server]:
    """Start a worker as the daemon would, with these records, up to service `last`."""
    here, there = socket.socketpair()
    port = PORTS["svcnet"] + (last > 10_000)
    with here, there, _bound(port) as datagram:
        numbers = [there.fileno(), datagram.fileno()]
        argv = [sys.executable, "-m", "svcnet.dns.worker", *map(str, numbers)]
        process = subprocess.Popen(_pinned(argv, cpu), pass_fds=numbers)
        there.close()
        server = Server("svcnet", port, process, here)
        try:
            settings = Settings(reverse=("10.0.0.0/8",), servers=(HOST,))
            here.sendall(framed(msgspec.msgpack.encode(settings)))
            server.tell(frames)
            until_answer(server, last, address(last))
            yield server
        finally:
            here.close()
            _end(process)


@contextlib.contextmanager
def _echo(cpu: int) -> Iterator[Server]:
    with _bound(PORTS[ECHO]) as datagram:
        argv = [sys.executable, "-m", "svcnet.bench.echo", str(datagram.fileno())]
        process = subprocess.Popen(_pinned(argv, cpu), pass_fds=[datagram.fileno()])
    try:
        yield Server(ECHO, PORTS[ECHO], process)
    finally:
        _end(process)


def _bound(port: int) -> socket.socket:
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    datagram.bind((HOST, port))
    return datagram


def until_answer(server: Server, i: int, ip: str, zone: str = ZONES["short"]) -> None:
    """Wait until service i has this address. SvcnetError: it has not in time."""
    deadline = time.monotonic() + START_SECONDS
    query = b"\0\1\0\0\0\1\0\0\0\0\0\0" + absolute(f"s{i}.default.{zone}") + b"\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((HOST, server.port))
        client.settimeout(0.2)
        while time.monotonic() < deadline and server.process.poll() is None:
            with contextlib.suppress(OSError):
                client.send(query)
                if IPv4Address(ip).packed in client.recv(512):
                    return
            time.sleep(0.002)
    raise SvcnetError(f"{server.name} has no answer at port {server.port}")


@contextlib.contextmanager
def _foreign(name: str, argv: Sequence[str], cpu: int, zone: str) -> Iterator[Server]:
    program = found(argv[0])
    if program is None:
        raise SvcnetError(f"{argv[0]} is not installed (Debian: {name})")
    process = subprocess.Popen(_pinned([program, *argv[1:]], cpu), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = Server(name, PORTS[name], process)
        until_answer(server, 1, address(1), zone)
        yield server
    finally:
        _end(process)


def _pinned(argv: Sequence[str], cpu: int) -> list[str]:
    return ["taskset", "--cpu-list", str(cpu), *argv]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _dnsmasq(place: Path, services: int, zone: str) -> list[str]:
    hosts = place / "hosts"
    hosts.write_text("".join(f"{address(i)} s{i}.default.{zone}\n" for i in range(1, services + 1)))
    place.chmod(0o755)
    listen = [f"--port={PORTS['dnsmasq']}", f"--listen-address={HOST}", "--bind-interfaces", "--user=root"]
    local = ["--no-hosts", "--no-resolv", f"--local=/{zone}/", f"--addn-hosts={hosts}", f"--local-ttl={TTL_SECONDS}"]
    return ["dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--pid-file=", *listen, *local]


def _zone(place: Path, services: int, zone: str) -> Path:
    file = place / "zone"
    file.write_text(
        f"$ORIGIN {zone}.\n{HEAD}" + "".join(f"s{i}.default A {address(i)}\n" for i in range(1, services + 1))
    )
    return file


def _knot(place: Path, services: int, zone: str) -> list[str]:
    config = place / "knot.conf"
    config.write_text(
        f"server:\n  rundir: {place}\n  listen: {HOST}@{PORTS['knot']}\n  udp-workers: 1\n  tcp-workers: 1\n"
        f"  background-workers: 1\ndatabase:\n  storage: {place}\n"
        f"zone:\n  - domain: {zone}\n    file: {_zone(place, services, zone)}\n"
        "    zonefile-sync: -1\n    journal-content: none\n"
    )
    return ["knotd", "--config", str(config)]


def _nsd(place: Path, services: int, zone: str) -> list[str]:
    config = place / "nsd.conf"
    files = "".join(f'  {option}: "{place}/{option}"\n' for option in ("zonelistfile", "xfrdfile", "pidfile"))
    config.write_text(
        f'server:\n  ip-address: {HOST}@{PORTS["nsd"]}\n  server-count: 1\n  username: root\n  database: ""\n'
        f'  zonesdir: "{place}"\n  rrl-ratelimit: 0\n{files}remote-control:\n  control-enable: no\n'
        f'zone:\n  name: {zone}\n  zonefile: "{_zone(place, services, zone)}"\n'
    )
    return ["nsd", "-d", "-c", str(config)]


_COMMANDS: dict[str, Callable[[Path, int, str], list[str]]] = {"dnsmasq": _dnsmasq, "knot": _knot, "nsd": _nsd}


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), which Python has for threads alone
    except OSError:
        return 0.0


def _memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
