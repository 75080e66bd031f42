"""The options of the daemon of this machine, for commands that look at what it does.

Owns: which value counts: what this command was given, then what the daemon runs with, then files and defaults. Without
that, `svcnet plan` would plan for another --cluster-cidr than the daemon that was started with one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from svcnet.cli.control import ask
from svcnet.config import BY_NAME, OPTIONS, Config, Loaded, show
from svcnet.model.errors import SvcnetError

_STORE = tuple(o.name for o in OPTIONS if o.name == "records" or o.name.startswith("etcd_"))
"""They belong together: another store's certificates are of no use."""


class InForce(NamedTuple):
    """`report` is the daemon's /status; None where none answers, `silence` says why."""

    config: Config
    report: Mapping[str, Any] | None
    silence: str = ""


def in_force(loaded: Loaded, names: Iterable[str]) -> InForce:
    """Ask the daemon of `--state-dir`; take over those of `names` that this command was not given."""
    config = loaded.config
    try:
        report = ask(config.state_dir, "status")["status"]
        told = ask(config.state_dir, "options").get("options", {})
    except SvcnetError as error:
        return InForce(config, None, str(error))
    given = {name for name in BY_NAME if _is_given(loaded.sources[name], name)}
    if given & set(_STORE):
        given |= set(_STORE)
    values: dict[str, Any] = {}
    for name in set(names) - given:
        text = told.get(name)
        if isinstance(text, str) and text:
            values[name] = BY_NAME[name].kind.parse(text)
    return InForce(replace(config, **values), report)


def told(config: Config, mode: str) -> dict[str, str]:
    """The options of a daemon as it tells them: `mode` is the one that it chose."""
    return {o.name: show(o, config) for o in OPTIONS if o.in_file} | {"mode": mode}


def _is_given(source: str, name: str) -> bool:
    return source in {BY_NAME[name].flag, BY_NAME[name].variable}
