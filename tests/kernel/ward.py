"""A minion where all is well, to be made ill: pods on a bridge, another machine by two ways, a daemon, doctor.

Owns: the namespaces beside the minion's, and the services. Everything that doctor looks at is as services need it.
"""

import contextlib
import io
import json
import sys
from typing import Any, NamedTuple, Self

from svcnet.cli import main
from svcnet.lab import namespace
from tests.flows.echo import Echo
from tests.harness import client
from tests.harness.files import TARGET_PORT, endpoints, service
from tests.harness.minion import Minion

POD, OTHER, FAR = "10.1.0.2", "10.1.0.3", "198.51.100.2"
TO_POD, TO_OTHER, TO_FAR = "10.0.0.21", "10.0.0.22", "10.0.0.23"
"""Virtual IPs with one endpoint each."""
UNREACHABLE = "unreachable"

_MINION = (
    "link add cbr0 type bridge",
    "addr add 10.1.0.1/24 dev cbr0",
    "addr add fd00:1::1/64 dev cbr0 nodad",
    "link set cbr0 up",
    "link add far0 type veth peer name up0",
    "link add far1 type veth peer name up1",
    "addr add 198.51.100.1/24 dev far0",
    "addr add 203.0.113.1/24 dev far1",
    "link set far0 up",
    "link set far1 up",
)
_FAR = (
    "link set lo up",
    "addr add 198.51.100.2/24 dev up0",
    "addr add 203.0.113.2/24 dev up1",
    "link set up0 up",
    "link set up1 up",
    "route add 10.1.0.0/24 via 198.51.100.1",
    f"route add {TO_POD} via 203.0.113.1 src {FAR}",
    "route add 10.0.0.0/16 via 198.51.100.1",
)
_SETTINGS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
    *((f"net/ipv4/conf/{name}/rp_filter", "0") for name in ("all", "default", "cbr0", "far0", "far1", "out")),
)


class Said(NamedTuple):
    """What doctor said."""

    code: int
    state: dict[str, str]
    """Check → its state."""
    mend: dict[str, list[str]]
    """Check → commands of its findings, notes left out."""
    unread: dict[str, str]
    """What could not be read; "": stderr."""


class Ward:
    """Use as a context, inside that of its minion."""

    def __init__(self, minion: Minion) -> None:
        self.minion = minion
        self.far = f"{minion.name}-far"
        self._pods = {f"{minion.name}-p{n}": address for n, address in enumerate((POD, OTHER))}
        self._echo = Echo()

    def __enter__(self) -> Self:
        """Make all of it."""
        names = [*self._pods, self.far]
        namespace.add(names)
        try:
            self._wire()
        except BaseException:
            namespace.delete(names)
            raise
        self._echo.__enter__()
        for name, to, address in ((TO_POD, "pod", POD), (TO_OTHER, "other", OTHER), (TO_FAR, "far", FAR)):
            self.minion.put(service(to, name), endpoints(to, address))
        return self

    def __exit__(self, *_: object) -> None:
        """Take it down."""
        self._echo.__exit__()
        namespace.delete([*self._pods, self.far])

    def _wire(self) -> None:
        name = self.minion.name
        lines = [*_MINION, f"link set up0 netns {self.far}", f"link set up1 netns {self.far}"]
        for n, pod in enumerate(self._pods):
            lines += [f"link add v{n} type veth peer name eth0 netns {pod}", f"link set v{n} master cbr0 up"]
            lines += [f"link set v{n} type bridge_slave hairpin on"]
        namespace.run_batches([(name, lines)])
        within = ["link set lo up", "link set eth0 up"]
        pods = [
            (pod, [*within, f"addr add {address}/24 dev eth0", "route add default via 10.1.0.1"])
            for pod, address in self._pods.items()
        ]
        namespace.run_batches([*pods, (self.far, _FAR)])
        namespace.write_settings(name, _SETTINGS)
        for where in (*self._pods, self.far):
            namespace.inside(where, lambda: self._echo.listen([TARGET_PORT], ("tcp",)))

    def start(self, *options: str) -> None:
        """Start the daemon and wait until it serves."""
        self._daemon = self.minion.daemon("--cluster-cidr=10.1.0.0/24", *options).caught_up()

    def kill(self) -> None:
        """End the daemon at once."""
        self._daemon.kill()

    def from_pod(self, address: str) -> str:
        """Who answers the first pod at a virtual IP."""
        return namespace.inside(next(iter(self._pods)), lambda: client.ask(address))

    def from_far(self, address: str) -> str:
        """Who answers the other machine."""
        return namespace.inside(self.far, lambda: client.ask(address))

    def from_minion(self, address: str) -> str:
        """Who answers the minion itself."""
        try:
            return self.minion.ask(address)
        except OSError:
            return UNREACHABLE

    def doctor(self, *wrap: str) -> Said:
        """Run it with the daemon's options: in this process, as it runs often, or as one that `wrap` starts."""
        command = ["doctor", *self.minion.options(), "--cluster-cidr=10.1.0.0/24", "--dns-listen=off", "-o", "json"]
        if wrap:
            done = self.minion.run(*wrap, sys.executable, "-m", "svcnet.cli.main", *command)
            return _said(done.returncode, done.stdout, done.stderr)
        return self.minion.inside(lambda: _run(command))

    def mend(self, commands: list[str]) -> None:
        """Type what doctor printed."""
        for command in commands:
            done = self.minion.run("sh", "-c", command)
            assert done.returncode == 0, (command, done.stderr)


def _run(command: list[str]) -> Said:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main.run(main.svcnet, command)
    return _said(code, output.getvalue(), errors.getvalue())


def _said(code: int, output: str, errors: str) -> Said:
    assert output, errors
    report: dict[str, Any] = json.loads(output)
    checks = report["checks"]
    mend = {
        check["check"]: [c for f in check["findings"] if f["level"] == "finding" for c in f["mend"]]
        for check in checks
        if check["state"] == "finding"
    }
    return Said(code, {c["check"]: c["state"] for c in checks}, mend, report["unread"] | {"": errors})
