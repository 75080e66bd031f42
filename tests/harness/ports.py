"""Ports of loopback where nobody listens.

Owns: the choice. They are below those that the kernel gives to whoever connects: a client that tries one of those again
and again, until its server is there, may get it as its own, and meet itself.
"""

import random
import socket
from pathlib import Path

LOWEST = 10_000


def unused() -> int:
    """A port that is free by TCP and UDP now, and that nobody gets by chance."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(LOWEST, max(first, LOWEST + 10_000))
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            try:
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
