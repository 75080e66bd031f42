"""Records as people write them, and their files as any tool puts them in place.

Owns: the JSON forms that the tests of the daemon use. Must not know how svcnet reads them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PORT, TARGET_PORT = 80, 8080
PROTOCOLS = ("TCP", "UDP")

Written = dict[str, Any]


def service(name: str, *virtual_ips: str, protocols: Sequence[str] = PROTOCOLS, **spec: Any) -> Written:
    """A v1 Service with port 80 of each protocol; without virtual IPs it asks for one."""
    ports = [{"name": p.lower(), "port": PORT, "targetPort": TARGET_PORT, "protocol": p} for p in protocols]
    addresses = {"clusterIP": virtual_ips[0], "clusterIPs": list(virtual_ips)} if virtual_ips else {}
    return _record("v1", "Service", name, {}, spec={"ports": ports, **addresses, **spec})


def endpoints(name: str, *addresses: str, protocols: Sequence[str] = PROTOCOLS) -> Written:
    """An EndpointSlice of service `name`, of the family of its first address."""
    family = 6 if ":" in "".join(addresses[:1]) else 4
    return _record(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{name}-{family}",
        {"kubernetes.io/service-name": name},
        addressType=f"IPv{family}",
        ports=[{"name": p.lower(), "port": TARGET_PORT, "protocol": p} for p in protocols],
        endpoints=[{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    )


def put(directory: Path, *records: Written) -> None:
    """Write one file a record, by rename."""
    for record in records:
        fresh = directory / ".new"
        fresh.write_text(json.dumps(record))
        fresh.rename(path(directory, record))


def remove(directory: Path, *records: Written) -> None:
    """Unlink the files of these records."""
    for record in records:
        path(directory, record).unlink()


def path(directory: Path, record: Written) -> Path:
    """Where `put` writes a record."""
    return directory / f"{record['kind']}-{record['metadata']['name']}.json"


def _record(version: str, kind: str, name: str, labels: dict[str, str], **fields: Any) -> Written:
    metadata = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
