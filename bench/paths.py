"""The data paths side by side: a minion for each, with a server behind it, all up at the same time.

Owns: their namespaces, links, records and processes, and their end. Must not know what is measured.

A path's minion asks the virtual IP of one service; the server is behind a veth, for `direct` as well. Every program
gets its CPU: paths share the first one, server and client are on the last.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from svcnet.bench import client
from svcnet.bench.world import PORT, TARGET_PORT, one_endpoint, service, slice_of, virtual_ip, write
from svcnet.lab import namespace
from svcnet.model.errors import SvcnetError

MINION, SERVER = "192.0.2.1", "192.0.2.2"
SERVICE_CIDR = "10.0.0.0/16"
ENDPOINTS = 10
"""Of each service but the one that is asked."""
START_SECONDS = 30.0
END_SECONDS = 10.0
LOOK_SECONDS = 0.1
OURS = re.compile(r"bench-(\d+)-.*")

SETTINGS = [
    # Tens of thousands of connections to one address in a minute: ports must suffice, and closed ones make room.
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
]

Result = TypeVar("Result")


class LeftOutError(SvcnetError):
    """A path that can't be measured here; the message says why."""


class Site(NamedTuple):
    """Where one path is: its minion's namespace, the server's, a directory for files, and the records of all paths."""

    minion: str
    server: str
    root: Path
    records: Path


class Cores(NamedTuple):
    """CPU of the paths, and of server and client."""

    paths: int
    load: int


def _direct(_site: Site) -> None:
    return None


def _svcnet(mode: str) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        options = [
            f"--records=dir:{site.records}",
            f"--state-dir={site.root / 'state'}",
            f"--service-cidr={SERVICE_CIDR}",
        ]
        options += [f"--mode={mode}", "--node=m1", "--env-dir=off", "--dns-listen=off"]
        return [sys.executable, "-m", "svcnet.cli.daemon", *options]

    return command


def _iptables(variant: str) -> Callable[[Site], list[str]]:
    program = f"iptables-{variant}"

    def command(site: Site) -> list[str]:
        if not shutil.which(program):
            raise LeftOutError(f"{program} is not installed")
        # Where the only rules of others are, there the daemon puts its own; this one is in nobody's way.
        for rule in (["-N", "BENCH"], ["-A", "BENCH", "-j", "RETURN"]):
            _run(["nsenter", f"--net={namespace.path(site.minion)}", program, "-w", "-t", "nat", *rule])
        return _svcnet("iptables")(site)

    return command


def haproxy_config(bind: str, server: str, options: Sequence[str] = ()) -> str:
    """One thread that forwards TCP from one ADDRESS:PORT to another."""
    return (
        "global\n  nbthread 1\n  maxconn 4000\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        + "".join(f"  option {option}\n" for option in options)
        + f"listen bench\n  bind {bind}\n  server one {server}\n"
    )


def _haproxy(*options: str) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
        if not program:
            raise LeftOutError("not installed (Debian: haproxy)")
        namespace.run_batches([(site.minion, [f"route add local {virtual_ip(1)}/32 dev lo"])])
        file = site.root / "haproxy.cfg"
        file.write_text(haproxy_config(f"{virtual_ip(1)}:{PORT}", f"{SERVER}:{TARGET_PORT}", options))
        return [program, "-db", "-f", str(file)]

    return command


class Kind(NamedTuple):
    """What a path runs in its minion (None: nothing), and what its log says when it runs just that."""

    command: Callable[[Site], list[str] | None]
    proof: str = ""


DIRECT = "direct"
PATHS = {
    DIRECT: Kind(_direct),
    "nftables": Kind(_svcnet("nftables"), "mode=nftables"),
    "iptables-nft": Kind(_iptables("nft"), "nft tables"),
    "iptables-legacy": Kind(_iptables("legacy"), "legacy tables"),
    "userspace": Kind(_svcnet("userspace"), "mode=userspace"),
    "haproxy": Kind(_haproxy()),
    "haproxy-splice": Kind(_haproxy("splice-request", "splice-response")),
}


