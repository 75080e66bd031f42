"""`svcnet completion`: the script that makes a shell complete commands and options.

Owns: the command. The script is click's; it calls `svcnet` itself, so it never gets out of date.
"""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(svcnet completion bash)"."""
    from svcnet.cli.main import svcnet  # noqa: PLC0415 - main imports this module by name

    found = get_completion_class(shell)
    assert found is not None
    # source_vars alone: source() would start bash to look at its version.
    script = found(svcnet, {}, "svcnet", "_SVCNET_COMPLETE")
    click.echo(script.source_template % script.source_vars())
