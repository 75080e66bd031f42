"""The kinds as people name them on a command line, and records as people name them in output.

Owns: aliases, the KIND[/NAME] [NAME…] arguments. Knows no store.
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import NamedTuple

import click

from svcnet.model.meta import CLUSTER_SCOPED, Key


class Kind(NamedTuple):
    """One kind: `names` begins with the one in output (`service/tomcat`), then its aliases."""

    kind: str
    plural: str
    names: tuple[str, ...]


KINDS = (
    Kind("Service", "services", ("service", "services", "svc")),
    Kind("Pod", "pods", ("pod", "pods", "po")),
    Kind("Endpoints", "endpoints", ("endpoints", "endpoint", "ep")),
    Kind("EndpointSlice", "endpointslices", ("endpointslice", "endpointslices", "eps")),
    Kind("ReplicationController", "replicationcontrollers", ("replicationcontroller", "replicationcontrollers", "rc")),
    Kind("Node", "minions", ("minion", "minions", "node", "nodes", "no")),
    Kind("Namespace", "namespaces", ("namespace", "namespaces", "ns")),
)
BY_KIND = {kind.kind: kind for kind in KINDS}
_BY_NAME = {name: kind for kind in KINDS for name in kind.names}


def kind_named(text: str) -> Kind:
    """Return the kind that a user means. UsageError names the nearest."""
    found = _BY_NAME.get(text.lower())
    if found is None:
        near = get_close_matches(text.lower(), _BY_NAME, 1)
        expected = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(k.plural for k in KINDS)}"
        raise click.UsageError(f"no kind {text!r}, {expected}")
    return found


def targets(kind: str, names: tuple[str, ...]) -> tuple[Kind, tuple[str, ...]]:
    """Read `KIND [NAME…]` or `KIND/NAME [KIND/NAME…]`, as `-o name` prints them."""
    first, slash, name = kind.partition("/")
    found = kind_named(first)
    if not slash:
        return found, names
    rest = [text.partition("/") for text in names]
    if not name or any(kind_named(k) != found or not n for k, _, n in rest):
        raise click.UsageError("expected KIND NAME…, or KIND/NAME… of one kind")
    return found, (name, *(n for _, _, n in rest))


def key_of(kind: Kind, namespace: str, name: str) -> Key:
    """Return the key of a record that is named on the command line."""
    return Key(kind.kind, "" if kind.kind in CLUSTER_SCOPED else namespace, name)


def said(key: Key) -> str:
    """service/tomcat, with ` in NAMESPACE` when that isn't `default`."""
    place = f" in {key.namespace}" if key.namespace not in {"", "default"} else ""
    return f"{BY_KIND[key.kind].names[0]}/{key.name}{place}"


def short(key: Key) -> str:
    """service/tomcat: what `-o name` prints and commands take back."""
    return f"{BY_KIND[key.kind].names[0]}/{key.name}"


def absent(keys: Iterable[Key], services: Collection[str], namespace: str, names: Iterable[str]) -> list[str]:
    """Say which of the named things are not there: the namespace, else services, of which it has `services`.

    A namespace exists when its record or any record in it is among `keys` (docs/contract.md); `default` always does.
    """
    if namespace != "default" and not any(
        key.namespace == namespace or (key.kind, key.name) == ("Namespace", namespace) for key in keys
    ):
        return [f"namespace/{namespace} not found"]
    return [
        f"service/{name} not found in namespace {namespace}" for name in dict.fromkeys(names) if name not in services
    ]
