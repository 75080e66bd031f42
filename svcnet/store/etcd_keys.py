"""The names of keys in etcd: PREFIX/records/KIND/NAMESPACE/NAME, PREFIX/claims/… and PREFIX/health/….

Owns: key ↔ what it is of. Must not know: values, connections.

    PREFIX/health/m1/default/tomcat/10.1.0.5/8080   why an endpoint fails the health checks of its minion (JSON text)
    PREFIX/records/Service/default/tomcat    a record (JSON); `-` is the namespace of kinds without one
    PREFIX/claims/cidrs                      the service CIDRs that claims come from
    PREFIX/claims/holders/10.0.0.5           who holds an address or node port: NAMESPACE/NAME
    PREFIX/claims/services/default/tomcat    what a service holds (JSON of model.claim.Claim)

Claims sort before records, so one read in the order of keys knows them when it comes to the services.
"""

from typing import NamedTuple

from svcnet.model.claim import Resource
from svcnet.model.event import Verdict
from svcnet.model.meta import CLUSTER_SCOPED, Key
from svcnet.model.record import KINDS

NO_NAMESPACE = "-"
_KINDS = frozenset(kind.__name__ for kind in KINDS)


class Keyspace(NamedTuple):
    """All names below one prefix."""

    prefix: str

    @property
    def claims(self) -> str:
        """Where claims begin."""
        return f"{self.prefix}/claims/"

    @property
    def health(self) -> str:
        """Where what health checks say begins: between claims and records, in the order of keys."""
        return f"{self.prefix}/health/"

    @property
    def records(self) -> str:
        """Where records begin."""
        return f"{self.prefix}/records/"

    @property
    def cidrs(self) -> bytes:
        """The key of the service CIDRs."""
        return f"{self.claims}cidrs".encode()

    @property
    def holders(self) -> str:
        """Where the holders of resources begin."""
        return f"{self.claims}holders/"

    @property
    def services(self) -> str:
        """Where the claims of services begin."""
        return f"{self.claims}services/"

    @property
    def everything(self) -> tuple[bytes, bytes]:
        """First key and the key after the last, of claims, health and records."""
        return self.claims.encode(), end(self.records)

    def record(self, key: Key) -> bytes:
        """The key of a record."""
        return f"{self.records}{key.kind}/{key.namespace or NO_NAMESPACE}/{key.name}".encode()

    def verdict(self, node: str, verdict: Verdict) -> bytes:
        """The key of what a minion says of one of its endpoints."""
        _, namespace, name = verdict.service
        return f"{self.health}{node}/{namespace}/{name}/{verdict.address}/{verdict.port}".encode()

    def verdict_of(self, name: str, why: str) -> Verdict | None:
        """What a key below `health` says; None for what is no name of one."""
        parts = name.removeprefix(self.health).split("/")
        if len(parts) != 5 or not all(parts) or not parts[4].isdecimal():
            return None
        node, namespace, service, address, port = parts
        return Verdict(Key("Service", namespace, service), address, int(port), why, node)

    def record_key(self, name: str) -> Key | None:
        """Which record a key is of; None for what is no name of a record."""
        parts = name.removeprefix(self.records).split("/")
        if len(parts) != 3 or parts[0] not in _KINDS or not all(parts):
            return None
        kind, namespace, name = parts
        if (namespace == NO_NAMESPACE) != (kind in CLUSTER_SCOPED):
            return None
        return Key(kind, "" if namespace == NO_NAMESPACE else namespace, name)

    def holder(self, resource: Resource) -> bytes:
        """The key that says who holds an address or a node port."""
        return f"{self.holders}{resource}".encode()

    def claim(self, name: str) -> bytes:
        """The key of what a service (by its claim id) holds."""
        return f"{self.services}{name}".encode()


def end(start: str) -> bytes:
    """The key after all that begin with `start`, which ends with a slash."""
    return start[:-1].encode() + b"0"  # "0" follows "/"


def resource_of(text: str) -> Resource:
    """The resource that a holder's key names."""
    return int(text) if text.isdecimal() else text
