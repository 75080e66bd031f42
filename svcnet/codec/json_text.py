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


class _Member(NamedTuple):
    """One member of an object or entry of an array: offsets of its begin (the key's, if it has one) and its value."""

    step: str | int
    begin: int
    value: int


def find(data: bytes, path: Path) -> int:
    """Return the offset of a field's key, or of the deepest part of `path` that exists; the text must be good JSON.

    The last one of equal keys is meant, as in decoding.
    """
    best = at = skip_blank(data)
    for step in path:
        found = None
        for member in _members(data, at):
            if member.step == step:
                found = member
        if found is None:
            break
        best, at = found.begin, found.value
    return best


def _members(data: bytes, at: int) -> "Iterator[_Member]":
    """Yield what the object or array at `at` holds; nothing for other values. msgspec skips the values, at C speed."""
    opening, view = data[at : at + 1], memoryview(data)
    if opening not in {b"{", b"["}:
        return
    index, at = 0, skip_blank(data, at + 1)
    while data[at : at + 1] not in {b"}", b"]", b""}:
        begin = at
        step: str | int = index
        if opening == b"{":
            end = _end(view, at)
            step = msgspec.json.decode(view[at:end], type=str)
            at = skip_blank(data, skip_blank(data, end) + 1)
        yield _Member(step, begin, at)
        at = skip_blank(data, _end(view, at))
        at = skip_blank(data, at + 1) if data[at : at + 1] == b"," else at
        index += 1


def _end(view: memoryview, at: int) -> int:
    """Return where the value at `at` ends."""
    try:
        _ANY.decode(view[at:])
    except msgspec.DecodeError as error:
        if (stray := _TRAILING.search(str(error))) is not None:
            return at + int(stray[1]) - 1
    except RecursionError:
        # Good text that is nested to the very limit: the search ends here, with what it has.
        pass
    return len(view)


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
    todo: list[tuple[Path, int]] = [((), skip_blank(data))]
    while todo:
        path, at = todo.pop()
        seen: set[str | int] = set()
        for member in _members(data, at):
            inner = (*path, member.step)
            if member.step in seen:
                return inner
            seen.add(member.step)
            todo.append((inner, member.value))
    return None


class _RepeatError(Exception):
    """An object holds a key twice."""


def _no_repeats(members: list[tuple[str, Any]]) -> None:
    if len(dict(members)) < len(members):
        raise _RepeatError
