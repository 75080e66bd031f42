"""ReplicationController records (core/v1): keep N pods of a template."""

import msgspec

from svcnet.model.meta import Key, Meta, Pairs
from svcnet.model.pod import PodSpec


class ReplicationController(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="ReplicationController"
):
    """Keep `replicas` pods that match `selector`, made from the template."""

    meta: Meta
    replicas: int = 1
    selector: Pairs = ()
    template_labels: Pairs = ()
    template_annotations: Pairs = ()
    template_name: str = ""
    """The manifest's id (v1beta1) or the template's metadata.name."""
    template: PodSpec = PodSpec()

    @property
    def key(self) -> Key:
        """Which record this is."""
        return Key("ReplicationController", self.meta.namespace, self.meta.name)
