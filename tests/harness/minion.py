"""One machine: a network namespace whose addresses answer, with a record directory and daemons.

Owns: the namespace and all that runs in it; nothing is left of it at the end. Virtual IPs go out by a default route, as
on any machine, and nothing is behind it. (Over lo the kernel would send no ICMP error for them.)
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from svcnet.lab import namespace
from tests.flows.echo import Echo
from tests.harness import client, files
from tests.harness.daemon import Daemon
from tests.harness.files import TARGET_PORT, Written
from tests.harness.until import until

A, B, C = "192.0.2.21", "192.0.2.22", "192.0.2.23"
A6, B6 = "fd00:99::21", "fd00:99::22"
"""Addresses where something answers on port 8080."""
SERVICE_CIDRS = "10.0.0.0/16,fd00:10::/112"
VIP, VIP6 = "10.0.0.5", "fd00:10::5"

MINION_END, POD = ("192.0.2.129/30", "fd00:98::1/64"), ("192.0.2.130/30", "fd00:98::2/64")
"""Both ends of the link to a pod."""

WORKERS = {b"svcnet.proxy.worker", b"svcnet.dns.worker"}
TREE = Path(__file__).parents[2]

_LINES = (
    "link set lo up",
    *(f"addr add {address}/32 dev lo" for address in ("192.0.2.1", A, B, C)),
    *(f"addr add {address}/128 dev lo nodad" for address in ("fd00:99::1", A6, B6)),
    "link add out address 02:00:00:00:00:01 type veth peer name void address 02:00:00:00:00:02",
    *(f"link set {name} addrgenmode none arp off up" for name in ("out", "void")),
    "route add default dev out src 192.0.2.1",
    "route add ::/0 dev out src fd00:99::1",
)

_SETTINGS = [(f"net/netfilter/nf_conntrack_udp_timeout{stream}", "3600") for stream in ("", "_stream")]
"""Seconds. By default a flow is forgotten after 30: a test that tells one by its entry may take longer."""

Result = TypeVar("Result")


class Minion:
    """Use as a context. `root` is an empty directory: records/, state/, env/ and logs are in it."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.records, self.state, self.env = root / "records", root / "state", root / "env"
        self._inside = ThreadPoolExecutor(1, initializer=self.enter)
        self._echo = Echo()
        self._daemons: list[Daemon] = []
        self._pods: list[str] = []

    def __enter__(self) -> Self:
        """Make it."""
        self.records.mkdir()
        namespace.add([self.name])
        try:
            namespace.run_batches([(self.name, _LINES)])
            namespace.write_settings(self.name, _SETTINGS)
            self.inside(lambda: self._echo.listen([TARGET_PORT], ("tcp", "udp")))
            self._echo.__enter__()
        except BaseException:
            namespace.delete([self.name])
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End what runs here and take it down."""
        for daemon in self._daemons:
            daemon.kill()
        self._end_orphans()
        namespace.delete(self._pods)
        self._echo.__exit__()
        self._inside.shutdown()
        namespace.delete([self.name])

    def _end_orphans(self) -> None:
        """Workers serve on without their daemon."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True).stdout
        for pid in map(int, pids.split()):
            with suppress(OSError):
                if WORKERS & set(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")):
                    os.kill(pid, signal.SIGKILL)

    def enter(self) -> None:
        """Move the calling thread here, for good."""
        namespace.enter(self.name)

    def inside(self, act: Callable[[], Result]) -> Result:
        """Return act(), run in this namespace."""
        return self._inside.submit(act).result()

    def put(self, *records: Written) -> None:
        """Write record files."""
        files.put(self.records, *records)

    def remove(self, *records: Written) -> None:
        """Unlink record files."""
        files.remove(self.records, *records)

    def options(self) -> list[str]:
        """What every command here is given."""
        return [
            f"--records=dir:{self.records}",
            f"--service-cidr={SERVICE_CIDRS}",
            "--node=m1",
        ]

    def daemon(
        self, *options: str, wrap: Sequence[str] = (), environ: dict[str, str] | None = None, without: str = "-"
    ) -> Daemon:
        """Start svcnet-proxy; the last of an option wins. `wrap` is a command that runs it.

        `without`: an option that it shall find in its file, and so does not get.
        """
        log = self.root / f"log{len(self._daemons)}"
        usual = [o for o in (*self.options(), "--dns-listen=off") if not o.startswith(f"{without}=")]
        command = [*wrap, sys.executable, "-m", "svcnet.cli.daemon", *usual, f"--state-dir={self.state}"]
        command += [f"--env-dir={self.env}", *options]
        with log.open("wb") as out:
            process = self.inside(
                lambda: subprocess.Popen(command, stdout=out, stderr=out, env=clean_environment() | (environ or {}))
            )
        daemon = Daemon(process, log, self.inside)
        self._daemons.append(daemon)
        return daemon

    def svcnet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line here."""
        return self.run(sys.executable, "-m", "svcnet.cli.main", *arguments)

    def plan(self) -> str:
        """`svcnet plan`: its last line, which counts."""
        done = self.svcnet("plan", *self.options())
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program here."""
        return self.inside(
            lambda: subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment())
        )

    def program(self) -> int:
        """Bring the rules to the records and no more, as a daemon that dies right after its commit; the exit code."""
        program = "from svcnet.iptables.conntrack import Conntrack; Conntrack.sweep = lambda *_: os._exit(0)"
        command = [sys.executable, "-c", f"import os; {program}; from svcnet.cli.daemon import main; main()"]
        options = [*self.options(), f"--state-dir={self.state}", "--env-dir=off", "--dns-listen=off"]
        return self.run(*command, *options).returncode

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program here, which can import the tests; the caller ends it."""
        environ = clean_environment() | {"PYTHONPATH": str(TREE)}
        return self.inside(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, env=environ))

    def ruleset(self) -> str:
        """`nft list ruleset`."""
        done = self.run("nft", "list", "ruleset")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def elements(self, table: str, family: str = "ip") -> Any:
        """The elements of one of our maps, as nft lists them, sorted."""
        done = self.run("nft", "-j", "list", "map", family, "svcnet", table)
        assert done.returncode == 0, done.stderr
        listed = json.loads(done.stdout)["nftables"]
        return sorted(json.dumps(e) for part in listed if "map" in part for e in part["map"].get("elem", []))

    def flow(self, conversation: client.Conversation) -> str:
        """The id of its entry in the connection table: another entry has another one."""
        done = self.run("conntrack", "-L", "-p", "udp", "--orig-port-src", str(conversation.source_port), "-o", "id")
        return next(word for word in done.stdout.split() if word.startswith("id="))

    def ask(
        self,
        address: str,
        protocol: str = "tcp",
        port: int = files.PORT,
        patience_seconds: float = client.LONG_SECONDS,
    ) -> str:
        """Who answers a virtual IP: an address, `refused` or `silence`."""
        return self.inside(lambda: client.ask(address, protocol, port, patience_seconds))

    def reaches(self, address: str, *expected: str, protocol: str = "tcp") -> bool:
        """Wait until a virtual IP is answered by each of these, and of the last answers by no other."""
        wanted, seen = set(expected), list[str]()
        patience = client.BRIEF_SECONDS if client.SILENCE in wanted else client.LONG_SECONDS

        def settled() -> bool:
            seen.append(self.ask(address, protocol, patience_seconds=patience))
            return set(seen[-8 * len(wanted) :]) == wanted

        return until(settled, lambda: f"{seen[-20:]}")

    def conversation(self, address: str) -> client.Conversation:
        """A UDP socket of this namespace."""
        return self.inside(lambda: client.Conversation(address))

    def call(self, address: str, endpoint: str, port: int, pod: str = "") -> client.Call:
        """A TCP connection of here, or of a pod, that stays open; on `port` of the endpoint nothing else listens."""
        listener = self.inside(lambda: socket.create_server((endpoint, port)))
        return namespace.inside(pod or self.name, lambda: client.Call(address, listener, port))

    def hammer(self, address: str, pod: str = "") -> client.Hammer:
        """A client that never stops, here or in a pod."""
        return client.Hammer(address, lambda: namespace.enter(pod or self.name))

    def pod(self) -> str:
        """Make a namespace that has this one as its way to everywhere."""
        name = f"{self.name}-pod"
        namespace.add([name])
        self._pods.append(name)
        namespace.run_batches([(self.name, [f"link add pod type veth peer name eth0 netns {name}"])])
        ends = (self.name, "pod", MINION_END, POD), (name, "eth0", POD, MINION_END)
        for where, link, here, there in ends:
            lines = [f"link set {link} up", *(f"addr add {a} dev {link} nodad" for a in here if ":" in a)]
            lines += [f"addr add {a} dev {link}" for a in here if ":" not in a]
            lines += [f"route add default via {a.partition('/')[0]}" for a in there] if where == name else []
            namespace.run_batches([(where, lines)])
        return name


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure svcnet or tell a service manager."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SVCNET_") and k != "NOTIFY_SOCKET"}
