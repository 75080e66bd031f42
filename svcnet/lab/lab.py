"""The lab itself: up, down, and what can be done with one that is up. Shell.

Owns: the order of things. Addresses are topology's, links wiring's, files state's.

`up` writes the spec before it makes anything, and every process writes down who it is; `down` needs nothing but these
files and the names of namespaces, so it cleans up after any crash, of `up` too.
"""

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from svcnet.lab import etcd, namespace, probe, process, resolver, wiring
from svcnet.lab.record import keys, records
from svcnet.lab.registry import Opener
from svcnet.lab.replica import with_placed
from svcnet.lab.spec import POD_PORT, STATUS_PORT, LabSpec
from svcnet.lab.state import LabFiles, directory, locked
from svcnet.lab.topology import LabMinion, LabPod, Topology, is_pod, namespace_of, plan
from svcnet.model.errors import StoreError, SvcnetError

KEEPER = "keeper"

DAEMON = (sys.executable, "-m", "svcnet.cli.daemon")
"""svcnet-proxy, of the Python environment that the lab runs in."""

OWN_NAMESPACE = Path("/proc/self/ns/net")

LOG_LINES = 15
"""How much of a log an error shows."""

NO_BRIDGE_NF = (
    "br_netfilter is not loaded: from a pod, a virtual IP whose endpoint is on the same minion will hang "
    "unless the connection is masqueraded (modprobe br_netfilter)"
)


