"""What a client connects to: the word that every data path, the connection table and the tracker share."""

import socket
from typing import NamedTuple


class Frontend(NamedTuple):
    """One address and port. `family` 4 or 6, `address` canonical text, `protocol` tcp, udp or sctp."""

    family: int
    address: str
    protocol: str
    port: int

    def __str__(self) -> str:
        """ADDRESS PROTO/PORT."""
        return f"{self.address} {self.protocol}/{self.port}"

    @property
    def socket_family(self) -> socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return socket.AF_INET6 if self.family == 6 else socket.AF_INET
