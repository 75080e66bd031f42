"""The records that a lab registers: a Node for each minion, a Pod for each pod, as a kubelet would write them. Pure."""

from svcnet.lab.spec import POD_PORT
from svcnet.lab.topology import LabMinion, LabPod, Topology
from svcnet.model.meta import Key, Meta
from svcnet.model.node import Node
from svcnet.model.pod import Container, ContainerPort, Pod, PodSpec

NAMESPACE = "default"


def node_record(minion: LabMinion) -> Node:
    """Return a ready Node with its InternalIPs and pod networks."""
    addresses = [("InternalIP", str(address)) for address in minion.addresses]
    return Node(
        meta=Meta(name=minion.name, labels=(("kubernetes.io/hostname", minion.name),)),
        pod_cidrs=tuple(str(network) for network in minion.pod_networks),
        addresses=(*addresses, ("Hostname", minion.name)),
        ready=True,
    )


def pod_record(topology: Topology, minion: LabMinion, pod: LabPod) -> Pod:
    """Return a running, ready Pod with the lab's labels; port `http` (TCP) and `echo` (UDP) are both POD_PORT."""
    ports = (ContainerPort(POD_PORT, name="http"), ContainerPort(POD_PORT, name="echo", protocol="UDP"))
    return Pod(
        meta=Meta(name=pod.name, namespace=NAMESPACE, labels=tuple(sorted(topology.spec.labels))),
        spec=PodSpec(containers=(Container(name="stand-in", ports=ports),), node=minion.name),
        phase="Running",
        ips=tuple(str(address) for address in pod.addresses),
        host_ip=str(minion.addresses[0]),
        ready=True,
    )


def records(topology: Topology) -> tuple[Node | Pod, ...]:
    """Return all records of a lab, minions first."""
    nodes = tuple(node_record(minion) for minion in topology.minions)
    pods = tuple(pod_record(topology, minion, pod) for minion in topology.minions for pod in minion.pods)
    return (*nodes, *pods)


def pod_key(name: str) -> Key:
    """Return the key of a pod's record."""
    return Key("Pod", NAMESPACE, name)


def keys(topology: Topology) -> tuple[Key, ...]:
    """Return the keys of all records of a lab."""
    return tuple(record.key for record in records(topology))