class Lab:
    """A lab by name, whether it is up or not. As a context manager it is taken down at the end."""

    def __init__(self, name: str = "lab", environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.environ = dict(os.environ if environ is None else environ)
        self.files = LabFiles(directory(self.environ) / name)
        self.notes: tuple[str, ...] = ()
        """What `up` found that a user should know."""
        self._topology: Topology | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self, spec: LabSpec, opener: Opener | None = None, timeout_seconds: float = 120.0) -> Self:
        """Build the lab, wait until every pod answers and every proxy is ready; register all in the store.

        `opener` opens the store; without it nothing is registered. The keeper has its own: `spec.opener`.

        Errors: ConfigError (spec), NotPermittedError, SvcnetError (a lab of that name exists; something did not come
        up in time, with the tail of its log). Whatever was made is taken down again first.
        """
        if spec.name != self.name:
            raise ValueError(f"spec of lab {spec.name!r} given to lab {self.name!r}")
        topology = plan(spec)
        namespace.require_privilege()
        self._refuse_existing()
        with self._new_directory():
            try:
                with locked(self.files, "build"):
                    self._topology = topology
                    self._build(topology, opener, time.monotonic() + timeout_seconds)
            except BaseException:
                with contextlib.suppress(StoreError):  # it is what we are here for, or worth less than that
                    self.down(opener)
                raise
        return self

    def down(self, opener: Opener | None = None) -> bool:
        """End and remove everything the lab made; return whether there was anything. Safe after any crash.

        `opener`: opens the store that the records were put in, unless that is the lab's own directory. StoreError when
        it is away: everything else is gone by then.
        """
        namespace.require_privilege()
        self._topology = None
        if not self.files.root.exists():
            found = namespace.existing(self._own_namespaces())
            namespace.delete(found)
            return bool(found)
        with locked(self.files, "take down"):
            spec = self.files.read()
            self._end_processes()
            namespace.delete(namespace.existing(self._own_namespaces()))
            try:
                if opener is not None and spec is not None and spec.records:
                    controlled = (placed.key for placed in self.files.placed())
                    opener(spec, spec.records).delete(*keys(plan(spec)), *controlled)
            finally:
                self.files.remove()
        return True

    @property
    def topology(self) -> Topology:
        """Where everything is. SvcnetError when there is no such lab."""
        if self._topology is None:
            spec = self.files.read()
            if spec is None:
                raise SvcnetError(f"there is no lab {self.name}: svcnet lab up --name {self.name}")
            self._topology = plan(spec)
        return self._topology

    @property
    def everything(self) -> Topology:
        """Where everything is now, the pods of controllers too."""
        return with_placed(self.topology, self.files.placed())

    @property
    def records(self) -> str:
        """URL of the lab's record store, for whoever is on this machine."""
        return self.files.url(self.topology.spec)

    @property
    def inner_records(self) -> str:
        """The same for whoever is in the lab's network."""
        return etcd.inner_url(self.topology) if self.topology.spec.etcd_port else self.records

    def minion(self, number: int) -> LabMinion:
        """Return minion `number`, from 1."""
        return self.topology.minions[number - 1]

    def pod(self, minion: int, number: int) -> LabPod:
        """Return pod `number` of minion `minion`, both from 1."""
        return self.minion(minion).pods[number - 1]

    def namespace(self, name: str) -> Path:
        """Return the file of a member's namespace (`m1`, `m1p2`, `switch`). SvcnetError for another name."""
        members = self.everything.namespaces
        if name not in members:
            raise SvcnetError(f"no {name} in lab {self.name}, expected one of {', '.join(members)}")
        return namespace.path(members[name])

    def argv(self, name: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` inside a member, where names lead to the lab's services."""
        spec = self.topology.spec
        minion = next((m for m in self.topology.minions if m.name == self._minion_of(name)), None)
        if minion is None or spec.daemon is None or "--dns-listen" in spec.daemon_options:
            return self._inside(name, argv)
        file = self.files.root / "resolv" / (minion.name if name == minion.name else f"{minion.name}-pods")
        file.parent.mkdir(exist_ok=True)
        file.write_text(resolver.resolv_conf(minion, pod=name != minion.name), encoding="utf-8")
        return self._inside(name, resolver.with_resolver(argv, str(file)))

    def _inside(self, name: str, argv: Sequence[str]) -> list[str]:
        """Enter a member by nsenter, not `ip netns exec`: that one mounts another /sys, which hides the cgroups."""
        return ["nsenter", f"--net={self.namespace(name)}", *argv]

    def _minion_of(self, name: str) -> str:
        """Return the name of the minion that a member is, or is on."""
        return next((p.minion for p in self.files.placed() if p.name == name), re.sub(r"p\d+\Z", "", name))

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of what runs inside a member: `svcnet` finds the lab's records, and the daemon."""
        spec = self.topology.spec
        minion = self._minion_of(name)
        own = {
            "SVCNET_CONFIG": str(self.files.config),
            "SVCNET_RECORDS": self.inner_records,
            "SVCNET_SERVICE_CIDR": spec.service_cidr,
            "SVCNET_CLUSTER_CIDR": ",".join(map(str, self.topology.cluster_networks)),
        }
        if minion in (m.name for m in self.topology.minions):
            own |= {
                "SVCNET_NODE": minion,
                "SVCNET_STATE_DIR": str(self.files.state(minion)),
                "SVCNET_ENV_DIR": str(self.files.env(minion)),
                "SVCNET_STATUS_LISTEN": f"127.0.0.1:{STATUS_PORT}",
            }
        return self._outer_environment() | own

    def exec(
        self, name: str, argv: Sequence[str], *, given: str = "", timeout_seconds: float | None = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside a member, `given` on its stdin; return how it ended and what it printed.

        subprocess.TimeoutExpired after `timeout_seconds` (None: never).
        """
        return subprocess.run(
            self.argv(name, argv),
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(name),
            timeout=timeout_seconds,
        )

    def start_proxy(self, name: str) -> process.Process:
        """Start a minion's proxy. SvcnetError when it runs, or ends at once."""
        if self.alive(name):
            raise SvcnetError(f"the proxy of {name} runs already")
        identity = self.files.process(name)
        if earlier := process.read(identity):
            identity.rename(self.files.process(f"{name}.{earlier.pid}"))  # `down` looks for what it left
        command = self._inside(name, self.proxy_argv(name))
        started = process.spawn(command, identity, self.files.log(name), self._outer_environment())
        if started is None:
            raise SvcnetError(f"the proxy of {name} ended at once{self._tail(name)}")
        return started

    def proxy_argv(self, name: str) -> list[str]:
        """Return the command of a minion's proxy."""
        spec = self.topology.spec
        mode = ["--mode", spec.mode] if spec.mode else []
        options = {
            "--config": self.files.config,
            "--records": self.inner_records,
            "--node": name,
            "--state-dir": self.files.state(name),
            "--env-dir": self.files.env(name),
            "--status-listen": f"127.0.0.1:{STATUS_PORT}",
            "--cluster-cidr": ",".join(map(str, self.topology.cluster_networks)),
            "--service-cidr": spec.service_cidr,
            "--dns-listen": resolver.listen(next(m for m in self.topology.minions if m.name == name)),
            "--dns-upstream": "off",
        }
        ours = [str(part) for option in options.items() for part in option]
        return [*(spec.daemon or ()), *ours, *mode, *spec.daemon_options]

    def wait_ready(self, names: Sequence[str], deadline: float) -> None:
        """Wait until the proxies of these minions say 200 at /readyz; SvcnetError with the tail of a log."""

        def why_not(name: str) -> str | None:
            alive = self.alive
            where = self.topology.namespaces[name]
            return probe.until_ok(where, "127.0.0.1", STATUS_PORT, "/readyz", deadline, lambda: alive(name))

        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            for name, why in zip(names, pool.map(why_not, names), strict=True):
                if why:
                    raise SvcnetError(f"the proxy of {name} is not ready: {why}{self._tail(name)}")

    def alive(self, name: str) -> bool:
        """Whether a member's process runs: a pod's own, a minion's proxy, or the keeper."""
        known = process.read(self.files.process(name))
        return known is not None and process.is_alive(known)

    def kill(self, name: str) -> None:
        """End a pod (or a minion's proxy) as a crash would: SIGKILL. SvcnetError when none runs."""
        self.namespace(name)
        known = process.read(self.files.process(name))
        if known is None or not process.is_alive(known):
            raise SvcnetError(f"{name} has no process that runs")
        process.end([known], 0)

    def _refuse_existing(self) -> None:
        found = namespace.existing(self._own_namespaces())
        if self.files.root.exists() or found:
            what = self.files.root if self.files.root.exists() else f"namespace {found[0]}"
            raise SvcnetError(
                f"lab {self.name} exists already ({what}): svcnet lab down --name {self.name}, or choose another --name"
            )

    @contextlib.contextmanager
    def _new_directory(self) -> Iterator[None]:
        """Make the lab's directory: whoever makes it has the name."""
        self.files.root.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.files.root.mkdir(mode=0o755)
        except FileExistsError as error:
            raise SvcnetError(f"lab {self.name} exists already: svcnet lab down --name {self.name}") from error
        yield

    def _build(self, topology: Topology, opener: Opener | None, deadline: float) -> None:
        self.files.make(topology.spec)
        self._wire(topology)
        if topology.spec.etcd_port:
            etcd.start(topology, self.files, self._outer_environment(), deadline)
        self._start_pods(topology, deadline)
        if opener is not None:
            opener(topology.spec, self.records).put(*records(topology))
        if topology.spec.daemon is not None:
            names = [minion.name for minion in topology.minions]
            for name in names:
                self.start_proxy(name)
            self.wait_ready(names, deadline)

    def _wire(self, topology: Topology) -> None:
        members = topology.namespaces
        namespace.add(list(members.values()))
        absent = []
        for member, where in members.items():
            namespace.write_settings(where, wiring.settings(topology, member))
            absent += namespace.write_settings(where, wiring.bridge_settings(topology, member))
        if absent and topology.spec.topology == "bridge":
            self.notes = (NO_BRIDGE_NF,)
        namespace.run_batches([(topology.switch, wiring.switch_lines(topology))])
        namespace.run_batches([(m.namespace, wiring.minion_lines(topology, m)) for m in topology.minions])
        namespace.run_batches(
            [(p.namespace, wiring.pod_lines(topology, m, p)) for m in topology.minions for p in m.pods]
        )

    def _start_pods(self, topology: Topology, deadline: float) -> None:
        if not topology.pods and not topology.spec.opener:
            return
        hears, tells = os.pipe()
        try:
            argv = [sys.executable, "-m", "svcnet.lab.keeper", str(self.files.spec), "3"]
            try:
                environ = self._outer_environment()
                process.spawn(argv, self.files.process(KEEPER), self.files.log(KEEPER), environ, keep=tells)
            finally:
                os.close(tells)
            if topology.pods:  # else it only follows the records: nothing of `up` depends on when it begins
                self._hear_ok(hears, deadline)
        finally:
            os.close(hears)
        for minion in topology.minions:
            for pod in minion.pods:
                why = probe.until_ok(minion.namespace, str(pod.addresses[0]), POD_PORT, "/", deadline)
                if why:
                    raise SvcnetError(f"pod {pod.name} does not answer its minion: {why}{self._tail(KEEPER)}")

    def _hear_ok(self, hears: int, deadline: float) -> None:
        said = b""
        while select.select([hears], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(hears, 4096)
            said += chunk
            if not chunk or said == b"ok":
                break
        if said != b"ok":
            raise SvcnetError(f"the pods did not start: {said.decode() or 'no word'}{self._tail(KEEPER)}")

    def _end_processes(self) -> None:
        """End the keeper first, so that it takes no pod for crashed; then pods and proxies."""
        known, stubborn = self._known(), list[process.Process]()
        if keeper := known.get(KEEPER):
            # What it was just making pods with too: `ip` would make one more namespace behind our back.
            stubborn += process.end([keeper], 0)
            stubborn += process.end(process.session_members(keeper, OWN_NAMESPACE), 0)
        known = self._known()  # again: the keeper may have been forking until now
        controlled = {placed.name: placed for placed in self.files.placed()}
        pods = {name: who for name, who in known.items() if is_pod(name) or name.partition(".")[0] in controlled}
        stubborn += process.end(list(pods.values()), 0)
        for name, who in pods.items():
            if placed := controlled.get(name.partition(".")[0]):
                where = namespace.path(namespace_of(self.name, placed.member))
                stubborn += process.end(process.session_members(who, where), 0)
        proxies = {name: who for name, who in known.items() if name != KEEPER and name not in pods}
        stubborn += process.end(list(proxies.values()), 5.0)
        for name, who in proxies.items():
            where = namespace.path(namespace_of(self.name, name.partition(".")[0]))
            stubborn += process.end(process.session_members(who, where), 0)
        if stubborn:
            raise SvcnetError(f"can't end {', '.join(f'pid {who.pid}' for who in stubborn)}")

    def _known(self) -> dict[str, process.Process]:
        files = sorted(self.files.processes.iterdir()) if self.files.processes.is_dir() else []
        return {file.name: who for file in files if (who := process.read(file))}

    def _own_namespaces(self) -> re.Pattern[str]:
        return re.compile(re.escape(namespace_of(self.name, "")) + r"(switch|m\d+(p\d+)?)")

    def _outer_environment(self) -> dict[str, str]:
        """Return the caller's environment without its settings for svcnet, which speak of another place."""
        return {key: value for key, value in self.environ.items() if not key.startswith("SVCNET_")}

    def _tail(self, member: str) -> str:
        """Return the end of a log, to be put behind an error."""
        with contextlib.suppress(OSError):
            lines = self.files.log(member).read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            if lines:
                return "\n" + "\n".join(f"  {member}: {line}" for line in lines)
        return ""
