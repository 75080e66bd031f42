"""`svcnet exec`: a program with the variables of its services, kept up to date.

Owns: the command and its options. What to do when is svcnet.run's, the loop svcnet.cli.supervise's.
"""

import click
from click.shell_completion import CompletionItem

from svcnet.cli import candidate
from svcnet.cli.option import STORE, with_config
from svcnet.config import Loaded
from svcnet.run import ON_CHANGE, OnChange

COMMAND = "svcnet.exec.command"
"""Where the context keeps what stands behind `--`."""
SEPARATED = "svcnet.exec.separated"
"""Whether there was one."""


class _WithCommand(click.Command):
    """Everything after `--` is a command of its own: click alone would take it for more services."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the command apart."""
        own, command = args, list[str]()
        if "--" in args:
            cut = args.index("--")
            own, command = args[:cut], args[cut + 1 :]
            ctx.meta[SEPARATED] = True
        ctx.meta[COMMAND] = tuple(command)
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show the command too."""
        return [*super().collect_usage_pieces(ctx), "-- COMMAND…"]


def _candidates(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[str] | list[CompletionItem]:
    if ctx.meta.get(SEPARATED):
        return [CompletionItem(typed, type="file")]
    return candidate.services(ctx, parameter, typed)


@click.command(name="exec", cls=_WithCommand)
@click.argument("names", nargs=-1, metavar="[SERVICE]…", shell_complete=_candidates)
@click.option(
    "-n", "--namespace", default="default", show_default=True, metavar="NS", shell_complete=candidate.namespaces
)
@click.option(
    "--on-change",
    type=click.Choice(ON_CHANGE),
    default="restart",
    show_default=True,
    help="When a variable changes: end it (TERM, after 10 s KILL) and start it again; send SIGHUP; or nothing.",
)
@click.option("--docker-links", is_flag=True, help="Also the variables of docker --link: TOMCAT_PORT=tcp://….")
@with_config(*STORE)
@click.pass_context
def exec_(
    ctx: click.Context, loaded: Loaded, names: tuple[str, ...], namespace: str, on_change: OnChange, docker_links: bool
) -> int:
    """Run COMMAND with the variables of a namespace's services, or of those named, and follow their changes.

    COMMAND starts when all records have been read, and not at all (exit 1) when a service that is named, or the
    namespace, is not among them. Pods come and go without a variable changing. While the store is
    away it runs on. Signals TERM, INT, HUP, USR1, USR2, WINCH and QUIT are passed on. Exit: COMMAND's code, 128+n
    when signal n ended it, 127 not found, 126 not executable.
    """
    command: tuple[str, ...] = ctx.meta[COMMAND]
    if not command:
        raise click.UsageError("no command, expected -- COMMAND… after services and options")
    from svcnet.cli.child import block_passed_on  # noqa: PLC0415 - `--help` needs neither these nor asyncio
    from svcnet.cli.context import open_store  # noqa: PLC0415
    from svcnet.cli.supervise import Supervisor, Wanted  # noqa: PLC0415

    signals = block_passed_on()  # before a store may start threads
    store = open_store(loaded.config, remember=False)
    return Supervisor(command, on_change, Wanted(namespace, names, docker_links)).run(store, signals)
