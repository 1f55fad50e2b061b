"""`kshot bench`: each benchmark is imported only when it runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import click

__all__ = ["command"]

_BENCHMARKS: Mapping[str, str] = MappingProxyType(
    {
        "adapt": "One adaptation, beside a plain PyTorch loop, JAX and the machine's floor.",
        "predict": "Answers of an adapted model, beside PyTorch.",
        "serve": "A real server under load: latency over concurrency.",
        "train": "Meta-iterations per second, beside a plain PyTorch loop and JAX.",
    }
)


class _Benchmarks(click.Group):
    """A group whose commands are the modules of this package that the table names."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(_BENCHMARKS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- click's signature
        if cmd_name not in _BENCHMARKS:
            return None
        found = importlib.import_module(f"kshot.bench.{cmd_name}").command
        if not isinstance(found, click.Command):
            raise TypeError(f"kshot.bench.{cmd_name}.command is {found!r}, not a click command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and args[0] not in _BENCHMARKS:
            known = ", ".join(_BENCHMARKS)
            raise click.UsageError(f"benchmark is {args[0]!r}, wanted one of: {known}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_BENCHMARKS.items()))


@click.group("bench", cls=_Benchmarks)
def command() -> None:
    """Measure kshot beside what else one would run, interleaved in one run.

    Speeds of a machine drift: only the ratios of one run count.
    """
