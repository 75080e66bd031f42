"""Bytes → records. What can't be understood becomes an error with file, line and field; the rest goes on.

Owns: the walk from text over documents and lists to records, and the wording of errors. Must not know: stores, what a
record means. Nothing here raises for content.

A file with a syntax error gives no record at all: half a file is not what its author meant.
"""

import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from svcnet.codec import json_text
from svcnet.codec.annotations import findings
from svcnet.codec.check import FieldError, Path, path_text, quote, show
from svcnet.codec.forms import FORMS, Form, list_item
from svcnet.codec.json_text import JsonValue, TextError
from svcnet.model.controller import ReplicationController
from svcnet.model.errors import RecordError
from svcnet.model.meta import Pairs
from svcnet.model.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOM = b"\xef\xbb\xbf"
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]|\[(\.\.\.)\]")
_COMPLAINT = re.compile(r"(Expected `(.*?)`, got `(.*?)`|.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_TYPE_NAMES = {"int": "integer", "str": "string", "float": "number"}


class Located(NamedTuple):
    """A record and the line, from 1, that it begins on."""

    record: Record
    line: int


class Decoded(NamedTuple):
    """What a file holds. Errors and warnings are texts of the form ORIGIN:LINE: field: what."""

    records: tuple[Located, ...]
    errors: tuple[RecordError, ...]
    warnings: tuple[str, ...]


class Value(Protocol):
    """One document or list entry, of JSON or YAML."""

    @property
    def line(self) -> int:
        """Line that it begins on, from 1."""
        ...

    def typed(self, decoder: msgspec.json.Decoder[Any], wire: type[Any]) -> Any:
        """Decode into a wire struct. Errors: msgspec.ValidationError."""
        ...

    def plain(self) -> Any:
        """Return plain Python values. Errors: ValueError, RecursionError."""
        ...

    def repeated(self) -> Path | None:
        """Return the first key that its mapping holds twice, if the reading let that pass."""
        ...

    def line_of(self, path: Path) -> int:
        """Return the line of a field, or of the nearest thing around it that exists."""
        ...

    def items(self) -> "Iterator[Value]":
        """Yield the entries of `items`. Errors: msgspec.ValidationError."""
        ...


class _Header(msgspec.Struct, gc=False):
    """What says how to read the rest."""

    kind: Any = None
    apiVersion: Any = None  # noqa: N815 - the wire's name; a rename would cost nothing but says less


_HEADER = msgspec.json.Decoder(_Header)


def read(data: bytes, origin: str, *, strict: bool = False) -> Decoded:
    """Return every record of a JSON or YAML text; `origin` names it in errors, as in a file's path.

    JSON is what begins with { or [; all else is YAML. Several documents, lists of kind List and of kind PodList and
    the like are read through. Trailing commas in JSON are accepted with a warning. Of equal keys in a JSON object the
    last counts, as in Kubernetes; `strict` refuses them, for what people write by hand, and takes twice the time.
    """
    found = _Findings(origin, strict)
    try:
        _read(data.removeprefix(_BOM), found)
    except TextError as error:
        text = f"{origin}:{error.line}: column {error.column}: {error.what}"
        return Decoded((), (RecordError(text),), ())
    return Decoded(tuple(found.records), tuple(found.errors), tuple(found.warnings))


class _Findings:
    """What a read collects."""

    __slots__ = ("errors", "origin", "records", "strict", "warnings")

    def __init__(self, origin: str, strict: bool) -> None:
        self.origin = origin
        self.strict = strict
        self.records: list[Located] = []
        self.errors: list[RecordError] = []
        self.warnings: list[str] = []

    def error(self, line: int, what: str, path: Path = ()) -> None:
        where = f"{path_text(path)}: " if path else ""
        self.errors.append(RecordError(f"{self.origin}:{line}: {where}{what}"))

    def warning(self, line: int, what: str) -> None:
        self.warnings.append(f"{self.origin}:{line}: {what}")


def _read(data: bytes, found: _Findings) -> None:
    text = None if data.isascii() else _text(data)
    start = json_text.skip_blank(data)
    if data[start : start + 1] in (b"{", b"["):
        _read_json(data, start, found)
    else:
        from svcnet.codec import yaml_text  # noqa: PLC0415 - PyYAML takes 15 ms to import and JSON needs none of it

        for value in yaml_text.documents(data.decode() if text is None else text):
            _document(value, None, found)
    if not (found.records or found.errors or found.warnings):
        found.error(1, "no record, expected at least one")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line, column = json_text.position(data, error.start)
        what = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8, expected UTF-8 text"
        raise TextError(what, line, column) from None


def _read_json(data: bytes, start: int, found: _Findings) -> None:
    try:
        header = _HEADER.decode(data)
    except (msgspec.DecodeError, RecursionError):
        # Not one good object: look closer.
        values, commas = json_text.documents(data)
        for line in commas:
            found.warning(line, "trailing comma, which JSON forbids: accepted")
        for value in values:
            _document(value, None, found)
        return
    _document(JsonValue(data, 1), header, found) if not start else _document(
        JsonValue(data[start:], 1 + data.count(b"\n", 0, start)), header, found
    )


def _document(value: Value, header: _Header | None, found: _Findings) -> None:
    """Read a document: a record or a list of them."""
    try:
        header = header or value.typed(_HEADER, _Header)
        form = _form(header, None, None)
        if isinstance(form, Form):
            _record(value, form, found)
            return
        _list(value, header, form, found)
    except (FieldError, msgspec.DecodeError, RecursionError) as error:
        _refuse(value, error, found)


def _record(value: Value, form: Form, found: _Findings) -> None:
    record = form.build(value.typed(form.decoder, form.wire))
    if found.strict and (twice := value.repeated()) is not None:
        raise FieldError("the key stands there twice, expected once", *twice)
    if record.meta.annotations:
        _annotations(value, record.meta.annotations, record.key.kind, form.annotations, found)
    if isinstance(record, ReplicationController) and record.template_annotations:
        _annotations(value, record.template_annotations, "Pod", form.template_annotations, found)
    found.records.append(Located(record, value.line))


def _annotations(value: Value, annotations: Pairs, kind: str, path: Path, found: _Findings) -> None:
    """Report odd `svcnet.dev/…` annotations. Errors: FieldError."""
    for finding in findings(annotations, kind, path):
        if isinstance(finding, FieldError):
            raise finding
        found.warning(value.line_of(path), f"{path_text(path)}: {finding}")


def _list(value: Value, header: _Header, kind: str, found: _Findings) -> None:
    empty = True
    for item in value.items():
        empty = False
        try:
            form = _item_form(item.typed(_HEADER, _Header), header.apiVersion, kind)
            _record(item, form, found)
        except (FieldError, msgspec.DecodeError, RecursionError) as error:
            _refuse(item, error, found)
    if empty:
        found.warning(value.line, "items: an empty list")


def _form(header: _Header, list_version: Any, list_kind: str | None) -> Form | str:
    """Return how to read a value, or the kind that a list of it holds ("" when each entry says).

    Entries of a PodList and the like may leave kind and apiVersion out, as Kubernetes' own answers do.
    """
    kind, version = header.kind, header.apiVersion
    if list_kind:
        kind, version = kind or list_kind, version or list_version
    for name, field in (("kind", kind), ("apiVersion", version)):
        if not isinstance(field, str):
            raise FieldError(f"got {show(field)}, expected string" if field is not None else _needed(name), name)
    if (form := FORMS.get(version, {}).get(kind)) is not None:
        return form
    if version not in FORMS:
        raise FieldError(f"got {quote(version)}, expected {' or '.join(FORMS)}", "apiVersion")
    if (inner := list_item(version, kind)) is not None:
        return inner
    raise FieldError(f"unknown kind {quote(kind)} of {version}, expected {_kinds(version, kind)}", "kind")


def _item_form(header: _Header, list_version: Any, list_kind: str) -> Form:
    form = _form(header, list_version, list_kind)
    if not isinstance(form, Form):
        raise FieldError("a list inside a list, expected a record", "kind")
    return form


def _needed(name: str) -> str:
    return "missing, expected " + (" or ".join(FORMS) if name == "apiVersion" else "a kind, as in Service")


def _kinds(version: str, kind: str) -> str:
    """Return what may stand there: the right apiVersion of a known kind, else the kinds of this apiVersion."""
    for other, forms in FORMS.items():
        if kind in forms:
            return f"apiVersion {other} for it"
    return " or ".join([*FORMS[version], "List"])


def _refuse(value: Value, error: Exception, found: _Findings) -> None:
    if isinstance(error, RecursionError):
        error = FieldError("nested too deep for a record")
    if not isinstance(error, FieldError):
        error = _explain(value, str(error))
    found.error(value.line_of(error.path), error.what, error.path)


def _explain(value: Value, text: str) -> FieldError:
    """Turn msgspec's "Expected `int | null`, got `str` - at `$.port`" into the error that names the value seen."""
    match = _COMPLAINT.fullmatch(text)
    assert match is not None
    complaint, expected, got, where = match.groups()
    path, seen = _walk(value, where or "")
    if expected is None:
        return FieldError(complaint[:1].lower() + complaint[1:], *path)
    names = [_TYPE_NAMES.get(name, name) for name in expected.split(" | ") if name != "null"]
    shown = _TYPE_NAMES.get(got, got) if seen is msgspec.UNSET else show(seen)
    return FieldError(f"got {shown}, expected {' or '.join(names)}", *path)


def _walk(value: Value, where: str) -> tuple[list[str | int], Any]:
    """Follow msgspec's path; return it in pieces with the value there (UNSET where the text can't be followed)."""
    path: list[str | int] = []
    try:
        seen = value.plain()
        for step in _STEP.finditer(where):
            key = step[1] or (int(step[2]) if step[2] else _odd_key(seen))
            seen = seen[key]
            path.append(key)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        # A key that stands there twice: msgspec looked at the first, a plain reading keeps the last.
        return path, msgspec.UNSET
    return path, seen


def _odd_key(mapping: dict[str, Any]) -> str:
    """Return the key that msgspec hides behind [...]: all such maps hold strings."""
    return next(key for key, value in mapping.items() if not isinstance(value, str | None))
