"""The daemon's sockets on virtual IPs.

Owns: how they are opened, and how many there can be. They belong to the daemon, so that the end of a worker closes no
port; workers get copies.
"""

import errno
import resource
import socket
import struct
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from svcnet.model.frontend import Frontend
from svcnet.proxy.admission import Admission, admit

BACKLOG = 4096
RESERVED = 128
"""File descriptors that the daemon keeps for everything else."""
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
"""linux/in.h, linux/in6.h: an address that is local by a route alone may be bound."""

_TABLES = (("tcp", "tcp", 4, "0A"), ("tcp6", "tcp", 6, "0A"), ("udp", "udp", 4, "07"), ("udp6", "udp", 6, "07"))
"""File below /proc/PID/net, protocol, family, the state of a socket that waits for clients (net/tcp_states.h)."""
TAKEN = "something else listens there, on this address or on all of them: it is not served"
_WAITING = struct.Struct("24xI")
"""Where struct tcp_info (include/uapi/linux/tcp.h) of a listener has, as tcpi_unacked, who waits to be accepted."""
_NOT_OPEN = {"06", "07", "0A"}
"""TCP_TIME_WAIT, TCP_CLOSE, TCP_LISTEN."""


def raise_limit() -> None:
    """Let this process, and those that it starts, have as many file descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_listeners(workers: int) -> int:
    """How many frontends there can be: the daemon has a socket a worker for each, and a worker needs half its own."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return max(1, min((limit - RESERVED) // workers, limit // 2))


def open_listener(frontend: Frontend, admission: Admission, *, shared: bool) -> socket.socket:
    """A socket on a frontend. `shared`: one of several, between which the kernel divides the clients. OSError."""
    sock = prepare_listener(frontend, shared=shared)
    try:
        bind_listener(sock, frontend, admission)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare_listener(frontend: Frontend, *, shared: bool) -> socket.socket:
    """The same, at no address yet: clients don't see it. OSError."""
    tcp = frontend.protocol == "tcp"
    sock = socket.socket(frontend.socket_family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
    try:
        if frontend.family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if tcp:
            # Accepted sockets inherit the last two.
            for level, option in (
                (socket.SOL_SOCKET, socket.SO_REUSEADDR),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            ):
                sock.setsockopt(level, option, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_listener(sock: socket.socket, frontend: Frontend, admission: Admission) -> None:
    """Let clients come to it. OSError."""
    admit(sock, admission, frontend.family)
    sock.bind((frontend.address, frontend.port))
    if sock.type == socket.SOCK_STREAM:
        sock.listen(BACKLOG)


def close_listener(sock: socket.socket) -> None:
    """Refuse from now on, whoever else has a copy."""
    with suppress(OSError):  # a UDP socket can't be shut down: it lives until the worker closes its copy
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def waiting(sock: socket.socket) -> int:
    """How many clients are connected to a TCP listener and not accepted; 0 for UDP, where nobody waits."""
    if sock.type != socket.SOCK_STREAM:
        return 0
    found: int = _WAITING.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size))[0]
    return found


def listening(networks: Iterable[IPv4Network | IPv6Network]) -> frozenset[Frontend]:
    """Who listens on addresses of these networks, in this network namespace (proc(5), net/tcp)."""
    among = tuple(networks)
    found = []
    for name, protocol, version, state in _TABLES:
        for fields in _sockets(name):
            if fields[3] == state:
                address, port = _decoded(fields[1])
                if any(address in network for network in among):
                    found.append(Frontend(version, str(address), protocol, port))
    return frozenset(found)


def connected(addresses: Container[str]) -> frozenset[str]:
    """Those of these addresses to which TCP connections are open, in this network namespace."""
    found = {
        str(_decoded(fields[1])[0])
        for name, protocol, _, _ in _TABLES
        if protocol == "tcp"
        for fields in _sockets(name)
        if fields[3] not in _NOT_OPEN
    }
    return frozenset(address for address in found if address in addresses)


def _sockets(name: str) -> Iterator[list[str]]:
    """The fields of each line of a table."""
    try:
        lines = Path("/proc/thread-self/net", name).read_text().splitlines()[1:]
    except FileNotFoundError:  # no IPv6 here
        return
    yield from (line.split() for line in lines)


def _decoded(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """0100007F:0050: 32-bit words in the machine's byte order, and a port."""
    words, port = text.split(":")
    parts = (words[i : i + 8] for i in range(0, len(words), 8))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in parts)
    return ip_address(packed), int(port, 16)


def why_not(error: OSError) -> str:
    """What to tell of a socket that could not be opened."""
    if error.errno == errno.EADDRINUSE:
        return TAKEN
    if error.errno == errno.EACCES:
        return "ports below 1024 need CAP_NET_BIND_SERVICE: it is not served"
    return f"{error.strerror or error}: it is not served"
