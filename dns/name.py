"""Domain names as bytes on the wire (RFC 1035 §3.1), lower-cased, with or without the root at the end. Pure.

Owns: text ↔ wire and the walk over labels. Must not know which names exist.

A relative name is one without the zero byte of the root: joining names is joining bytes.
"""

ROOT = b"\0"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
LONGEST_LABEL, LONGEST_NAME = 63, 255


def label(text: str) -> bytes:
    """Return one label as a relative name. ValueError: empty or longer than 63 bytes."""
    data = text.lower().encode()
    if not 0 < len(data) <= LONGEST_LABEL:
        raise ValueError(f"{text!r} is no label of a DNS name")
    return bytes((len(data),)) + data


def relative(text: str) -> bytes:
    """Return dotted text as a relative name; "" and "." are the empty one. ValueError: a bad label."""
    text = text.removesuffix(".")
    return b"".join(map(label, text.split("."))) if text else b""


def absolute(text: str) -> bytes:
    """Return dotted text as a whole name. ValueError: a bad label, or longer than 255 bytes."""
    name = relative(text) + ROOT
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{text!r} is longer than a DNS name may be")
    return name


def offsets(name: bytes) -> list[int]:
    """Return where each label of a well-formed name begins; the root's place is the last for a whole name."""
    found = []
    at, end = 0, len(name)
    while at < end:
        found.append(at)
        at += name[at] + 1
    return found


def end_of(packet: bytes, at: int) -> int:
    """Return where the uncompressed name that begins at `at` ends. ValueError: not one, or it runs off the packet.

    A length byte above 63 is a pointer or a type that nobody uses (RFC 6891 §5): neither belongs in a question.
    """
    begin = at
    while at < len(packet):
        length = packet[at]
        at += 1
        if length == 0:
            if at - begin > LONGEST_NAME:
                break
            return at
        if length > LONGEST_LABEL:
            break
        at += length
    raise ValueError("malformed name")


def read(packet: bytes, at: int) -> tuple[bytes, int]:
    """Return the name that begins at `at`, whole and in lower case, and where it ends. ValueError: not one.

    Pointers (RFC 1035 §4.1.4) lead only backwards, so that the walk ends.
    """
    found, end, least = b"", 0, at
    while at < len(packet):
        length = packet[at]
        if length >= 0xC0:
            end = end or at + 2
            at = int.from_bytes(packet[at : at + 2]) & 0x3FFF
            if at >= least:
                break
            least = at
        elif length > LONGEST_LABEL or len(found) + length >= LONGEST_NAME or at + length >= len(packet):
            break
        else:
            found += packet[at : at + length + 1]
            at += length + 1
            if not length:
                return found.lower(), end or at
    raise ValueError("malformed name")


def text(name: bytes) -> str:
    """Return a name as text with a dot at the end; what would confuse a reader is escaped (RFC 1035 §5.1)."""
    labels = [name[at + 1 : at + 1 + name[at]] for at in offsets(name) if name[at]]
    return "".join(_shown(part) + "." for part in labels) or "."


def _shown(part: bytes) -> str:
    plain = (chr(c) if c in _PLAIN else f"\\{c:03d}" if c < 33 or c > 126 else "\\" + chr(c) for c in part)
    return "".join(plain)
