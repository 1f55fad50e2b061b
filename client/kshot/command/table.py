"""The table of `kshot`'s commands, and groups that import a command only when it runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any

import click

from kshot.command.examples import with_examples
from kshot.local import pip_install

ENTRY_POINT_GROUP = "kshot.commands"


@dataclass(frozen=True)
class Entry:
    """A command: its module, which has a click object `command`, its help, and pip's extras."""

    module: str
    help: str
    extras: str = ""


COMMANDS: Mapping[str, Entry] = MappingProxyType(
    {
        "serve": Entry(
            "kshot.server.command",
            "Serve bundles over gRPC: adapt and predict.",
            "server,engine,cpu",
        ),
        "store": Entry(
            "kshot.server.upkeep.command",
            "Check or repair the folder of adapted models of a server.",
            "server",
        ),
        "keys": Entry(
            "kshot.server.access.command",
            "Create, list, revoke or rotate the keys of a server.",
            "server",
        ),
        "tenant": Entry(
            "kshot.command.tenant",
            "List tenants, set their limits, or erase what a server keeps of one.",
            "server",
        ),
        "adapt": Entry(
            "kshot.client.commands.adapt",
            "Adapt a model to a folder with one subfolder of images per class.",
        ),
        "revise": Entry(
            "kshot.client.commands.revise",
            "Adapt anew with examples more, fewer or of another class.",
        ),
        "predict": Entry("kshot.client.commands.predict", "Classify images with an adapted model."),
        "models": Entry(
            "kshot.client.commands.models",
            "List, show, renew, delete, export or import adapted models.",
        ),
        "watch": Entry(
            "kshot.client.commands.watch", "Classify the files of a folder as they come."
        ),
        "try": Entry(
            "kshot.bench.trial.command",
            "Compare bundles with trivial classifiers on your own folder of images.",
            "server,engine,cpu,bench,try",
        ),
        "train": Entry(
            "kshot.trainer.commands.train",
            "Meta-train an initialization by a recipe and write its bundle.",
            "train",
        ),
        "evaluate": Entry(
            "kshot.trainer.commands.evaluate",
            "Measure a bundle's accuracy over many tasks.",
            "train",
        ),
        "calibrate": Entry(
            "kshot.trainer.commands.calibrate",
            "Write a bundle's copy with calibrated probabilities.",
            "train",
        ),
        "bundle": Entry(
            "kshot.command.bundle",
            "Build, inspect or verify a bundle, or push it to a server's repository.",
        ),
        "recipes": Entry("kshot.trainer.commands.recipes", "List the recipes of `train`.", "train"),
        "download": Entry(
            "kshot.trainer.commands.download", "Download a data set and check it.", "train"
        ),
        "bench": Entry(
            "kshot.bench.command",
            "Measure speed beside a plain PyTorch loop, or a server under load.",
            "bench,server,cpu",
        ),
        "statistics": Entry(
            "kshot.client.commands.statistics",
            "Show what a server has done since it started, and what it holds.",
        ),
        "reload": Entry("kshot.client.commands.reload", "Let a server read its bundles again."),
        "doctor": Entry(
            "kshot.operate.doctor", "Check this installation and a server, and say how to mend it."
        ),
        "completion": Entry(
            "kshot.command.completion", "Print what completes commands in bash, zsh or fish."
        ),
    }
)


class LazyGroup(click.Group):
    """A group that imports a command of its table only when the command runs."""

    def __init__(self, *arguments: Any, entries: Mapping[str, Entry], **settings: Any) -> None:  # noqa: ANN401 -- click's own arguments
        super().__init__(*arguments, **settings)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the commands' names in the table's order."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; raise `click.ClickException` when a library is not installed."""
        if entry := self.entries.get(cmd_name):
            path = f"{ctx.command_path} {cmd_name}".removeprefix("kshot ")
            return with_examples(_load(path, entry), path)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; the error suggests a similar name."""
        name = args[0]
        if not name.startswith("-") and name not in (known := self.list_commands(ctx)):
            close = difflib.get_close_matches(name, known, n=1)
            help_hint = f"`{ctx.command_path} --help` lists the commands"
            hint = f"did you mean `{close[0]}`?" if close else help_hint
            raise click.UsageError(f"unknown command {name!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- click's signature
        """Write the commands' help from the table, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(self.help_lines())

    def help_lines(self) -> list[tuple[str, str]]:
        """Return each command's name and line of help."""
        return [(name, entry.help) for name, entry in self.entries.items()]


class ProgramGroup(LazyGroup):
    """The table's commands and those of third parties, which their entry points name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the table's commands in its order, then the third parties' by name."""
        return [*super().list_commands(ctx), *sorted(_third_party())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command of the table or of a third party."""
        if point := _third_party().get(cmd_name):
            return _load_third_party(point)
        return super().get_command(ctx, cmd_name)

    def help_lines(self) -> list[tuple[str, str]]:
        """Return each command's name and line of help; third parties' name their distribution."""
        points = _third_party()
        lines = [(name, f"From {_distribution(points[name])}.") for name in sorted(points)]
        return super().help_lines() + lines


def missing_extras(name: str, missing: str, entry: Entry | None = None) -> str:
    """Return the error for a module that command `name` cannot import, with the pip command."""
    if entry is None or not entry.extras:
        entry = COMMANDS.get(name.split()[0] if name else "")
    if entry is None or not entry.extras or missing.split(".")[0] == "kshot":
        return f"`kshot {name}` needs the module {missing!r}, which is not on the Python path"
    return f"`kshot {name}` needs {missing!r}, which is not installed: {pip_install(entry.extras)}"


def _load(name: str, entry: Entry) -> click.Command:
    try:
        command = importlib.import_module(entry.module).command
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        raise click.ClickException(missing_extras(name, missing, entry)) from error
    if not isinstance(command, click.Command):
        raise TypeError(f"{entry.module}.command is {command!r}, not a click command")
    return command


def _third_party() -> dict[str, metadata.EntryPoint]:
    """Return the entry points by name; a built-in command cannot be replaced by one."""
    points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: point for point in points if point.name not in COMMANDS}


def _load_third_party(point: metadata.EntryPoint) -> click.Command:
    origin = f"`kshot {point.name}` from {_distribution(point)}"
    try:
        command = point.load()
    except (ImportError, AttributeError) as error:
        raise click.ClickException(f"{origin} cannot be loaded: {error}") from error
    if not isinstance(command, click.Command):
        raise click.ClickException(f"{origin} is not a click command: {point.value}")
    return command


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
