"""Bob Jenkins' hash as the kernel has it (include/linux/jhash.h): where a client goes by source hash. Pure.

Owns: the arithmetic, for little-endian machines: only there are the kernel's bytes and words the same.
"""

import sys

_INITIAL = 0xDEADBEEF
_MASK = 0xFFFFFFFF
KNOWN = sys.byteorder == "little"
"""Whether the kernel of this machine reckons the same way."""


def jhash(data: bytes, seed: int) -> int:
    """32 bits of hash; `data` is not empty."""
    a = b = c = (_INITIAL + len(data) + seed) & _MASK
    while len(data) > 12:
        a, b, c = _mix(*((v + w) & _MASK for v, w in zip((a, b, c), _words(data[:12]), strict=True)))
        data = data[12:]
    return _final(*((v + w) & _MASK for v, w in zip((a, b, c), _words(data.ljust(12, b"\0")), strict=True)))


def scaled(value: int, size: int) -> int:
    """A hash as 0..size-1 (reciprocal_scale)."""
    return value * size >> 32


def _words(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[i : i + 4], "little") for i in (0, 4, 8))


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c & _MASK) ^ _rotate(c, bits)
        a, b, c = b, c + b & _MASK, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = (c ^ b) - _rotate(b, 14) & _MASK
    a = (a ^ c) - _rotate(c, 11) & _MASK
    b = (b ^ a) - _rotate(a, 25) & _MASK
    c = (c ^ b) - _rotate(b, 16) & _MASK
    a = (a ^ c) - _rotate(c, 4) & _MASK
    b = (b ^ a) - _rotate(a, 14) & _MASK
    return (c ^ b) - _rotate(b, 24) & _MASK
