"""`svcnet`: the table of commands, and how every failure becomes one style of message and an exit code.

Owns: what is loaded when (a command's module is imported when it runs, and not for `--help`), exit codes, messages.
Exit: 0 done, 1 failed or not found, 2 usage or bad input, 3 store unreachable, 4 not converged in time,
5 not permitted.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

from svcnet.model.errors import RecordError, SvcnetError

COMMANDS: dict[str, tuple[str, str]] = {
    "create": ("svcnet.cli.write:create", "Write new records; those that exist are refused."),
    "apply": ("svcnet.cli.write:apply", "Write records, new or changed."),
    "delete": ("svcnet.cli.write:delete", "Delete records."),
    "get": ("svcnet.cli.get:get", "List records."),
    "describe": ("svcnet.cli.describe:describe", "Show one record and all that hangs on it."),
    "env": ("svcnet.cli.env:env", "Print the environment variables that lead to services."),
    "exec": ("svcnet.cli.exec:exec_", "Run a program with those variables, and follow their changes."),
    "resolve": ("svcnet.cli.resolve:resolve", "Look a name up, in the records or at a server."),
    "dns-config": ("svcnet.cli.dns_config:dns_config", "Print or write the resolv.conf that leads here."),
    "plan": ("svcnet.cli.plan:plan", "Print what would change in the kernel."),
    "trace": ("svcnet.cli.trace:trace", "Say what becomes of a packet, by the records and by the kernel."),
    "status": ("svcnet.cli.status:status", "Show what svcnet-proxy does, or wait for it."),
    "release": ("svcnet.cli.status:release", "Let a held mass deletion through."),
    "doctor": ("svcnet.cli.doctor:doctor", "Say what of this machine makes services hang, and what mends it."),
    "check-config": ("svcnet.cli.check_config:check_config", "Print the options in force and where they come from."),
    "lab": ("svcnet.cli.lab:lab", "Minions and pods as network namespaces on this machine."),
    "completion": ("svcnet.cli.completion:completion", "Print the completion script of a shell."),
}
"""Command → (where it is, what the list of commands says)."""

BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended, as other tools do in `svcnet get pods | head -1`."""
INTERRUPTED = 130


class Commands(click.Group):
    """The commands of COMMANDS, imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return them in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest command when there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, 1)
            hint = f", did you mean {near[0]}?" if near else f", expected one of {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of its output that went away ends it quietly (click would say 1)."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered must not fail a second time when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        return code

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List the table's texts: the modules stay unread."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="svcnet", prog_name="svcnet", message="%(prog)s %(version)s")
def svcnet() -> None:
    """Kubernetes-style services for any Linux machine: records in, virtual IPs, names and variables out."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(svcnet, arguments))


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; whatever it raises has been told on stderr."""
    program = command.name or "svcnet"
    try:
        code = command.main(args=arguments, prog_name=program, standalone_mode=False)
    except (click.ClickException, SvcnetError, OSError) as error:
        return _told(error, program)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _told(error: click.ClickException | SvcnetError | OSError, program: str) -> int:
    """Print a failure; return its exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return 2
    if isinstance(error, click.UsageError):
        message = error.format_message()
        name = error.ctx.command_path if error.ctx else program
        _say(f"{name}: {message[:1].lower()}{message[1:].removesuffix('.')}\nTry: {name} --help")
        return 2
    if isinstance(error, click.ClickException):
        _say(f"{program}: {error.format_message()}")
        return error.exit_code
    if isinstance(error, SvcnetError):
        # A record's error begins with FILE:LINE, which editors and terminals follow: nothing goes before it.
        prefix = "" if isinstance(error, RecordError) else f"{program}: "
        _say("\n".join(prefix + line for line in str(error).split("\n")))
        return error.exit_code
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, PermissionError):
        _say(f"{program}: not permitted: {what}, expected root or a user with access to it")
        return 5
    _say(f"{program}: {what}")
    return 1


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
