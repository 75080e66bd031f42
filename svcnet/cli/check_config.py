"""`svcnet check-config`: the options in force, as a TOML file that says where each value comes from.

Owns: the command. What it prints on standard output reads back, as a file, to the same values.
"""

from typing import Any

import click

from svcnet.cli.option import config_options, load_here
from svcnet.cli.vet import vet_options
from svcnet.config import OPTIONS, Option, show


@click.command(name="check-config")
@config_options(*(option.name for option in OPTIONS))
def check_config(**flags: Any) -> None:
    """Print every option with its value and its source; exit 2 when one of them is wrong.

    Takes all options of svcnet-proxy.
    """
    loaded = load_here(flags)
    vet_options(loaded.config)
    rows = [(_toml(option, show(option, loaded.config)), loaded.sources[option.name]) for option in OPTIONS]
    width = max(len(text) for text, _ in rows)
    click.echo("\n".join(f"{text:<{width}}  # {source}" for text, source in rows))


def _toml(option: Option, text: str) -> str:
    if not text and option.default is None:
        return f"# {option.key} is not set"
    value = text if bool in option.kind.toml or int in option.kind.toml else _quoted(text)
    line = f"{option.key} = {value}"
    # A line that the file may not hold is a comment in it.
    return line if option.in_file else f"# {line}"


def _quoted(text: str) -> str:
    """Return a TOML basic string (https://toml.io/en/v1.0.0#string)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
