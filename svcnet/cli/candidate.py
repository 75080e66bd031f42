"""What a shell offers for a word that is being typed (`svcnet completion`): kinds, namespaces, names that exist.

Owns: the candidates. A store that can't be read offers none, in silence: the line belongs to its user.
"""

import click

from svcnet.cli.kind import KINDS, kind_named
from svcnet.cli.option import STORE, load_here
from svcnet.config import BY_NAME
from svcnet.model.errors import SvcnetError
from svcnet.model.meta import Key


def kinds(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """Kinds by their long and by their short names: those that begin as typed."""
    found = [kind.plural for kind in KINDS]
    if typed and not any(plural.startswith(typed) for plural in found):
        found = [name for kind in KINDS for name in kind.names]
    return [name for name in found if name.startswith(typed)]


def names(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Records of the KIND on the line that are not on it already."""
    try:
        wanted = kind_named(ctx.params.get("kind") or "")
    except click.UsageError:
        return []
    return _named(ctx, parameter, wanted.kind, typed)


def services(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Services that are not on the line already."""
    return _named(ctx, parameter, "Service", typed)


def clients(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Pods of the namespace, and this machine itself."""
    return [name for name in ("minion",) if name.startswith(typed)] + _named(ctx, parameter, "Pod", typed)


def destinations(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Services of the namespace; the port is for the user to type."""
    return [f"{name}:" for name in _named(ctx, parameter, "Service", typed)]


def namespaces(ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """Namespaces that have a record, or are one."""
    keys = _keys(ctx)
    found = {key.namespace for key in keys if key.namespace} | {key.name for key in keys if key.kind == "Namespace"}
    return sorted(name for name in found if name.startswith(typed))


def modes(_ctx: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """Values of --mode."""
    return [mode for mode in BY_NAME["mode"].kind.metavar.split("|") if mode.startswith(typed)]


def _named(ctx: click.Context, parameter: click.Parameter, kind: str, typed: str) -> list[str]:
    given = ctx.params.get(parameter.name or "") or ()
    everywhere, namespace = ctx.params.get("everywhere"), ctx.params.get("namespace")
    return sorted(
        {
            key.name
            for key in _keys(ctx)
            if key.kind == kind and key.name.startswith(typed) and key.name not in given
            if everywhere or key.namespace in {"", namespace}
        }
    )


def _keys(ctx: click.Context) -> list[Key]:
    from svcnet.cli.context import open_store  # noqa: PLC0415 - only a TAB needs it here

    try:
        loaded = load_here({name: ctx.params.get(name) for name in ("config", *STORE)})
        return [record.key for record in open_store(loaded.config, remember=False).list().records]
    except SvcnetError:
        return []
