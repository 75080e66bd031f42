"""What the keeper does once its pods run: their records go when they end, and controllers get theirs. Shell.

Owns: the loop, and which store it reads and writes. Must not know how any pod is made.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module

from svcnet.lab.controller import Controllers
from svcnet.lab.lab import Lab
from svcnet.lab.outbox import Outbox
from svcnet.lab.record import pod_key
from svcnet.lab.registry import Opener, Registry, Watched
from svcnet.lab.spec import LabSpec
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import Topology
from svcnet.model.errors import SvcnetError

Controlled = Callable[[Outbox], Coroutine[None, None, None]]
"""Runs the controllers of a lab for ever, and gives what it writes to an outbox."""


def run(topology: Topology, files: LabFiles, pods: dict[int, tuple[int, str]]) -> None:
    """Serve for ever. `pods`: pidfd → (pid, name) of those that this process forked."""
    asyncio.run(watch(pods, open_registry(topology.spec, files), controlled(topology, files)))


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


def controlled(topology: Topology, files: LabFiles) -> Controlled | None:
    """Return what runs the lab's controllers; None when its store doesn't tell of changes."""
    registry = open_registry(topology.spec, files)  # another one: its reader and its writer run beside each other
    if not isinstance(registry, Watched):
        return None
    lab = Lab(topology.spec.name, os.environ | {"SVCNET_LAB_DIR": str(files.root.parent)})

    async def run(outbox: Outbox) -> None:
        await Controllers(topology, files, outbox, lab.argv, lab.environment, say).run(registry)

    return run


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


def say(text: str) -> None:
    """Write one line to the keeper's log."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
