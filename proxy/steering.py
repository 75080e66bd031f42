"""Which worker a client comes to: with affinity always the same, as no other knows what one has noted of a client.

Owns: the classic BPF program of the sockets that share a port (SO_REUSEPORT, one a worker). Its answer is the number of
a socket, in the order in which they were opened.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress

from svcnet.proxy.admission import SOURCE, WORD, Step, set_program

_ATTACH, _DETACH = 51, 68
"""SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF (asm-generic/socket.h)."""
_MODULO, _XOR, _TO_X, _RETURN_A = 0x94, 0xAC, 0x07, 0x16
"""BPF_ALU|BPF_MOD|BPF_K, BPF_ALU|BPF_XOR|BPF_X, BPF_MISC|BPF_TAX, BPF_RET|BPF_A."""


def program(family: int, workers: int) -> tuple[Step, ...]:
    """The address of the client, modulo the number of workers; of IPv6, its words by exclusive or."""
    steps: list[Step] = [(WORD, 0, 0, SOURCE[family])]
    for at in (4, 8, 12) if family == 6 else ():
        steps += [(_TO_X, 0, 0, 0), (WORD, 0, 0, SOURCE[6] + at), (_XOR, 0, 0, 0)]
    return (*steps, (_MODULO, 0, 0, workers), (_RETURN_A, 0, 0, 0))


def steer(sockets: Sequence[socket.socket], family: int) -> None:
    """Lead each client to one of these sockets, which share a port. OSError."""
    set_program(sockets[0], _ATTACH, program(family, len(sockets)))


def spread(sockets: Sequence[socket.socket]) -> None:
    """Lead each connection to any of them."""
    with suppress(OSError):  # there is no such program
        sockets[0].setsockopt(socket.SOL_SOCKET, _DETACH, 0)
