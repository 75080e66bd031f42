"""Who may come in at a listener: a classic BPF program, by which the kernel drops everybody else without a word.

Owns: the program, and how it comes to a socket (SO_ATTACH_FILTER, socket(7)). Accepted sockets inherit it and have no
use for it: `admit_all`. Must not know why somebody may not come in.

The kernel runs it for each packet to the listener; its answer 0 drops the packet. At SKF_NET_OFF is the packet's
network header, whatever the socket; at SKF_AD_OFF are things that no packet has (Documentation/networking/filter.rst).
"""

import _socket
import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import NamedTuple

from svcnet.proxy.row import Reach, Rule

_ATTACH, _DETACH = 26, 27
"""SO_ATTACH_FILTER, SO_DETACH_FILTER (asm-generic/socket.h); detaching takes a number, and ignores it."""
WORD, _AND, _IF_EQUAL, _GO, _RETURN = 0x20, 0x54, 0x15, 0x05, 0x06
"""BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JA, BPF_RET|BPF_K."""
_KEEP, _KEPT = 0x02, 0x60
"""BPF_ST, BPF_LD|BPF_W|BPF_MEM: the client's address is read once, as that takes the kernel eight instructions."""
_NETWORK_HEADER, _INTERFACE = 0xFFF00000, 0xFFFFF008
"""SKF_NET_OFF; SKF_AD_OFF + SKF_AD_IFINDEX."""
SOURCE = {4: _NETWORK_HEADER + 12, 6: _NETWORK_HEADER + 8}
_WHOLE_PACKET = 0xFFFFFFFF
_LOOPBACK = 1
"""The number of interface lo in every network namespace: by it comes what this machine itself sends to itself."""
MOST_STEPS = 4096
"""BPF_MAXINSNS."""
_STEP = struct.Struct("HBBI")

Network = IPv4Network | IPv6Network
Step = tuple[int, int, int, int]


class Condition(NamedTuple):
    """Clients of any of these networks; `itself`: this machine too."""

    networks: tuple[str, ...] = ()
    itself: bool = False


Admission = tuple[Condition, ...]
"""All of them must hold; () is everyone."""
NOBODY: Admission = (Condition(),)


def admission(rule: Rule, pods: Iterable[str]) -> Admission:
    """Whom a frontend takes in; `pods` are the networks that pods have their addresses of."""
    if rule.reach is Reach.NOBODY:
        return NOBODY
    found = [Condition(rule.ranges)] if rule.ranges else []
    if rule.reach is Reach.BY_SOURCE and not rule.service.local:
        found.append(Condition(tuple(pods), itself=True))
    return tuple(found)


def program(conditions: Admission, family: int) -> tuple[Step, ...]:
    """The steps, each (code, offset if true, offset if false, value)."""
    steps: list[Step] = []
    for at in range(1 if family == 4 else 4):
        steps += [(WORD, 0, 0, SOURCE[family] + 4 * at), (_KEEP, 0, 0, at)]
    for networks, itself in conditions:
        tests = [_comes_from(n) for n in _of_family(networks, family)]
        if itself:
            tests.append([(WORD, 0, 0, _INTERFACE), (_IF_EQUAL, 0, 1, _LOOPBACK)])
        # After each test that holds a step leads to the next condition; offsets of tests have 8 bits, its one 32.
        left = sum(len(test) + 1 for test in tests)
        for test in tests:
            left -= len(test) + 1
            steps += [*test, (_GO, 0, 0, left + 1)]
        steps.append((_RETURN, 0, 0, 0))
    return (*steps, (_RETURN, 0, 0, _WHOLE_PACKET))


def _of_family(networks: Iterable[str], family: int) -> Iterator[Network]:
    found = [ip_network(text, strict=False) for text in networks]
    if family == 4:
        return collapse_addresses([n for n in found if isinstance(n, IPv4Network)])
    return collapse_addresses([n for n in found if isinstance(n, IPv6Network)])


def _comes_from(network: Network) -> list[Step]:
    """The test leaves by its last step's next if it holds, else by the one after that."""
    steps: list[Step] = []
    masks, words = network.netmask.packed, network.network_address.packed
    for number in range(len(words) // 4):
        part = slice(4 * number, 4 * number + 4)
        mask, word = int.from_bytes(masks[part]), int.from_bytes(words[part])
        if mask:
            steps.append((_KEPT, 0, 0, number))
            steps += [(_AND, 0, 0, mask)] if mask != _WHOLE_PACKET else []
            steps.append((_IF_EQUAL, 0, 0, word))
    end = len(steps)
    return [(c, t, end - at if c == _IF_EQUAL else f, v) for at, (c, t, f, v) in enumerate(steps)]


def admits(conditions: Admission, client: str, *, itself: bool) -> bool:
    """What the program says of a client."""
    where = ip_address(client)
    return all(
        (itself and c.itself) or any(where in ip_network(n, strict=False) for n in c.networks) for c in conditions
    )


def admit(sock: socket.socket, conditions: Admission, family: int) -> None:
    """Let in those alone from now on, in place of whom was let in before. OSError."""
    if not conditions:
        admit_all(sock)
        return
    steps = program(conditions, family)
    if len(steps) > MOST_STEPS:
        raise OSError(
            errno.E2BIG, f"its source ranges need {len(steps)} steps of a filter, the kernel takes {MOST_STEPS}"
        )
    set_program(sock, _ATTACH, steps)


def set_program(sock: socket.socket, option: int, steps: Sequence[Step]) -> None:
    """Give a socket a program (struct sock_fprog, include/uapi/linux/filter.h). OSError."""
    text = ctypes.create_string_buffer(b"".join(_STEP.pack(*step) for step in steps))
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(steps), ctypes.addressof(text)))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise OSError(
                errno.ENOMEM, f"a filter of {len(steps)} steps is more than net.core.optmem_max lets in"
            ) from error
        raise


def admit_all(sock: _socket.socket) -> None:
    """No filter, if there is one."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
