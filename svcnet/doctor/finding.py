"""What doctor says about one thing: what is so, why it matters, the commands that mend it."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How much it matters."""

    FINDING = "finding"
    """Services hang or fail by it: exit 1."""
    NOTE = "note"
    """Worth knowing; nothing is broken by it today."""


class Finding(NamedTuple):
    """One thing that is not as services need it."""

    what: str
    """The fact, in one line."""
    why: str
    """What hangs by it and how mending changes that, in two sentences."""
    mend: tuple[str, ...] = ()
    """Shell commands, to be run in this order by root; none where a person has to decide."""
    level: Level = Level.FINDING


def sysctl(name: str, value: str) -> str:
    """The command that writes a setting, named by its path below /proc/sys. An interface's dots stay what they are."""
    spelled = name if "." in name else name.replace("/", ".")
    text = f"{spelled}={value}"
    return f"sysctl -w '{text}'" if set(text) & set(" \t") else f"sysctl -w {text}"
