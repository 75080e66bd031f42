"""The lab's replication controller, scheduler and kubelet in one loop: keeps N pods of every ReplicationController.

Owns: when pods are made and ended. How many and where is svcnet.lab.schedule's, how svcnet.lab.container's.

Everything runs in one thread but what waits for the kernel or the store: a pod dies with the thread that started it.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from random import SystemRandom

import msgspec

from svcnet.lab import container, host_port, process
from svcnet.lab.outbox import Outbox
from svcnet.lab.registry import Watched
from svcnet.lab.replica import Replica, fresh_name, is_made_by, lab_pod, minion_of, record_of
from svcnet.lab.schedule import Ground, missing, place, surplus
from svcnet.lab.state import LabFiles
from svcnet.lab.topology import Topology
from svcnet.model.controller import ReplicationController
from svcnet.model.errors import KernelError, SvcnetError
from svcnet.model.event import Away, Delete, Event, Put, Synced
from svcnet.model.meta import Key
from svcnet.model.node import Node
from svcnet.model.pod import Pod

PROBE_SECONDS = 0.02
"""Between two looks whether a pod accepts connections."""
NOT_READY_SECONDS = 3.0
"""A pod that doesn't accept any after this is shown as running and not ready."""
LEAVE_SECONDS = 0.5
"""From a pod's record being deleted to its end: so long may minions still send it connections."""
SHORT_SECONDS = 5.0
"""A pod that ran shorter failed: the next one waits."""

Say = Callable[[str], None]


def wait_seconds(failures: int) -> float:
    """Return how long a controller waits after this many pods in a row that failed: 0, 1, 2, 4 … 30 s."""
    return min(30.0, 2.0 ** (failures - 2)) if failures > 1 else 0.0


