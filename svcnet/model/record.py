"""The union of all records."""

from svcnet.model.controller import ReplicationController
from svcnet.model.endpoint import Endpoints, EndpointSlice
from svcnet.model.node import Namespace, Node
from svcnet.model.pod import Pod
from svcnet.model.service import Service

Record = Service | Pod | ReplicationController | Endpoints | EndpointSlice | Node | Namespace

KINDS: tuple[type[Record], ...] = (Service, Pod, ReplicationController, Endpoints, EndpointSlice, Node, Namespace)
"""Every kind, in the order in which listings show them."""
