"""How a lab is: one value, asked anew each time. Shell.

Owns: what is running and what is not. Must not know how it is printed.
"""

from concurrent.futures import ThreadPoolExecutor

import msgspec

from svcnet.lab import namespace, probe
from svcnet.lab.lab import KEEPER, Lab
from svcnet.lab.spec import STATUS_PORT

PATIENCE_SECONDS = 1.0
"""How long a proxy may take to say whether it is ready."""


class Member(msgspec.Struct, frozen=True):
    """A minion or a pod: its addresses (IPv4 first) and what its process does."""

    name: str
    kind: str
    """`minion` or `pod`."""
    addresses: tuple[str, ...]
    state: str
    """pod: `running`, `ended`. minion: `proxy ready`, `proxy not ready`, `proxy ended`, `no proxy`. `no namespace`."""


class LabStatus(msgspec.Struct, frozen=True):
    """The lab as it is now."""

    name: str
    topology: str
    records: str
    keeper: bool
    """Whether the keeper runs: without it there are no pods."""
    members: tuple[Member, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that `up` made still works."""
        good = {"running", "proxy ready", "no proxy"}
        return all(member.state in good for member in self.members)


def status(lab: Lab) -> LabStatus:
    """Look at every namespace and process. SvcnetError when there is no such lab."""
    topology = lab.everything
    with ThreadPoolExecutor(max_workers=8) as pool:
        states = list(pool.map(lambda minion: _minion(lab, minion.name), topology.minions))
    members = []
    for minion, state in zip(topology.minions, states, strict=True):
        members.append(Member(minion.name, "minion", tuple(map(str, minion.addresses)), state))
        members += [Member(pod.name, "pod", tuple(map(str, pod.addresses)), _pod(lab, pod.name)) for pod in minion.pods]
    return LabStatus(lab.name, topology.spec.topology, lab.records, lab.alive(KEEPER), tuple(members))


def _exists(lab: Lab, name: str) -> bool:
    return lab.namespace(name).exists()


def _pod(lab: Lab, name: str) -> str:
    if not _exists(lab, name):
        return "no namespace"
    return "running" if lab.alive(name) else "ended"


def _minion(lab: Lab, name: str) -> str:
    if not _exists(lab, name):
        return "no namespace"
    if not lab.files.process(name).exists():
        return "no proxy"
    if not lab.alive(name):
        return "proxy ended"

    def ask() -> int:
        return probe.fetch("127.0.0.1", STATUS_PORT, "/readyz", PATIENCE_SECONDS)[0]

    try:
        answer = namespace.inside(lab.topology.namespaces[name], ask)
    except (OSError, ValueError):
        answer = 0
    return "proxy ready" if answer == 200 else "proxy not ready"