class Controllers:
    """All controllers of a lab and their pods. `environ`: minion → the environment of what runs in its pods."""

    def __init__(
        self,
        topology: Topology,
        files: LabFiles,
        outbox: Outbox,
        enter: container.Enter,
        environ: Callable[[str], Mapping[str, str]],
        say: Say,
    ) -> None:
        self._topology, self._files, self._outbox = topology, files, outbox
        self._enter, self._environ, self._say = enter, environ, say
        self._controllers: dict[Key, ReplicationController] = {}
        self._replicas: dict[str, Replica] = {}
        self._leaving: dict[str, asyncio.Event] = {}
        """Set when a pod shall end; there is one for each that has a minion."""
        self._ending: set[str] = set()
        self._closed: set[str] = set()
        self._last: dict[str, int] = {}
        self._failures: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}
        self._news, self._synced = asyncio.Event(), False
        self._rules = asyncio.Lock()
        self._random = SystemRandom()
        self._tasks = asyncio.TaskGroup()

    async def run(self, registry: Watched) -> None:
        """Serve for ever."""
        async with self._tasks:
            self._tasks.create_task(self._watch(registry))
            while True:
                await self._wait()
                if self._synced:
                    self._reconcile()

    async def _wait(self) -> None:
        """Wait for news, or for the time when a controller whose pods failed may try again."""
        waits = [at for key, at in self._not_before.items() if key in self._controllers]
        try:
            async with asyncio.timeout(max(0.0, min(waits) - time.monotonic()) if waits else None):
                await self._news.wait()
        except TimeoutError:
            now = time.monotonic()
            self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        self._news.clear()

    # What the store says.

    async def _watch(self, registry: Watched) -> None:
        try:
            async for batch in registry.watch():
                for event in batch:
                    self._fold(event)
                self._news.set()
        except SvcnetError as error:
            self._say(f"controllers are no longer followed error={error}")

    def _fold(self, event: Event) -> None:
        match event:
            case Put(ReplicationController() as controller, _):
                self._controllers[controller.key] = controller
            case Put(Node() as node, _):
                (self._closed.add if node.unschedulable else self._closed.discard)(node.meta.name)
            case Put(Pod() as pod, _):
                if is_made_by(pod, self._topology.spec.name) and pod.meta.name not in self._replicas:
                    self._outbox.delete(pod.key)  # of a keeper that was killed: nothing runs behind it
            case Delete(key, _):
                self._deleted(key)
            case Synced(_, keys):
                for key in self._controllers.keys() - keys:
                    self._deleted(key)
                self._synced = True
            case Away(reason):
                self._say(f"store away error={reason}")

    def _deleted(self, key: Key) -> None:
        if key.kind == "ReplicationController":
            self._controllers.pop(key, None)
            self._failures.pop(key, None)
            self._not_before.pop(key, None)
        elif key.kind == "Pod":
            replica = self._replicas.get(key.name)
            if replica is not None and replica.key == key and key.name not in self._ending:
                self._leave(replica)

    # What is done about it.

    def _reconcile(self) -> None:
        kept = self._kept()
        for replica in surplus(self._controllers, kept):
            self._leave(replica)
        for key in missing(self._controllers, self._kept()):
            if key not in self._not_before:
                self._make(self._controllers[key])
        for replica in [r for r in self._kept() if not r.minion]:
            self._place(replica)

    def _kept(self) -> list[Replica]:
        return [replica for name, replica in self._replicas.items() if name not in self._ending]

    def _make(self, controller: ReplicationController) -> None:
        taken = self._replicas.keys() | {pod.name for pod in self._topology.pods}
        name = fresh_name(controller.meta.name, taken.__contains__, self._random.choice)
        self._replicas[name] = Replica(name, controller, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def _place(self, replica: Replica) -> None:
        minions = {
            m.name: Ground(len(m.pods), self._last.get(m.name, 0), m.name in self._closed)
            for m in self._topology.minions
        }
        where = place(replica, list(self._replicas.values()), minions, self._topology.spec.images)
        first = replica.reason == "" and not where.minion
        replica = self._change(replica, **where._asdict())
        if first:
            self._say(f"pod waits name={replica.name} why={where.reason}: {where.message}")
        if where.minion:
            self._last[where.minion] = where.slot
            self._leaving[replica.name] = asyncio.Event()
            self._tasks.create_task(self._live(replica))

    def _change(self, replica: Replica, **fields: object) -> Replica:
        """Remember what became of a replica, and tell the store if that is new."""
        changed = msgspec.structs.replace(replica, **fields)
        if self._replicas.get(replica.name) != changed:
            self._replicas[replica.name] = changed
            self._publish(changed)
        return changed

    def _publish(self, replica: Replica) -> None:
        if replica.name not in self._ending:
            self._files.place(replica.placed)
            self._outbox.put(record_of(replica, self._topology))

    def _leave(self, replica: Replica) -> None:
        """Have a pod end: its record goes first, so that nobody is sent to it any more."""
        self._ending.add(replica.name)
        self._outbox.delete(replica.key)
        if replica.name in self._leaving:
            self._leaving[replica.name].set()
        else:
            self._forget(replica)

    def _forget(self, replica: Replica) -> None:
        self._replicas.pop(replica.name, None)
        self._leaving.pop(replica.name, None)
        self._ending.discard(replica.name)
        (self._files.pods / replica.name).unlink(missing_ok=True)
        self._news.set()

    # The life of one pod.

    async def _live(self, replica: Replica) -> None:
        began = time.monotonic()
        try:
            await asyncio.to_thread(container.connect, self._topology, replica)
            members = container.start(self._topology, replica, self._files, self._enter, self._environ(replica.minion))
            self._say(f"pod started name={replica.name} minion={replica.minion} pids={[who.pid for who in members]}")
            await self._serve(replica, members)
        except (SvcnetError, OSError, ValueError) as error:  # ValueError: a zero byte in the template's env
            self._say(f"pod failed name={replica.name} error={error}")
        crashed = replica.name not in self._ending
        if crashed:
            self._crashed(replica, time.monotonic() - began)
        await self._open_ports(replica)
        if not crashed:
            await asyncio.sleep(LEAVE_SECONDS)
        try:
            await asyncio.to_thread(container.end, self._topology, replica, self._files, container.GRACE_SECONDS)
            await asyncio.to_thread(container.disconnect, self._topology, replica)
        except (SvcnetError, OSError) as error:
            self._say(f"pod left something behind name={replica.name} error={error}")
        self._say(f"pod gone name={replica.name} minion={replica.minion}")
        self._forget(replica)

    async def _serve(self, replica: Replica, members: Sequence[process.Process]) -> None:
        """Bring a pod into service and wait until one of its processes ends, or it shall leave."""
        watchers = [asyncio.create_task(_ended(who)) for who in members]
        watchers.append(asyncio.create_task(self._leaving[replica.name].wait()))  # type: ignore[arg-type]  # any result
        ready = asyncio.create_task(self._ready(replica))
        try:
            await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*watchers, ready):
                task.cancel()
            await asyncio.gather(*watchers, ready, return_exceptions=True)

    async def _ready(self, replica: Replica) -> None:
        pod = lab_pod(self._topology, replica.placed)
        containers = replica.controller.template.containers
        ports = [p.container_port for c in containers for p in c.ports if p.protocol == "TCP"]
        late = time.monotonic() + NOT_READY_SECONDS
        while not await asyncio.to_thread(container.accepts, pod, ports, PROBE_SECONDS):
            if time.monotonic() > late and self._replicas[replica.name].phase == "Pending":
                self._change(replica, phase="Running")
            await asyncio.sleep(PROBE_SECONDS)
        running = msgspec.structs.replace(replica, phase="Running", ready=True)
        self._replicas[replica.name] = running
        await self._open_ports(running)
        self._publish(running)

    def _crashed(self, replica: Replica, lived_seconds: float) -> None:
        key = replica.controller.key
        self._ending.add(replica.name)
        self._outbox.delete(replica.key)
        self._failures[key] = self._failures.get(key, 0) + 1 if lived_seconds < SHORT_SECONDS else 0
        if seconds := wait_seconds(self._failures[key]):
            self._not_before[key] = time.monotonic() + seconds
        self._news.set()

    async def _open_ports(self, replica: Replica) -> None:
        """Bring the host ports of a pod's minion up to date."""
        if not any(port.host_port for c in replica.controller.template.containers for port in c.ports):
            return
        async with self._rules:
            found = host_port.forwards(self._topology, replica.minion, self._kept())
            where = minion_of(self._topology, replica.minion).namespace
            try:
                await asyncio.to_thread(container.forward, where, host_port.table(found))
            except KernelError as error:
                self._say(f"no host ports on {replica.minion} error={error}")


async def _ended(who: process.Process) -> None:
    """Wait until a process of ours ends, and take its exit status."""
    over = asyncio.Event()
    try:
        handle = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
