"""What the proxy is asked to do, in its own terms.

Owns: the two values that go from the daemon to the workers. Must not know records, and how the kernel paths see them.
"""

import socket
from collections.abc import Mapping
from typing import NamedTuple


class Frontend(NamedTuple):
    """What a client connects to. `family` 4 or 6, `address` canonical text, `protocol` tcp or udp."""

    family: int
    address: str
    protocol: str
    port: int

    def __str__(self) -> str:
        """ADDRESS PROTO/PORT."""
        return f"{self.address} {self.protocol}/{self.port}"


class Backend(NamedTuple):
    """Where connections go: an address of the frontend's family, and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        """ADDRESS:PORT."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Weights = Mapping[Backend, int]
"""The backends of a frontend with their weights, 1 or more."""


def family(frontend: Frontend) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if frontend.family == 6 else socket.AF_INET
