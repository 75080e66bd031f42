"""A controller's pod as namespace, wire and processes. Shell.

Owns: making and unmaking one. Must not know why.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from svcnet.lab import namespace, process, wiring
from svcnet.lab.image import command_of
from svcnet.lab.replica import Replica, lab_pod, minion_of
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import LabPod, Topology
from svcnet.model.errors import KernelError, SvcnetError

Enter = Callable[[str, Sequence[str]], list[str]]
"""(member, command) → the command that runs it inside that member of the lab."""

# What a crash of the keeper left behind would answer in the name of a pod that nobody knows. $0: the keeper, which may
# have ended before setpriv asked to be told.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')

GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL for a pod that is one too many."""


def identities(files: LabFiles, replica: Replica) -> list[Path]:
    """Return the files that say who runs: the pod's name for its first container, NAME.1 for the next."""
    many = range(len(replica.controller.template.containers))
    return [files.process(f"{replica.name}.{index}" if index else replica.name) for index in many]


def connect(topology: Topology, replica: Replica) -> None:
    """Make the pod's namespace and wire it. KernelError."""
    pod, minion = lab_pod(topology, replica.placed), minion_of(topology, replica.minion)
    namespace.add([pod.namespace])
    namespace.write_settings(pod.namespace, wiring.settings(topology, pod.name))
    namespace.run_batches([(minion.namespace, wiring.port_lines(topology, minion, pod))])
    namespace.run_batches([(pod.namespace, wiring.pod_lines(topology, minion, pod))])


def disconnect(topology: Topology, replica: Replica) -> None:
    """Remove what `connect` made, or half of it."""
    pod, minion = lab_pod(topology, replica.placed), minion_of(topology, replica.minion)
    with contextlib.suppress(KernelError):  # not made, or gone
        # By name and at once: the kernel removes a namespace's links when it comes to it, and the name may be needed.
        namespace.run_batches([(minion.namespace, [f"link del {pod.port}"])])
    with contextlib.suppress(KernelError):
        namespace.delete([pod.namespace])


def start(
    topology: Topology, replica: Replica, files: LabFiles, enter: Enter, environ: Mapping[str, str]
) -> list[process.Process]:
    """Start every container's command; they die with the calling thread. SvcnetError when one can't."""
    pod = lab_pod(topology, replica.placed)
    own = dict(environ) | {
        "POD_NAME": replica.name,
        "POD_NAMESPACE": replica.controller.meta.namespace,
        "POD_IP": str(pod.addresses[0]),
        "POD_IPS": ",".join(map(str, pod.addresses)),
        "NODE_NAME": replica.minion,
    }
    started = []
    for container, identity in zip(replica.controller.template.containers, identities(files, replica), strict=True):
        command = command_of(container.image, topology.spec.images)
        assert command is not None, "no minion takes a pod of an unknown image"
        inside = enter(replica.name, [*DIE_WITH_PARENT, str(os.getpid()), *command])
        who = process.spawn(inside, identity, files.log(replica.name), own | dict(container.env))
        if who is None:
            end(topology, replica, files, 0)
            raise SvcnetError(f"container {container.name} ended at once")
        started.append(who)
    return started


def end(topology: Topology, replica: Replica, files: LabFiles, grace_seconds: float) -> None:
    """End all processes of the pod, those that its commands started too, and forget who they were."""
    where = namespace.path(lab_pod(topology, replica.placed).namespace)
    files_of = identities(files, replica)
    known = [who for file in files_of if (who := process.read(file))]
    process.end(known, grace_seconds)
    for who in known:
        process.end(process.session_members(who, where), 0)
    for file in files_of:
        file.unlink(missing_ok=True)


def accepts(pod: LabPod, ports: Sequence[int], timeout_seconds: float) -> bool:
    """Whether something accepts a connection on each of these TCP ports, asked from inside the pod."""

    def ask() -> bool:
        for port in ports:
            try:
                socket.create_connection((str(pod.addresses[0]), port), timeout_seconds).close()
            except OSError:
                return False
        return True

    return namespace.inside(pod.namespace, ask)


def forward(where: str, table: str) -> None:
    """Commit a table of host ports in a minion's namespace. KernelError: nft is missing, or refused it."""
    argv = ["nsenter", f"--net={namespace.path(where)}", "nft", "-f", "-"]
    done = subprocess.run(argv, input=table, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"nft: {' '.join(done.stderr.split())}")
