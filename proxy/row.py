"""What the proxy is asked to do, in its own terms.

Owns: the values that go from the daemon to the workers. Must not know records, and how the kernel paths see them.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Backend(NamedTuple):
    """Where connections go: an address of the frontend's family, and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        """ADDRESS:PORT."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Weights = Mapping[Backend, int]
"""The backends of a frontend with their weights, 1 or more."""
