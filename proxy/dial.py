"""A socket on its way to a backend.

Owns: how it is made. Must not know what it is for.
"""

import _socket
import errno
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SOCK_NONBLOCK, SOCK_STREAM, TCP_NODELAY

from svcnet.proxy.counts import REFUSED, TIMED_OUT, UNREACHABLE
from svcnet.proxy.row import Backend

IN_PROGRESS = {0, errno.EINPROGRESS}
"""What connect_ex says where the answer is still to come, or was there at once."""
_KINDS = {errno.ECONNREFUSED: REFUSED, errno.ETIMEDOUT: TIMED_OUT}
_NEW = int(SOCK_STREAM) | SOCK_NONBLOCK
_FAMILIES = int(AF_INET), int(AF_INET6)


def socket_to(backend: Backend) -> _socket.socket:
    """One that can be connected to it. OSError: no descriptor, no memory."""
    sock = _socket.socket(_FAMILIES[":" in backend.address], _NEW)
    sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    return sock


def kind_of(error: int) -> int:
    """As what a failed dial is counted."""
    return _KINDS.get(error, UNREACHABLE)
