"""Change some records of a file that holds several, and leave the rest of it as its author wrote it.

Owns: the edit of JSON and YAML texts. Must not know: the disk. YAML documents that do not change keep every character,
comments included; entries of a list keep all their fields, also those that svcnet doesn't know. What can't be edited so
(or would read otherwise afterwards) is refused.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from svcnet.codec.reader import Decoded, read
from svcnet.codec.writer import to_json, to_v1, to_yaml
from svcnet.model.errors import ConflictError
from svcnet.model.meta import Key
from svcnet.model.record import Record

Edits = Mapping[Key, Record | None]
"""What a key becomes; None deletes it."""

_SEPARATOR = re.compile(r"^(?=---(?:\s|$))", re.MULTILINE)
_NOTHING = re.compile(r"\A(?:\s*(?:#.*|---\s*))*\Z")


def rewrite(data: bytes, origin: str, edits: Edits) -> bytes | None:
    """Return the text with the edits made, None when no record is left. ConflictError names the file."""
    before = read(data, origin)
    if before.errors:
        raise ConflictError(f"{origin} holds other records and has errors: mend it first ({before.errors[0]})")
    keys = [located.record.key for located in before.records]
    wanted = _records(before) or {}
    for key, record in edits.items():
        if record is not None:
            wanted[key] = record
        else:
            wanted.pop(key, None)
    if not wanted:
        return None
    is_json = data.lstrip()[:1] in (b"{", b"[")
    if len(keys) == 1 and len(wanted) == 1 and keys[0] in wanted:
        record = wanted[keys[0]]
        return to_json(record) if is_json else to_yaml(record).encode()
    after = _json(data, keys, edits) if is_json else _yaml(data.decode(), origin, edits)
    if after is None or _records(read(after, origin)) != wanted:
        raise ConflictError(f"{origin} holds other records too and can't be rewritten without harm: edit it by hand")
    return after


def _records(decoded: Decoded) -> dict[Key, Record] | None:
    """Return the records that count: of the same one twice, the first. None when there are errors."""
    return None if decoded.errors else {located.record.key: located.record for located in reversed(decoded.records)}


def _json(data: bytes, keys: list[Key], edits: Edits) -> bytes | None:
    """Edit the entries of one list; None when the text is of another shape."""
    try:
        value = json.loads(data)
    except ValueError:
        return None  # svcnet's reader forgives more than JSON allows, but can't give it back
    if not isinstance(value, dict) or not _items(value, keys, edits):
        return None
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"


def _yaml(text: str, origin: str, edits: Edits) -> bytes | None:
    """Edit documents one by one; None when one of them is of another shape."""
    import yaml  # noqa: PLC0415 - 15 ms, and most directories hold JSON alone

    parts = []
    for part in _SEPARATOR.split(text):
        if _NOTHING.match(part):
            parts.append(part)
            continue
        decoded = read(part.encode(), origin)
        keys = [located.record.key for located in decoded.records]
        if decoded.errors or not edits.keys() & set(keys):
            parts.append(part)
            continue
        value = yaml.safe_load(part)
        if not isinstance(value, dict):
            return None
        if "items" in value:
            if not _items(value, keys, edits):
                return None
            parts.append("---\n" + yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
        elif (record := edits[keys[0]]) is not None:
            parts.append("---\n" + to_yaml(record).removeprefix("---\n"))
    return "".join(parts).encode()


def _items(value: dict[str, Any], keys: list[Key], edits: Edits) -> bool:
    """Edit value["items"] in place; the entries are in the order of `keys`. False when they are not."""
    items = value.get("items")
    if not isinstance(items, list) or len(items) != len(keys):
        return False
    kept = []
    for key, item in zip(keys, items, strict=True):
        if key not in edits:
            kept.append(item)
        elif (record := edits[key]) is not None:
            kept.append(to_v1(record))
    value["items"] = kept
    return True
