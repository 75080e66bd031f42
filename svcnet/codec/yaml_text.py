"""YAML text: documents, scalars as Kubernetes reads them, and finding lines.

Owns: characters of YAML and positions in them. Must not know: records, wire forms.
Built on PyYAML's events rather than its constructor: nesting, alias bombs and duplicate keys are refused while reading,
and dates stay the strings that records want. Plain scalars follow YAML 1.1 (yes and on are bools), as Kubernetes does,
but without base-60 numbers; keys are always strings.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
import yaml

from svcnet.codec.check import Path
from svcnet.codec.json_text import TextError

MAX_DEPTH = 100
MAX_ALIASED = 100_000
"""How many nodes aliases may add to one file."""

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{form: True for word in ("true", "yes", "on") for form in (word, word.title(), word.upper())},
    **{form: False for word in ("false", "no", "off") for form in (word, word.title(), word.upper())},
}
_INTEGER = re.compile(r"([-+]?)(?:(0[bB][01_]+|0[xX][0-9a-fA-F_]+)|(0[0-7_]+)|(0|[1-9][0-9_]*))")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_MAY_BE_NUMBER = frozenset("0123456789+-.")
_TAGS = "tag:yaml.org,2002:"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_T = TypeVar("_T")


class Spot(NamedTuple):
    """Where a mapping stands: character offsets, line from 1, column from 0."""

    start: int
    end: int
    line: int
    column: int


class YamlValue(NamedTuple):
    """One YAML value with the line that it begins on."""

    value: Any
    line: int
    text: str
    spots: dict[int, Spot]
    lines: dict[int, list[int]]

    def typed(self, _decoder: object, wire: type[_T]) -> _T:
        """Convert into a wire struct. Errors: msgspec.ValidationError."""
        return msgspec.convert(self.value, wire)

    def plain(self) -> Any:
        """Return plain Python values. Errors: none."""
        return self.value

    def repeated(self) -> Path | None:
        """Return None: a YAML file with a key twice is refused while reading."""
        return None

    def line_of(self, path: Path) -> int:
        """Return the line of a field, or of the nearest thing around it that exists."""
        spot = self.spots.get(id(self.value))
        if spot is None:
            return self.line
        # The spaces give the first line of a block its column back, or its other lines would look deeper.
        return spot.line + _find_line(" " * spot.column + self.text[spot.start : spot.end], path)

    def items(self) -> "Iterator[YamlValue]":
        """Yield the entries of the list `items`, each with its line. Errors: msgspec.ValidationError."""
        entries = msgspec.convert(self.value, _Items).items or []
        lines = self.lines.get(id(self.value.get("items")), [])
        for i, entry in enumerate(entries):
            # A list that came by alias or merge may have none.
            yield self._replace(value=entry, line=lines[i] if i < len(lines) else self.line)


class _Items(msgspec.Struct):
    items: list[Any] | None = None


class _Frame:
    """A mapping or sequence that is being read."""

    __slots__ = ("anchor", "expanded", "key", "mark", "merges", "merging", "value")

    def __init__(self, event: Any, value: dict[str, Any] | list[Any], expanded: int) -> None:
        self.value = value
        self.mark = event.start_mark
        self.anchor: str | None = event.anchor
        self.key: str | None = None
        self.merging = False
        self.merges: list[Any] = []
        self.expanded = expanded


class _Builder:
    """Folds events into plain values."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, int]] = []
        self.spots: dict[int, Spot] = {}
        self.lines: dict[int, list[int]] = {}
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0
        self.aliased = 0

    def take(self, event: Any) -> None:
        """Fold one event in. Errors: TextError."""
        mark: Any = event.start_mark
        if isinstance(event, yaml.ScalarEvent):
            frame = self.stack[-1] if self.stack else None
            if frame is not None and frame.key is None and isinstance(frame.value, dict):
                self._key(frame, event)
            else:
                self._put(_scalar(event), mark.line + 1, event.anchor, self.nodes)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.anchors.clear()

    def _key(self, frame: _Frame, event: Any) -> None:
        key = event.value
        if key in frame.value:
            raise _error(f"key {key[:60]!a} twice, expected each key once", event)
        frame.key = key
        frame.merging = key == "<<" and event.implicit[0]

    def _open(self, event: Any) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise _error("nested too deep for a record", event)
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            raise _error("a key that is no plain word, expected a string", event)
        is_map = isinstance(event, yaml.MappingStartEvent)
        self.stack.append(_Frame(event, {} if is_map else [], self.nodes))

    def _close(self, event: Any) -> None:
        frame = self.stack.pop()
        value = frame.value
        if isinstance(value, dict):
            if frame.merges:
                value = _merged(frame, event)
            if len(self.stack) in (0, 2):
                mark = frame.mark
                self.spots[id(value)] = Spot(mark.index, event.end_mark.index, mark.line + 1, mark.column)
        self._put(value, frame.mark.line + 1, frame.anchor, frame.expanded)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise _error(f"alias *{event.anchor} of an unknown or unfinished anchor", event)
        value, weight = self.anchors[event.anchor]
        self.aliased += weight
        self.nodes += weight
        if self.aliased > MAX_ALIASED:
            raise _error(f"aliases that expand to more than {MAX_ALIASED} values", event)
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            raise _error("an alias as a key, expected a string", event)
        self._put(value, event.start_mark.line + 1, None, self.nodes)

    def _put(self, value: Any, line: int, anchor: str | None, began: int) -> None:
        """Hand a finished value to what holds it. `began` is the count of nodes before it."""
        self.nodes += 1
        if anchor is not None:
            self.anchors[anchor] = (value, self.nodes - began)
        if not self.stack:
            self.done.append((value, line))
            return
        frame = self.stack[-1]
        if isinstance(frame.value, list):
            frame.value.append(value)
            if len(self.stack) == 2:
                self.lines.setdefault(id(frame.value), []).append(line)
            return
        key, frame.key = frame.key, None
        assert key is not None
        if frame.merging:
            frame.merges.append(value)
        else:
            frame.value[key] = value


