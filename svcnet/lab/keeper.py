"""The lab's kubelet, one process a lab: `python -m svcnet.lab.keeper SPEC_FILE [READY_FD]`.

Owns: the pods' processes, and that the record of a pod that died goes. Must not know namespaces' wiring or proxies.

The pods of `lab up` are forked from here before anything else: 40 ms less for each than a Python of its own. They die
with the keeper (PR_SET_PDEATHSIG), so that ending it ends them whatever happened before. It writes `ok` to READY_FD
once every pod listens, else what is wrong. Then come the controllers' pods, which are programs of their own.
"""

import contextlib
import ctypes  # here, so that no pod has to import it again: 150 of them took 1.2 s
import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from svcnet.lab import namespace, process, stand_in
from svcnet.lab.spec import POD_PORT
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import LabPod, plan
from svcnet.model.errors import SvcnetError

PR_SET_PDEATHSIG = 1


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
    # After the pods: this imports much that a stand-in doesn't need, and `lab up` waits for them.
    from svcnet.lab import kubelet  # noqa: PLC0415

    kubelet.run(topology, files, pods)
    return 0


def report(ready: int | None, text: str) -> None:
    """Tell whoever started the keeper, once."""
    if ready is not None:
        with contextlib.suppress(BrokenPipeError):  # an empty lab is not waited for
            os.write(ready, text.encode())
        os.close(ready)


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


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
