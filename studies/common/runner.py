"""The one runner: the shared options, what was measured before, and errors of one line."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from kshot.bundle import Bundle, BundleError
from kshot.trainer.commands.options import choose_device, data_option, device_option
from kshot.trainer.errors import TrainerError
from studies.common.results import (
    RESULTS,
    Result,
    Row,
    provenance,
    read_result,
    result_path,
    write_result,
)

# The seed of the tasks of every study.
SEED = 0
Subject = TypeVar("Subject")
# Rows, and what else is worth keeping.
Found = tuple[Sequence[Row], Mapping[str, Any]]
# Says on stderr what is being done.
say = functools.partial(click.echo, err=True)

TASKS_HELP = "Tasks of a trial, which needs its own --out.  [default: each result's own]"
COMPILE_HELP = "Compile the inner steps, as the server does.  [default: on a CPU]"
FOLDER = click.Path(path_type=Path)


@dataclass(frozen=True)
class Options:
    """What the command line asks for; None is a default."""

    only: str
    data_folder: Path | None
    task_count: int | None
    device: torch.device
    compiled: bool | None
    again: bool
    out: Path
    page: bool


@dataclass(frozen=True)
class Work:
    """One result to measure.

    `settings` is everything that decides the numbers: a kept result with equal settings is not
    measured again. `command` is as in `Provenance`.
    """

    name: str
    command: str
    settings: Mapping[str, Any]
    measure: Callable[[], Found]
    bundle: Bundle | None = None


def study_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options as its first argument, and errors of one line."""

    @click.option("--only", default="", help="Names, separated by commas.  [default: all]")
    @data_option
    @click.option("--tasks", "task_count", type=click.IntRange(min=1), help=TASKS_HELP)
    @device_option
    @click.option("--compile/--no-compile", "compiled", default=None, help=COMPILE_HELP)
    @click.option("--again", is_flag=True, help="Measure again what was measured before.")
    @click.option("--out", default=RESULTS, type=FOLDER, help="Folder of the results.")
    @click.option("--page", is_flag=True, help="Only write the page, from the kept results.")
    @functools.wraps(command)
    def run(device: str, **given: Any) -> None:  # noqa: ANN401 -- the options have their own types
        shared = {name: given.pop(name) for name in list(given) if name in Options.__annotations__}
        options = Options(device=choose_device(device), **shared)
        if options.task_count and options.out.resolve() == RESULTS.resolve():
            raise click.UsageError("--tasks: a trial must not replace the results; add --out DIR")
        try:
            command(options, **given)
        except (BundleError, TrainerError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error

    return run


def chosen(known: Mapping[str, Subject], options: Options, option: str = "--only") -> list[Subject]:
    """Return what `options.only` names, or all; raises `UsageError` about `option` for others."""
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise click.UsageError(f"{option}: expected some of {', '.join(known)}, got {name!r}")
    return [known[name] for name in names or known]


def run_work(study: str, work: Work, options: Options) -> Result:
    """Measure a result and write it, unless the kept one has the same settings.

    A bundle whose card or whose table changes keeps its numbers; the kept result then names the
    bundle as it is today.
    """
    path = result_path(study, work.name, options.out)
    settings = json.loads(json.dumps(work.settings))
    kept = read_result(path) if path.exists() and not options.again else None
    if kept is not None and kept.settings == settings:
        say(f"{work.name}: measured before; --again measures it again")
        digest = work.bundle.digest if work.bundle else None
        now = replace(kept.provenance, command=work.command, bundle_digest=digest)
        result = replace(kept, provenance=now)
    else:
        made_with = provenance(work.command, [SEED], options.device, work.bundle)
        path.parent.mkdir(parents=True, exist_ok=True)  # or fail before the work
        rows, more = work.measure()
        result = Result(study, work.name, made_with, settings, rows, more)
    write_result(path, result)
    return result
