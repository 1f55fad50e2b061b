"""`kshot completion`: the script with which a shell completes commands, options and names."""

from __future__ import annotations

import json

import click
from click.shell_completion import get_completion_class

from kshot.command.table import COMMANDS, ProgramGroup

_VARIABLE = "_KSHOT_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(shell: str, as_json: bool) -> None:
    """Print a script for SHELL, which completes what kshot takes; load it at the shell's start."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"{shell}: this version of click has no completion for it")
    script = kind(ProgramGroup(entries=COMMANDS), {}, "kshot", _VARIABLE).source()
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)
