"""`kshot bench`: each benchmark is imported only when it runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import click

# Benchmark: the module with its click object `command`, and its line of help.
_BENCHMARKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "adapt": ("speed.adapt", "Time one adaptation, beside a plain PyTorch loop and JAX."),
        "predict": ("speed.predict", "Time answers of an adapted model, beside PyTorch."),
        "serve": ("serve.serve", "Load a real server: latency over concurrency."),
        "train": ("speed.train", "Count meta-iterations, beside a plain PyTorch loop and JAX."),
    }
)


class _Benchmarks(click.Group):
    """A group whose commands are the modules of this package that the table names."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(_BENCHMARKS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- click's signature
        if cmd_name not in _BENCHMARKS:
            return None
        module = f"kshot.bench.{_BENCHMARKS[cmd_name][0]}"
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and args[0] not in _BENCHMARKS:
            known = ", ".join(_BENCHMARKS)
            raise click.UsageError(f"benchmark: expected one of {known}, got {args[0]!r}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _BENCHMARKS.items()])


@click.group("bench", cls=_Benchmarks)
def command() -> None:
    """Measure kshot beside its alternatives, interleaved in one run.

    The speed of a machine drifts: compare only the ratios of one run.
    """
