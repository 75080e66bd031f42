"""The lab's kubelet, one process a lab: `python -m svcnet.lab.keeper SPEC_FILE [READY_FD]`.

Owns: the pods' processes, and that the record of a pod that died goes. Must not know namespaces' wiring or proxies.

The pods of `lab up` are forked from here before anything else: 40 ms less for each than a Python of its own. They die
with the keeper (PR_SET_PDEATHSIG), so that ending it ends them whatever happened before. It writes `ok` to READY_FD
once every pod listens, else what is wrong. Then come the controllers' pods, which are programs of their own.
"""

import asyncio
import ctypes  # here, so that no pod has to import it again: 150 of them took 1.2 s
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from importlib import import_module
from pathlib import Path

from svcnet.lab import namespace, process, stand_in
from svcnet.lab.controller import Controllers
from svcnet.lab.lab import Lab
from svcnet.lab.outbox import Outbox
from svcnet.lab.record import pod_key
from svcnet.lab.registry import Opener, Registry, Watched
from svcnet.lab.spec import POD_PORT, LabSpec
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import LabPod, Topology, plan
from svcnet.model.errors import SvcnetError

PR_SET_PDEATHSIG = 1

Controlled = Callable[[Outbox], Coroutine[None, None, None]]
"""Runs the controllers of a lab for ever, and gives what it writes to an outbox."""


def main(arguments: Sequence[str]) -> int:
    """Start the pods of a lab and watch them for ever."""
    files = LabFiles(Path(arguments[0]).parent)
    ready = int(arguments[1]) if len(arguments) > 1 else None
    spec = files.read()
    if spec is None:
        report(ready, f"no lab at {files.root}")
        return 1
    topology = plan(spec)
    try:
        pods = fork_pods(topology.pods, files, spec.ipv6, ready)
    except SvcnetError as error:
        report(ready, str(error))
        return 1
    report(ready, "ok")
    # After the pods: opening a store imports much that a stand-in doesn't need.
    asyncio.run(watch(pods, open_registry(spec, files), controlled(topology, files)))
    return 0


def report(ready: int | None, text: str) -> None:
    """Tell whoever started the keeper, once."""
    if ready is not None:
        os.write(ready, text.encode())
        os.close(ready)


def open_registry(spec: LabSpec, files: LabFiles) -> Registry | None:
    """Open the lab's store with the function that `spec.opener` names; None, and a line in the log, if it can't be."""
    if not spec.opener:
        return None
    module, _, function = spec.opener.partition(":")
    try:
        opener: Opener = getattr(import_module(module), function)
        return opener(spec, files.url(spec))
    except (SvcnetError, ImportError, AttributeError) as error:
        say(f"store can't be opened, records of pods that end will stay error={error}")
        return None


def controlled(topology: Topology, files: LabFiles) -> Controlled | None:
    """Return what runs the lab's controllers; None when its store doesn't tell of changes."""
    registry = open_registry(topology.spec, files)  # another one: its reader and its writer run beside each other
    if not isinstance(registry, Watched):
        return None
    lab = Lab(topology.spec.name, os.environ | {"SVCNET_LAB_DIR": str(files.root.parent)})

    async def run(outbox: Outbox) -> None:
        await Controllers(topology, files, outbox, lab.argv, lab.environment, say).run(registry)

    return run


def fork_pods(pods: Sequence[LabPod], files: LabFiles, ipv6: bool, ready: int | None) -> dict[int, tuple[int, str]]:
    """Fork one process a pod; return pidfd → (pid, name) once all of them listen, SvcnetError if one can't."""
    keeper = os.getpid()
    gc.freeze()  # what is here now stays shared with the children
    listening, told = os.pipe()
    started = {}
    for pod in pods:
        pid = os.fork()
        if not pid:
            os.close(listening)
            if ready is not None:
                os.close(ready)
            _be_pod(pod, files.process(pod.name), ipv6, told, keeper)
        started[os.pidfd_open(pid)] = (pid, pod.name)
    os.close(told)
    heard = b""
    while chunk := os.read(listening, 4096):
        heard += chunk
    os.close(listening)
    if len(heard) < len(pods):
        raise SvcnetError(f"{len(pods) - len(heard)} of {len(pods)} pods could not start")
    return started


def _be_pod(pod: LabPod, identity: Path, ipv6: bool, told: int, keeper: int) -> None:
    """Become the pod; never returns."""
    try:
        _die_with(keeper)
        process.write_own(identity)
        namespace.enter(pod.namespace)
        streams, datagrams = stand_in.listen(POD_PORT, ipv6)
        os.write(told, b".")
        os.close(told)
        stand_in.serve(pod.name, streams, datagrams)
    except BaseException:  # noqa: BLE001 - a fork must never run on into its parent's code
        sys.stderr.write(f"pod {pod.name}: {traceback.format_exc()}")
    finally:
        os._exit(1)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


async def watch(pods: dict[int, tuple[int, str]], registry: Registry | None, controllers: Controlled | None) -> None:
    """Wait for pods to end and delete their records, and run the controllers, as long as the keeper lives."""
    outbox = Outbox(registry, say)
    loop = asyncio.get_running_loop()

    def ended(handle: int) -> None:
        loop.remove_reader(handle)
        os.close(handle)
        pid, name = pods.pop(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        say(f"pod ended name={name} pid={pid} code={code}")
        outbox.delete(pod_key(name))

    for handle in pods:
        loop.add_reader(handle, ended, handle)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(outbox.run())
        if controllers is not None:
            tasks.create_task(controllers(outbox))


def say(text: str) -> None:
    """Write one line to the keeper's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
