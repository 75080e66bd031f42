"""The proxies of the suite `proxy`: ours, HAProxy, nginx, each on an address of its own, all to the same server.

Owns: their configurations and processes, what they cost. Must not know what is asked of them.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import NamedTuple

from svcnet.bench import client
from svcnet.bench.far import ECHO, IN, OUT, SERVER, SHORT, UDP
from svcnet.model.errors import SvcnetError
from svcnet.model.frontend import Frontend
from svcnet.model.level import Level
from svcnet.model.terms import USUAL, EndpointLimit, Locality, Terms
from svcnet.proxy.row import Backend, Choice, Rule, Service
from svcnet.proxy.userspace import Userspace

NETWORK = IPv4Network("127.1.0.0/24")
DEAD, SILENT, HEDGED = 711, 712, 713
"""Frontends with SHORT and one more endpoint: a port where nobody listens, an address that never answers, the same
where ours may dial a second one beside the first."""
HEDGE_SECONDS = 0.05
FULL = Terms(
    "leastconn",
    connect_seconds=(0.25, 0.5, 1.0, 2.0),
    idle_seconds=600.0,
    half_closed_seconds=20.0,
    drain_seconds=60.0,
    most_connections=9000,
    hedge_seconds=HEDGE_SECONDS,
    slow_start_seconds=1.0,
    endpoint_limit=EndpointLimit(9000),
    locality=Locality("zone"),
    most_rate=1_000_000,
    udp_replies=1000,
)
"""All that can be switched on for a service, and leaves the bytes as they are; ejection is on by itself."""
LOGGED = 100
"""One connection of so many is in the log then."""
NOBODY, HOLE = Backend(SERVER, 9), Backend("192.0.2.1", 9)
TO = {
    ("tcp", ECHO): (Backend(SERVER, ECHO),),
    ("tcp", SHORT): (Backend(SERVER, SHORT),),
    ("tcp", OUT): (Backend(SERVER, OUT),),
    ("tcp", IN): (Backend(SERVER, IN),),
    ("udp", UDP): (Backend(SERVER, UDP),),
    ("tcp", DEAD): (NOBODY, Backend(SERVER, SHORT)),
    ("tcp", SILENT): (HOLE, Backend(SERVER, SHORT)),
    ("tcp", HEDGED): (HOLE, Backend(SERVER, SHORT)),
}
Start = Callable[[str, str, int, Path], AbstractContextManager["Proxy"]]
"""name, address, CPU, a directory for files → it runs."""
STDERR = 2
CONNECT_MS = 250
MOST = 9500
"""Connections at a time that the others are told to allow: each is two file descriptors of 20,000, a usual limit."""
START_SECONDS, LOOK_SECONDS = 15.0, 0.05


class Proxy(NamedTuple):
    """One that runs. `pids`: whose costs are its own."""

    name: str
    address: str
    pids: Sequence[int]
    udp: bool = True

    def cpu_seconds(self) -> float:
        """Time on a processor so far."""
        tasks = (task for pid in self.pids for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Bytes: its share of what it has in memory (Pss)."""
        total = 0
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
        return total


def haproxy_config(address: str, options: Sequence[str]) -> str:
    """One thread; an endpoint that fails once is passed over at once."""
    lines = [
        "global",
        "  nbthread 1",
        f"  maxconn {MOST}",
        "  maxpipes 200",
        "defaults",
        "  mode tcp",
        "  timeout client 1h",
    ]
    lines += [f"  timeout connect {CONNECT_MS}ms", "  timeout server 1h", "  retries 3", "  option redispatch 1"]
    lines += [f"  option {option}" for option in options]
    for (protocol, port), backends in TO.items():
        if protocol == "tcp":
            lines += [f"listen p{port}", f"  bind {address}:{port}", "  balance roundrobin"]
            lines += [f"  server s{n} {backend}" for n, backend in enumerate(backends)]
    return "\n".join(lines) + "\n"


