"""JSON text: splitting, mending the one forgiven mistake, and finding lines.

Owns: bytes of JSON and positions in them. Must not know: records, wire forms.
msgspec decodes; this module looks at the text again only when there is something to report.
"""

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from svcnet.codec.check import FieldError, Path, show

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]|\\.)*+(?:"|\Z)'
_TRAILING_COMMA = re.compile(_STRING + rb"|,(?=" + _SPACE + rb"[}\]])", re.DOTALL)
_TOKEN = re.compile(_STRING + rb'|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_BLANK = re.compile(_SPACE)
_BETWEEN = re.compile(rb"[ \t\r\n,]*+")
_ITEMS_KEY = re.compile(rb'"items"' + _SPACE + b":" + _SPACE)
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_POSITION = re.compile(r"(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?")


class TextError(Exception):
    """Text that can't be read at all: what is wrong, and where (both from 1)."""

    def __init__(self, what: str, line: int, column: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.column = column


class _Items(msgspec.Struct):
    items: msgspec.Raw = msgspec.Raw(b"null")


_ITEMS = msgspec.json.Decoder(_Items)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw] | None)
_ANY = msgspec.json.Decoder(msgspec.Raw)


class JsonValue(NamedTuple):
    """One JSON value with the line that it begins on."""

    data: bytes
    line: int

    def typed(self, decoder: msgspec.json.Decoder[Any], _wire: type[Any]) -> Any:
        """Decode into a wire struct. Errors: msgspec.ValidationError."""
        return decoder.decode(self.data)

    def plain(self) -> Any:
        """Decode into plain Python values, generously. Errors: ValueError, RecursionError."""
        return json.loads(self.data)

    def repeated(self) -> Path | None:
        """Return the first key that its object holds twice."""
        return repeated(self.data)

    def line_of(self, path: Path) -> int:
        """Return the line of a field, or of the nearest thing around it that exists."""
        return self.line + self.data.count(b"\n", 0, find(self.data, path))

    def items(self) -> "Iterator[JsonValue]":
        """Yield the entries of the array `items`, each with its line. Errors: FieldError."""
        text = bytes(_ITEMS.decode(self.data).items)
        try:
            entries = _ARRAY.decode(text) or ()
        except msgspec.ValidationError:
            raise FieldError(f"got {show(msgspec.json.decode(text))}, expected array", "items") from None
        keys = _ITEMS_KEY.finditer(self.data)
        at = next((key.end() for key in keys if self.data.startswith(text, key.end())), 0) + 1
        line, counted = self.line, 0
        for raw in entries:
            if gap := _BETWEEN.match(self.data, at):
                at = gap.end()
            line += self.data.count(b"\n", counted, at)
            entry = bytes(raw)
            yield JsonValue(entry, line)
            counted, at = at, at + len(entry)


def position(data: bytes, offset: int) -> tuple[int, int]:
    """Return line and column, from 1, of a byte; columns count characters."""
    before = data.rfind(b"\n", 0, offset) + 1
    return data.count(b"\n", 0, offset) + 1, len(data[before:offset].decode("utf-8", "replace")) + 1


def skip_blank(data: bytes, start: int = 0) -> int:
    """Return the offset of the first byte, from `start` on, that is no white space."""
    match = _BLANK.match(data, start)
    return match.end() if match else start


def documents(data: bytes) -> tuple[list[JsonValue], list[int]]:
    """Split text into its values (one, or several one after the other); return them and the lines of forgiven commas.

    Errors: TextError.
    """
    found: list[JsonValue] = []
    commas: list[int] = []
    counted, line = 0, 1
    start = skip_blank(data)
    while start < len(data):
        line += data.count(b"\n", counted, start)
        try:
            end = _value_end(data, start)
        except TextError as error:
            if commas or not error.what.startswith("not JSON: trailing comma"):
                raise
            data, commas = _without_commas(data)
            end = _value_end(data, start)
        found.append(JsonValue(data[start:end], line))
        counted, start = start, skip_blank(data, end)
    return found, commas


def _value_end(data: bytes, start: int) -> int:
    """Return where the value at `start` ends. Errors: TextError."""
    view = data[start:] if start else data
    try:
        _ANY.decode(view)
    except msgspec.DecodeError as error:
        if (stray := _TRAILING.search(str(error))) is not None:
            # msgspec counts from the byte after the first stray character.
            return start + int(stray[1]) - 1
        raise _syntax_error(str(error), data, start) from None
    except RecursionError:
        raise TextError("nested too deep for a record", *position(data, start)) from None
    return len(data)


def _syntax_error(complaint: str, data: bytes, start: int) -> TextError:
    """Say what is wrong and where: the standard library's positions are exact, msgspec's not always."""
    match = _POSITION.fullmatch(complaint)
    assert match is not None
    what, offset = match[1], int(match[2]) if match[2] else len(data) - start
    if not what.startswith("trailing comma"):
        text = data[start:].decode()
        try:
            json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError as error:
            what, offset = error.msg[:1].lower() + error.msg[1:].removesuffix(" at"), len(text[: error.pos].encode())
        except (ValueError, RecursionError):
            pass
    return TextError(f"not JSON: {what}", *position(data, start + offset))


def _without_commas(data: bytes) -> tuple[bytes, list[int]]:
    """Blank every comma that stands before a closing bracket; return the text and their lines."""
    lines: list[int] = []
    counted = 0

    def blank(match: re.Match[bytes]) -> bytes:
        nonlocal counted
        if match[0] != b",":
            return match[0]
        lines.append((lines[-1] if lines else 1) + data.count(b"\n", counted, match.start()))
        counted = match.start()
        return b" "

    return _TRAILING_COMMA.sub(blank, data), lines


def find(data: bytes, path: Path) -> int:
    """Return the offset of a field's key, or of the deepest part of `path` that exists; the text must be good JSON.

    The last one of equal keys is meant, as in decoding.
    """
    best, depth = 0, 0
    for here, offset in _places(data):
        if depth <= len(here) <= len(path) and tuple(here) == path[: len(here)]:
            best, depth = offset, len(here)
    return best


def _places(data: bytes) -> "Iterator[tuple[list[str | int], int]]":
    """Yield path and offset of every key and every array entry. The path is the same list each time."""
    here: list[str | int] = []
    objects: list[bool] = []
    key_next = False
    for token in _TOKEN.finditer(data):
        text = token[0]
        first = text[:1]
        if first == b",":
            key_next = objects[-1]
            if not key_next:
                here[-1] = int(here[-1]) + 1
        elif first in b"}]":
            here.pop()
            objects.pop()
            key_next = False
        elif key_next:
            here[-1] = msgspec.json.decode(text, type=str)
            yield here, token.start()
            key_next = False
        elif first != b":":
            if objects and not objects[-1]:
                yield here, token.start()
            if first in b"{[":
                key_next = first == b"{"
                here.append("" if key_next else 0)
                objects.append(key_next)


def repeated(data: bytes) -> Path | None:
    """Return the first key that its object holds twice. JSON leaves open which counts; msgspec takes the last."""
    try:
        json.loads(data, object_pairs_hook=_no_repeats)
    except _RepeatError:
        pass
    except (ValueError, RecursionError):
        return None
    else:
        return None
    seen: set[Path] = set()
    for here, _ in _places(data):
        path = tuple(here)
        if path in seen:
            return path
        seen.add(path)
    return None


class _RepeatError(Exception):
    """An object holds a key twice."""


def _no_repeats(members: list[tuple[str, Any]]) -> None:
    if len(dict(members)) < len(members):
        raise _RepeatError
