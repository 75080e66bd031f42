"""Which wire form belongs to an apiVersion and a kind: the one table that a new kind is added to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from svcnet.codec import v1_endpoint, v1_node, v1_pod, v1_service, v1beta1
from svcnet.codec.check import Path
from svcnet.model.record import Record


class Form(NamedTuple):
    """How one kind of one apiVersion is read."""

    wire: type[msgspec.Struct]
    decoder: msgspec.json.Decoder[Any]
    build: Callable[[Any], Record]
    annotations: Path
    template_annotations: Path = ()
    """Where a controller keeps those of the pods that it makes."""


def _form(wire: type[msgspec.Struct], build: Callable[[Any], Record], *template: str) -> Form:
    return Form(wire, msgspec.json.Decoder(wire), build, ("metadata", "annotations"), template)


def _old(wire: type[msgspec.Struct], build: Callable[[Any], Record], *template: str) -> Form:
    return Form(wire, msgspec.json.Decoder(wire), build, ("annotations",), template)


FORMS: dict[str, dict[str, Form]] = {
    "v1beta1": {
        "Service": _old(v1beta1.OldService, v1beta1.build_service),
        "Pod": _old(v1beta1.OldPod, v1beta1.build_pod),
        "ReplicationController": _old(
            v1beta1.OldController, v1beta1.build_controller, "desiredState", "podTemplate", "annotations"
        ),
        "Endpoints": _old(v1beta1.OldEndpoints, v1beta1.build_endpoints),
        "Minion": _old(v1beta1.OldMinion, v1beta1.build_minion),
    },
    "v1": {
        "Service": _form(v1_service.WireService, v1_service.build),
        "Pod": _form(v1_pod.WirePod, v1_pod.build_pod),
        "ReplicationController": _form(
            v1_pod.WireController, v1_pod.build_controller, "spec", "template", "metadata", "annotations"
        ),
        "Endpoints": _form(v1_endpoint.WireEndpoints, v1_endpoint.build_endpoints),
        "Node": _form(v1_node.WireNode, v1_node.build_node),
        "Namespace": _form(v1_node.WireNamespace, v1_node.build_namespace),
    },
    "discovery.k8s.io/v1": {
        "EndpointSlice": _form(v1_endpoint.WireSlice, v1_endpoint.build_slice),
    },
}
"""apiVersion → kind → form."""


def list_item(api_version: str | None, kind: str) -> str | None:
    """Return what a list of this kind holds: "Pod" for PodList, "" (each item says) for List, None if it is no list."""
    if kind == "List":
        return ""
    item = kind.removesuffix("List")
    return item if item != kind and item in FORMS.get(api_version or "", ()) else None