def nginx_config(address: str, root: Path, module: Path | None) -> str:
    """One process, buffers of 64 KiB, half-closed connections stay open."""
    lines = [f"load_module {module};"] if module is not None else []
    lines += ["daemon off;", "master_process off;", "worker_rlimit_nofile 20000;", f"pid {root}/nginx.pid;"]
    lines += [f"error_log {root}/error.log;", f"events {{ worker_connections {2 * MOST}; }}", "stream {"]
    lines += ["  proxy_buffer_size 64k;", f"  proxy_connect_timeout {CONNECT_MS}ms;", "  proxy_half_close on;"]
    for (protocol, port), backends in TO.items():
        lines.append(f"  upstream p{port} {{ {' '.join(f'server {backend};' for backend in backends)} }}")
        listen = f"{address}:{port}" + (" udp" if protocol == "udp" else " backlog=4096")
        lines.append(f"  server {{ listen {listen}; proxy_pass p{port}; }}")
    return "\n".join([*lines, "}"]) + "\n"


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise SvcnetError(f"not installed (Debian: {name})")
    return found


@contextmanager
def _running(name: str, address: str, cpu: int, command: Sequence[str], log: Path) -> Iterator[Proxy]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(cpu), *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        _wait(address, lambda: process.poll() is None or log.read_text(errors="replace").strip()[-200:] or "it ended")
        yield Proxy(name, address, (process.pid,))
    finally:
        process.terminate()
        process.wait()


def _wait(address: str, alive: Callable[[], bool | str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not client.answers((address, ECHO), LOOK_SECONDS):
        state = alive()
        if state is not True:
            raise SvcnetError(str(state))
        if time.monotonic() > deadline:
            raise SvcnetError(f"no answer in {START_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)


def rules(address: str, *, full: bool) -> dict[Frontend, Rule]:
    """What ours is told."""
    told = {}
    for (protocol, port), backends in TO.items():
        terms = Terms(hedge_seconds=HEDGE_SECONDS) if port == HEDGED else USUAL
        front = Frontend(4, address, protocol, port)
        levels = (Level(tuple(backends)),) if full else ()
        service = Service(str(front), dict.fromkeys(backends, 1), terms=terms, levels=levels)
        told[front] = Rule(service._replace(choice=Choice.LEAST, terms=FULL) if full else service)
    return told


def _ours(*, full: bool = False) -> Start:
    @contextmanager
    def start(name: str, address: str, cpu: int, root: Path) -> Iterator[Proxy]:
        proxy = Userspace([NETWORK], 1, log_every=LOGGED if full else 0)
        try:
            with _stderr_to(root / f"{name}.log"):  # the worker keeps it, for its log of connections
                proxy.sync(rules(address, full=full))
                _wait(address, lambda: True)
            pids = [worker.pid for worker in proxy.workers]
            for pid in pids:
                os.sched_setaffinity(pid, {cpu})
            yield Proxy(name, address, pids)
        finally:
            proxy.stop()

    return start


@contextmanager
def _stderr_to(file: Path) -> Iterator[None]:
    """For the processes that are started meanwhile."""
    before = os.dup(STDERR)
    try:
        with file.open("wb") as out:
            os.dup2(out.fileno(), STDERR)
        yield
    finally:
        os.dup2(before, STDERR)
        os.close(before)


def _haproxy(*options: str) -> Start:
    @contextmanager
    def start(name: str, address: str, cpu: int, root: Path) -> Iterator[Proxy]:
        file = root / f"{name}.cfg"
        file.write_text(haproxy_config(address, options))
        with _running(name, address, cpu, [_program("haproxy"), "-db", "-f", str(file)], root / f"{name}.log") as one:
            yield one._replace(udp=False)

    return start


@contextmanager
def _nginx(name: str, address: str, cpu: int, root: Path) -> Iterator[Proxy]:
    program, module = _program("nginx"), Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    file = root / "nginx.conf"
    file.write_text(nginx_config(address, root, module if module.exists() else None))
    with _running(name, address, cpu, [program, "-c", str(file), "-p", str(root)], root / "nginx.log") as one:
        yield one


PROXIES: Mapping[str, Start] = {
    "svcnet": _ours(),
    "svcnet-full": _ours(full=True),
    "haproxy": _haproxy(),
    "haproxy-splice": _haproxy("splice-request", "splice-response"),
    "nginx": _nginx,
}
"""How each is started."""


def address(name: str) -> str:
    """Where a proxy listens."""
    return str(NETWORK[list(PROXIES).index(name) + 1])
