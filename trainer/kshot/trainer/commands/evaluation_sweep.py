"""`kshot evaluate --sweep`: from lists on the command line to three files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from kshot.bundle import Manifest, replace_file
from kshot.trainer.commands.evaluation_request import EvaluateRequest
from kshot.trainer.commands.evaluation_session import Session
from kshot.trainer.commands.options import check_writable
from kshot.trainer.errors import writing
from kshot.trainer.evaluate.sweep import Axes, run_sweep
from kshot.trainer.output.plotting import check_matplotlib, figure_of, write_png
from kshot.trainer.output.progress import Progress
from kshot.trainer.output.sweep_plot import draw_sweep, figure_size
from kshot.trainer.output.sweep_report import SweepSubject, sweep_json, sweep_markdown

FILES = ("sweep.json", "sweep.md", "sweep.png")


def prepare_sweep(request: EvaluateRequest, manifest: Manifest, folder: Path) -> Axes:
    """Return what the sweep goes over, and make its folder, before anything is measured.

    Raises `UsageError` for a folder that cannot be written; `TrainingError` without matplotlib.
    """
    check_matplotlib()
    lists: dict[str, Any] = {
        "step_counts": request.step_counts,
        "preconditioners": request.preconditioners,
        "heads": request.heads,
        "scopes": request.scopes,
        "modes": request.batch_norm_modes,
    }
    given = {name: values for name, values in lists.items() if values is not None}
    check_writable("--sweep", folder)
    for path in (folder / name for name in FILES):
        if path.is_dir():
            raise click.UsageError(f"--sweep: {path} is a directory, expected a file or none")
    return replace(Axes.of(manifest), **given)


def sweep(session: Session, axes: Axes, folder: Path) -> tuple[str, str]:
    """Run a sweep, write its files to a folder, and return its JSON and its Markdown.

    Raises `TrainingError` when a file cannot be written.
    """
    device, settings = session.device, session.settings
    with Progress("sweeping", "tasks") as progress:
        rows = run_sweep(
            session.evaluator(),
            settings,
            axes,
            episodes=session.episodes,
            report=progress.update,
        )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    subject = SweepSubject(session.bundle, session.dataset, settings, where)
    document, table = sweep_json(subject, rows), sweep_markdown(subject, rows)
    title = (
        f"{session.bundle.manifest.name}: {settings.way}-way {settings.shot}-shot, "
        f"{settings.task_count} tasks of {session.dataset.name}"
    )
    width, height = figure_size(rows)
    figure = figure_of(draw_sweep(title, rows), width=width, height=height)
    for name, text in zip(FILES, (document, table), strict=False):
        with writing(folder / name):
            replace_file(folder / name, text.encode())
    write_png(folder / FILES[2], figure)
    return document, table