def _merged(frame: _Frame, event: Any) -> dict[str, Any]:
    """Return a mapping with its `<<` merged in (YAML 1.1 merge keys): its own keys win, then the earlier source."""
    merged: dict[str, Any] = {}
    for merge in frame.merges:
        for source in merge if isinstance(merge, list) else [merge]:
            if not isinstance(source, dict):
                raise _error("a << that holds no mapping", event)
            merged = {**source, **merged}
    assert isinstance(frame.value, dict)
    return {**merged, **frame.value}


def _error(what: str, event: Any) -> TextError:
    mark = event.start_mark
    return TextError(what, mark.line + 1, mark.column + 1)


def _scalar(event: Any) -> Any:
    if event.tag is not None:
        return _tagged(event)
    return plain(event.value) if event.implicit[0] else event.value


def _tagged(event: Any) -> Any:
    tag = event.tag.removeprefix(_TAGS)
    if tag in ("str", "timestamp", "!"):
        return event.value
    if tag in ("int", "float", "bool", "null"):
        return plain(event.value)
    raise _error(f"tag {event.tag[:60]!a}, expected a plain value", event)


def plain(text: str) -> Any:
    """Return what a scalar without quotes means."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _MAY_BE_NUMBER:
        return text
    if match := _INTEGER.fullmatch(text):
        return _integer(match)
    if _FLOAT.fullmatch(text):
        try:
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text
    return text


def _integer(match: re.Match[str]) -> int | str:
    sign, based, octal, decimal = match.groups()
    try:
        if octal is not None:
            value = int(octal.replace("_", ""), 8)
        elif based is not None:
            value = int(based.replace("_", ""), 0)
        else:
            value = int(decimal.replace("_", ""))
    except ValueError:
        # More digits than Python turns into a number, or a prefix alone.
        return match[0]
    return -value if sign == "-" else value


def _events(text: str) -> Iterator[Any]:
    loader = _Loader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except yaml.YAMLError as error:
        raise _text_error(error, text) from None
    finally:
        loader.dispose()


def _text_error(error: yaml.YAMLError, text: str) -> TextError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "can't be read"
        return TextError(what, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1)
    at = getattr(error, "position", 0)
    at = at if isinstance(at, int) else 0
    line = text.count("\n", 0, at)
    what = getattr(error, "reason", None) or "a character that YAML forbids"
    return TextError(str(what), line + 1, at - text.rfind("\n", 0, at))


def documents(text: str) -> list[YamlValue]:
    """Return the documents that hold something. Errors: TextError."""
    builder = _Builder()
    for event in _events(text):
        builder.take(event)
    return [
        YamlValue(value, line, text, builder.spots, builder.lines) for value, line in builder.done if value is not None
    ]


def _find_line(text: str, path: Path) -> int:
    """Return the line, from 0, of the deepest part of `path` in the first mapping of the text."""
    best, depth = 0, 0
    here: list[str | int | None] = []
    for event in _events(text):
        in_list = bool(here) and isinstance(here[-1], int)
        if isinstance(event, yaml.CollectionEndEvent):
            here.pop()
            if not here:
                return best
            _advance(here)
            continue
        if not isinstance(event, yaml.NodeEvent) or event.start_mark is None:
            continue
        is_key = False
        if isinstance(event, yaml.ScalarEvent) and here and here[-1] is None:
            is_key = True
            here[-1] = event.value
        if (is_key or in_list) and depth <= len(here) <= len(path) and tuple(here) == path[: len(here)]:
            best, depth = event.start_mark.line, len(here)
        if isinstance(event, yaml.CollectionStartEvent):
            here.append(None if isinstance(event, yaml.MappingStartEvent) else 0)
        elif not is_key:
            _advance(here)
    return best


def _advance(here: list[str | int | None]) -> None:
    """Step past a value: to the next index, or to the next key."""
    if here:
        here[-1] = here[-1] + 1 if isinstance(here[-1], int) else None
