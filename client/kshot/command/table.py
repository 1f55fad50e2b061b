"""The table of `kshot`'s commands: each is imported only when it runs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType

import click

ENTRY_POINT_GROUP = "kshot.commands"


@dataclass(frozen=True)
class Entry:
    """Where a command lives: a module with a click object `command`, and the extras it needs."""

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
        "adapt": Entry(
            "kshot.client.commands.adapt",
            "Adapt a model to a folder of class folders of images.",
        ),
        "predict": Entry(
            "kshot.client.commands.predict",
            "Classify images with an adapted model.",
        ),
        "models": Entry(
            "kshot.client.commands.models",
            "List, show, delete or export adapted models.",
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
        "recipes": Entry(
            "kshot.trainer.commands.recipes",
            "List the recipes that `train` knows.",
            "train",
        ),
        "download": Entry(
            "kshot.trainer.commands.download",
            "Download a data set and check that it is whole.",
            "train",
        ),
        "bench": Entry(
            "kshot.bench.command",
            "Measure speed side by side with a plain PyTorch loop.",
            "bench,server,cpu",
        ),
    }
)


class LazyGroup(click.Group):
    """A group whose commands come from `COMMANDS` and from the entry points of third parties."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Name the built-in commands in the table's order, then the third parties' by name."""
        return [*COMMANDS, *sorted(_third_party())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- click's signature
        """Import one command; raise `click.ClickException` when what it needs is not installed."""
        if entry := COMMANDS.get(cmd_name):
            return _load(cmd_name, entry)
        if point := _third_party().get(cmd_name):
            return _load_third_party(point)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, or say which names come close."""
        name = args[0]
        if not name.startswith("-") and name not in (known := self.list_commands(ctx)):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else "`kshot --help` lists the commands"
            raise click.UsageError(f"unknown command {name!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- click's signature
        """Write the commands' help from the table, without importing any of them."""
        points = _third_party()
        rows = [(name, entry.help) for name, entry in COMMANDS.items()]
        rows += [(name, f"From {_distribution(points[name])}.") for name in sorted(points)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def missing_extras(name: str, missing: str) -> str:
    """Say in one line which pip command brings what command `name` lacks: module `missing`."""
    entry = COMMANDS.get(name)
    if entry is None or not entry.extras or missing.split(".")[0] == "kshot":
        return f"`kshot {name}` needs the module {missing!r}, which is not on the Python path"
    return (
        f"`kshot {name}` needs {missing!r}, which is not installed: "
        f"pip install 'kshot[{entry.extras}]'"
    )


def _load(name: str, entry: Entry) -> click.Command:
    try:
        command = importlib.import_module(entry.module).command
    except ModuleNotFoundError as error:
        raise click.ClickException(missing_extras(name, error.name or str(error))) from error
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
