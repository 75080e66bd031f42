"""podman on a minion: a network, containers without images, and nothing of them left at the end.

Owns: the engine's configuration, storage and run-time directories, and the control groups of its containers. They are
apart from those of the machine's own podman, if there is one. Must not know svcnet.

A container's root is this machine's, under a throw-away overlay: it has all programs, and nothing is pulled or built.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Self

from tests.harness.minion import Minion
from tests.harness.until import until

NETWORK, SUBNET, GATEWAY = "pods", "10.77.0.0/24", "10.77.0.1"
CREATE_NETWORK = ("network", "create", "--disable-dns", "--subnet", SUBNET, NETWORK)
BRIDGE_ADDRESS = "02:00:00:00:00:77"
CGROUPS = Path("/sys/fs/cgroup")
SHARED = (Path("/run/containers"), Path("/run/runc"))
"""netavark and runc write here, whatever they are told."""
MOST_SECONDS = 600
"""A container ends then by itself, should the session be killed."""

STORAGE = """[storage]
driver = "overlay"
runroot = "{root}/run"
graphroot = "{root}/graph"
"""
# crun refuses a mix of control group versions; limits above what this process may set would fail each start.
CONTAINERS = """[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
network_backend = "netavark"
lock_type = "file"
tmp_dir = "{root}/tmp"
[network]
network_config_dir = "{root}/networks"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
"""

PROGRAM = """#!/bin/sh
export CONTAINERS_STORAGE_CONF={root}/storage.conf CONTAINERS_CONF={root}/containers.conf
[ "$1" != run ] || {{ shift; set -- run --cgroup-parent /{cgroup} --timeout {seconds} "$@"; }}
exec {podman} "$@"
"""

_numbers = count(1)


class Engine:
    """Use as a context. `root` is a directory that doesn't exist yet."""

    def __init__(self, minion: Minion, root: Path) -> None:
        self._minion = minion
        self._root = root
        self.programs = root / "programs"
        """A directory for PATH: its podman is this engine."""
        self._cgroup = f"svcnet-test-{os.getpid()}-{next(_numbers)}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Make it."""
        with ExitStack() as stack:
            self._mount(stack, self._root)
            for directory in SHARED:
                self._mount(stack, directory)
            self._write("storage.conf", STORAGE)
            self._write("containers.conf", CONTAINERS)
            self.programs.mkdir()
            self._write("programs/podman", PROGRAM)
            (self.programs / "podman").chmod(0o755)
            stack.callback(self._remove_cgroups)
            self.podman(*CREATE_NETWORK)
            stack.callback(self.podman, "network", "rm", NETWORK)
            stack.callback(self.podman, "rm", "--force", "--time", "0", "--all")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        self._stack.close()

    def podman(self, *arguments: str) -> str:
        """Run podman on the minion; what it prints."""
        done = self._minion.run(str(self.programs / "podman"), *arguments)
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def start(self, name: str, command: Sequence[str], *options: str) -> str:
        """Start a container with its own namespaces and host name; its address on the network."""
        named = ["--name", name, "--hostname", name, "--network", NETWORK]
        self.podman("run", "--detach", *named, *options, "--rootfs", "/:O", *command)
        # Else the bridge has the lowest address of its ports, another one when containers come and go (netavark 1.4).
        bridge = self.podman("network", "inspect", "-f", "{{.NetworkInterface}}", NETWORK).strip()
        assert self._minion.run("ip", "link", "set", bridge, "address", BRIDGE_ADDRESS).returncode == 0
        inspected = json.loads(self.podman("inspect", name))[0]
        return str(inspected["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])

    def stop(self, name: str) -> None:
        """Kill a container and remove it."""
        self.podman("rm", "--force", "--time", "0", name)

    def sh(self, name: str, script: str) -> str:
        """What a shell inside a container prints, without the last newline. It fails if the script does."""
        return self.podman("exec", name, "/bin/sh", "-euc", script).rstrip("\n")

    def _write(self, name: str, text: str) -> None:
        known = {"root": self._root, "cgroup": self._cgroup, "seconds": MOST_SECONDS, "podman": shutil.which("podman")}
        (self._root / name).write_text(text.format(**known))

    def _mount(self, stack: ExitStack, directory: Path) -> None:
        """Put an empty file system on a directory. Only this session has that mount."""
        if not directory.exists():
            directory.mkdir()
            stack.callback(directory.rmdir)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "none", directory], check=True)
        stack.callback(_unmount, directory)

    def _remove_cgroups(self) -> None:
        # One tree (version 2), or one for each controller (version 1).
        for top in (*CGROUPS.glob(self._cgroup), *CGROUPS.glob(f"*/{self._cgroup}")):
            for directory in sorted(top.glob("**/"), reverse=True):
                until(partial(_removed, directory))


def _unmount(directory: Path) -> None:
    """Unmount a directory and what is mounted below it, once the engine's last process has let it go."""

    def unmounted() -> bool:
        return subprocess.run(["umount", "--recursive", directory], capture_output=True, check=False).returncode == 0

    until(unmounted)


def _removed(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except OSError:  # a process of it is still ending
        return False
    return True
