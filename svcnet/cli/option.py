"""The options of svcnet.config.OPTIONS as click options.

Owns: the translation alone. Values stay text here; svcnet.config parses them, so that a flag, a variable and a line
of the file are refused in the same words.
"""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

from svcnet import option_kind
from svcnet.config import BY_NAME, Loaded, Option, load_with_sources

STORE = (
    "records",
    "etcd_cacert",
    "etcd_cert",
    "etcd_key",
    "etcd_user",
    "etcd_password_file",
    "service_cidr",
)
"""What it takes to open a store."""

Command = Callable[..., Any]


def config_options(*names: str) -> Callable[[Command], Command]:
    """Add `--config` and the named options to a command, which gets each as text (flags: bool), None when absent."""

    def decorate(function: Command) -> Command:
        for name in reversed(names):
            function = _click_option(BY_NAME[name])(function)
        return click.option(
            "--config", metavar="FILE", help="TOML file with options. [/etc/svcnet/svcnet.toml if it exists]"
        )(function)

    return decorate


def with_config(*names: str) -> Callable[[Command], Command]:
    """Add options as `config_options` does; the command gets them parsed, as `loaded: Loaded`. ConfigError."""

    def decorate(function: Command) -> Command:
        @wraps(function)
        def run(**given: Any) -> Any:
            flags = {name: given.pop(name) for name in ("config", *names)}
            return function(loaded=load_here(flags), **given)

        return config_options(*names)(run)

    return decorate


def load_here(flags: Mapping[str, str | bool | None]) -> Loaded:
    """Return the options in force for this process: its environment, this machine's name."""
    return load_with_sources(flags, os.environ, os.uname().nodename)


def _click_option(option: Option) -> Callable[[Command], Command]:
    shown = f" [{option.default}]" if option.default else ""
    text = option.help[:1].upper() + option.help[1:] + "."
    if option.kind is not option_kind.FLAG:
        return click.option(option.flag, option.name, metavar=option.kind.metavar, help=text + shown)
    if not option.in_file:
        return click.option(option.flag, option.name, is_flag=True, default=None, help=text)
    return click.option(f"{option.flag}/--no-{option.key}", option.name, default=None, help=text)