class Ground:
    """Made when entered; gone when left, also when making it fails half-way. `left_out`: path → why it is not there."""

    def __init__(self, names: Iterable[str], cores: Cores, services: int = 1) -> None:
        """`services`: so many have virtual IPs; the server is behind the last one, all others lead nowhere real."""
        self.names = list(names)
        self._services = services
        self.left_out: dict[str, str] = {}
        self._cores = cores
        self._sites: dict[str, Site] = {}
        self._processes: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make everything, and wait until every path answers or is left out."""
        _sweep()
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bench-{os.getpid()}-")))
            stack.callback(self._delete)
            for name in self.names:
                prefix = f"bench-{os.getpid()}-{name}"
                self._sites[name] = Site(f"{prefix}-minion", f"{prefix}-server", root / name, root / "records")
                self._sites[name].root.mkdir()
            self._write(root / "records")
            self._wire()
            self._serve(stack)
            for name in self.names:
                self._attempt(name, partial(self._start, name, stack))
            for name in [n for n in self.names if n not in self.left_out]:
                self._attempt(name, partial(self._wait, name))
            self._forget()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        self._stack.close()

    def address(self, name: str) -> client.Address:
        """Where the clients of a path connect to."""
        return (SERVER, TARGET_PORT) if name == DIRECT else (virtual_ip(self._services), PORT)

    def pid(self, name: str) -> int:
        """The process that a path runs."""
        return self._processes[name][0].pid

    def inside(self, name: str, act: Callable[[], Result]) -> Result:
        """Return act(), run in the minion of a path."""
        return namespace.inside(self._sites[name].minion, act)

    def _attempt(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except SvcnetError as error:
            self.left_out[name] = str(error)

    def _write(self, directory: Path) -> None:
        directory.mkdir()
        for i in range(1, self._services):
            write(directory, service(i))
            write(directory, slice_of(i, ENDPOINTS))
        write(directory, service(self._services))
        write(directory, one_endpoint(self._services, SERVER))

    def _wire(self) -> None:
        namespace.add([n for site in self._sites.values() for n in (site.minion, site.server)])
        namespace.run_batches((site.minion, _minion_lines(site)) for site in self._sites.values())
        namespace.run_batches((site.server, _server_lines()) for site in self._sites.values())
        for site in self._sites.values():
            for name in (site.minion, site.server):
                namespace.write_settings(name, SETTINGS)

    def _serve(self, stack: ExitStack) -> None:
        names = [site.server for site in self._sites.values()]
        command = [*_bound(self._cores.load), sys.executable, "-m", "svcnet.bench.server", *names]
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=_environment()
        )
        stack.callback(_end, server)
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise SvcnetError("the server of the load test did not start")

    def _start(self, name: str, stack: ExitStack) -> None:
        site = self._sites[name]
        command = PATHS[name].command(site)
        if command is None:
            return
        log = site.root / "log"
        inside = ["nsenter", f"--net={namespace.path(site.minion)}"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*inside, *_bound(self._cores.paths), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for us, who end it in order
                env=_environment(),
            )
        stack.callback(_end, process)
        self._processes[name] = process, log

    def _wait(self, name: str) -> None:
        """Wait until a path answers."""
        patience = START_SECONDS + self._services / 100
        deadline = time.monotonic() + patience
        while not self.inside(name, lambda: client.answers(self.address(name), LOOK_SECONDS)):
            process, log = self._processes.get(name, (None, None))
            if process is not None and log is not None and process.poll() is not None:
                raise LeftOutError(_last_line(log) or f"ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise LeftOutError(f"no answer in {patience:.0f} s" + (f": {_last_line(log)}" if log else ""))
            time.sleep(LOOK_SECONDS / 4)
        proof = PATHS[name].proof
        if proof and proof not in self._processes[name][1].read_text(errors="replace"):
            raise LeftOutError(f"the daemon chose another path: its log lacks `{proof}`")

    def _forget(self) -> None:
        """Tries of before the rules are known as connections without translation, and their ports will come again."""
        if not shutil.which("conntrack"):
            return
        for name in self._processes.keys() - self.left_out.keys():
            _run(["nsenter", f"--net={namespace.path(self._sites[name].minion)}", "conntrack", "-F"])

    def _delete(self) -> None:
        names = [n for site in self._sites.values() for n in (site.minion, site.server)]
        _delete(n for n in names if namespace.path(n).exists())


def _minion_lines(site: Site) -> Sequence[str]:
    return [
        "link set lo up",
        f"link add eth0 type veth peer name eth0 netns {site.server}",
        "link set eth0 addrgenmode none up",
        f"addr add {MINION}/24 dev eth0",
        f"route add default via {SERVER} dev eth0 onlink",
    ]


def _server_lines() -> Sequence[str]:
    return ["link set lo up", "link set eth0 addrgenmode none up", f"addr add {SERVER}/24 dev eth0"]


def _bound(core: int) -> list[str]:
    """Run what follows on one CPU, and let the kernel end it should we be killed."""
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "--cpu-list", str(core)]


def _environment() -> dict[str, str]:
    """Ours, without what would configure svcnet or tell a service manager."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SVCNET_") and k != "NOTIFY_SOCKET"}


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LeftOutError(f"{' '.join(command[2:])}: {done.stderr.strip() or done.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    process.kill()
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _delete(names: Iterable[str]) -> None:
    """Delete namespaces, with what runs in them: a daemon's workers outlive it when it is killed."""
    gone = list(names)
    for name in gone:
        found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
        for pid in map(int, found.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    namespace.delete(gone)


def _sweep() -> None:
    """Delete what an earlier run left that was killed: processes, namespaces, and directories of ours."""
    _delete(name for name in namespace.existing(OURS) if _abandoned(name))
    for directory in Path(tempfile.gettempdir()).glob("bench-*"):
        # Whose name it is does not say whose it is: others may write there too.
        if _abandoned(directory.name) and not directory.is_symlink() and directory.stat().st_uid == os.geteuid():
            shutil.rmtree(directory, ignore_errors=True)


def _abandoned(name: str) -> bool:
    found = OURS.fullmatch(name)
    return found is not None and not Path("/proc", found[1]).exists()
