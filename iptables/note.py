"""Which endpoint a client with affinity has now: one element of map `affinity`, asked for by its key.

Owns: that question. The map may have a million elements, so it is never dumped.
"""

import errno
import struct
from typing import NamedTuple

from svcnet.iptables.desired import packed
from svcnet.iptables.elements import (
    DATA_VALUE,
    ELEM_DATA,
    ELEM_LIST_ELEMENTS,
    FAMILY_NUMBERS,
    GETSETELEM,
    LIST_ELEM,
    element_of,
    number,
)
from svcnet.iptables.netlink import NetlinkError, Socket, attributes
from svcnet.iptables.ruleset import AFFINITY

ELEM_EXPIRATION = 5


class Note(NamedTuple):
    """The member that a client has, as data of the map, and for how many seconds still."""

    key: bytes
    member: bytes
    seconds: float


def note_of(family: int, base: int, client: str) -> Note | None:
    """Ask; `base` is the service port's id with its scope. None: the client has none. KernelError."""
    key = number(base) + packed(client)[-12:]
    try:
        with Socket() as socket:
            answer = socket.ask(GETSETELEM, FAMILY_NUMBERS[family], element_of(AFFINITY, key))
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise
    whole = dict(attributes(answer))
    element = dict(attributes(dict(attributes(whole[ELEM_LIST_ELEMENTS]))[LIST_ELEM]))
    if ELEM_DATA not in element:
        return None
    member = bytes(dict(attributes(element[ELEM_DATA]))[DATA_VALUE])
    left = element.get(ELEM_EXPIRATION)
    return Note(key, member, struct.unpack(">Q", left)[0] / 1000 if left is not None else 0.0)
