"""Which command stands in for an image. Pure.

Owns: the table. A pod of the lab is a network namespace and no container: an image is not run, something on this
machine stands in for it.
"""

import shlex
import sys

from svcnet.model.errors import ConfigError
from svcnet.model.meta import Pairs

STAND_IN = "stand-in"
"""First word of a command that means svcnet.lab.stand_in; the port on which it answers follows."""

IMAGES: Pairs = (("tutum/tomcat", f"{STAND_IN} 8080"),)
"""Image → command, before what the user adds."""


def checked(image: str, command: str) -> tuple[str, str]:
    """Return an entry of the table, or raise ConfigError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--image {image}={command}: {error}") from error
    if not image or not words:
        raise ConfigError(f"--image {image}={command}: expected NAME=COMMAND")
    return image, command


def command_of(image: str, added: Pairs) -> tuple[str, ...] | None:
    """Return what runs for an image, None for one that the table doesn't have.

    An entry with the tag (`tomcat:8`) comes before one without, which is for all tags; the user's before ours.
    """
    table = dict(IMAGES) | dict(added)
    last = image.rpartition("/")[2]
    bare = image.partition("@")[0] if "@" in last else image.rpartition(":")[0] if ":" in last else image
    command = table.get(image, table.get(bare))
    if command is None:
        return None
    first, *rest = shlex.split(command)
    return (sys.executable, "-m", "svcnet.lab.stand_in", *rest) if first == STAND_IN else (first, *rest)
