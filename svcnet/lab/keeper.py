"""The lab's kubelet, one process a lab: `python -m svcnet.lab.keeper SPEC_FILE [READY_FD]`.

Owns: the pods' processes, and that the record of a pod that died goes. Must not know namespaces' wiring or proxies.

Pods are forked from here, all imports done: 40 ms less for each than a Python of its own. They die with the keeper
(PR_SET_PDEATHSIG), so that ending it ends them whatever happened before. It writes `ok` to READY_FD once every pod
listens, else what is wrong.
"""

import ctypes  # here, so that no pod has to import it again: 150 of them took 1.2 s
import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from svcnet.lab import namespace, process, stand_in
from svcnet.lab.record import pod_key
from svcnet.lab.registry import Opener, Registry
from svcnet.lab.spec import POD_PORT, LabSpec
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import LabPod, plan
from svcnet.model.errors import StoreError, SvcnetError
from svcnet.model.meta import Key

PR_SET_PDEATHSIG = 1

RETRY_MS = 1000
"""How soon a record that couldn't be deleted (store away) is tried again."""


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
    registry = open_registry(spec, files)
    watch(pods, registry)
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


def watch(pods: dict[int, tuple[int, str]], registry: Registry | None) -> None:
    """Wait for pods to end and delete their records, as long as the keeper lives."""
    poll = select.poll()
    for handle in pods:
        poll.register(handle, select.POLLIN)
    gone: list[Key] = []
    while True:
        for handle, _ in poll.poll(RETRY_MS if gone else None):
            poll.unregister(handle)
            os.close(handle)
            pid, name = pods.pop(handle)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            say(f"pod ended name={name} pid={pid} code={code}")
            gone.append(pod_key(name))
        gone = forget(gone, registry)


def forget(gone: list[Key], registry: Registry | None) -> list[Key]:
    """Delete the records of pods that ended; return those to try again."""
    if not gone or registry is None:
        return []
    try:
        registry.delete(*gone)
    except StoreError as error:
        say(f"store away, again in {RETRY_MS} ms error={error}")
        return gone
    say(f"records deleted keys={','.join(map(str, gone))}")
    return []


def say(text: str) -> None:
    """Write one line to the keeper's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
