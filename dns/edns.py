"""The OPT record of a query: whether it is one, and what it says (RFC 6891 §6.1). Pure.

Owns: its bytes and those of the options whose form a server must check. Must not know what is answered.
"""

from collections.abc import Iterator
from typing import NamedTuple

OPT = 41
FIXED_BYTES = 11
"""Root, type, payload size, extended code, version, flags, length."""
ECS, COOKIE = 8, 10
_FAMILY_BITS = {1: 32, 2: 128}


class Opt(NamedTuple):
    """One OPT record. `sound`: it ends where the message does, and so do its options."""

    payload: int
    version: int
    dnssec: bool
    sound: bool


def read(packet: bytes, at: int) -> Opt | None:
    """Return the OPT record that stands at `at` and is all that follows; None: something else does."""
    fixed = packet[at : at + FIXED_BYTES]
    if len(fixed) < FIXED_BYTES or fixed[:3] != b"\0\0\x29":
        return None
    data = packet[at + FIXED_BYTES :]
    sound = int.from_bytes(fixed[9:]) == len(data) and all(_is_sound(*option) for option in _options(data))
    return Opt(int.from_bytes(fixed[3:5]), fixed[6], bool(fixed[7] & 0x80), sound)


def _options(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield (code, content) of each option; None for one that runs off."""
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4])
        whole = at + 4 <= len(data) and end <= len(data)
        yield int.from_bytes(data[at : at + 2]), data[at + 4 : end] if whole else None
        at = end


def _is_sound(code: int, content: bytes | None) -> bool:
    """Whether an option has the form that its RFC gives it; one that we don't know has any (RFC 6891 §6.1.2)."""
    if content is None:
        return False
    if code == COOKIE:  # RFC 7873 §4: the client's 8 bytes, and perhaps a server's 8 to 32
        return len(content) == 8 or 16 <= len(content) <= 40
    return code != ECS or _is_subnet(content)


def _is_subnet(content: bytes) -> bool:
    """RFC 7871 §6: family, two prefix lengths, as many bytes as the first needs, with zeros behind it."""
    if len(content) < 4:
        return False
    most = _FAMILY_BITS.get(int.from_bytes(content[:2]), -1)
    source, address = content[2], content[4:]
    if max(source, content[3]) > most or len(address) != -(-source // 8):
        return False
    return not source % 8 or not address[-1] & 0xFF >> source % 8
