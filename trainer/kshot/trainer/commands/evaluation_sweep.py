"""`kshot evaluate --sweep`: from lists on the command line to three files."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import click
import torch

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope, replace_file
from kshot.trainer.commands.evaluation_options import MAX_STEPS
from kshot.trainer.commands.evaluation_request import EvaluateOptions, check_choice
from kshot.trainer.commands.evaluation_session import Session
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.sweep import Axes, run_sweep
from kshot.trainer.output.plotting import check_matplotlib, figure_of, write_png
from kshot.trainer.output.progress import Progress
from kshot.trainer.output.sweep_plot import draw_sweep, figure_size
from kshot.trainer.output.sweep_report import SweepSubject, sweep_json, sweep_markdown

__all__ = ["prepare_sweep", "sweep"]

FILES = ("sweep.json", "sweep.md", "sweep.png")

Word = TypeVar("Word", bound=StrEnum)


def prepare_sweep(options: EvaluateOptions, manifest: Manifest, folder: Path) -> Axes:
    """Read the lists and make the folder, before anything is measured.

    Raises ``UsageError`` for a list with what is no choice or not allowed, or a folder that cannot
    be made; ``TrainingError`` without matplotlib.
    """
    check_matplotlib()
    name = options.bundle_name
    axes = Axes.of(manifest)
    if options.step_counts is not None:
        axes = replace(axes, step_counts=_step_counts(options.step_counts))
    if options.preconditioners is not None:
        allowed = manifest.inner_loop.preconditioners
        words = _words("--preconditioners", options.preconditioners, Preconditioner, allowed, name)
        axes = replace(axes, preconditioners=words)
    if options.heads is not None:
        heads = _words("--heads", options.heads, Head, manifest.head.allowed, name)
        axes = replace(axes, heads=heads)
    if options.scopes is not None:
        scopes = _words("--scopes", options.scopes, Scope, manifest.scope.allowed, name)
        axes = replace(axes, scopes=scopes)
    if options.batch_norm_modes is not None:
        allowed_modes = manifest.batch_norm.allowed
        text = options.batch_norm_modes
        modes = _words("--batch-norm-modes", text, BatchNormMode, allowed_modes, name)
        axes = replace(axes, modes=modes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):  # before an hour is spent on what cannot be kept
            pass
    except OSError as error:
        raise click.UsageError(
            f"--sweep is {folder}, where nothing can be written: {error.strerror}"
        ) from None
    for path in (folder / name for name in FILES):
        if path.is_dir():
            raise click.UsageError(f"--sweep would write {path}, which is a folder")
    return axes


def sweep(session: Session, axes: Axes, folder: Path) -> tuple[str, str]:
    """Run a sweep, write its files to a folder, and return its JSON and its Markdown.

    Raises ``TrainingError`` when the disk does not take a file.
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
        _write(folder / name, text)
    write_png(folder / FILES[2], figure)
    return document, table


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def _step_counts(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    digits = len(str(MAX_STEPS))
    if not all(word.isascii() and word.isdigit() and len(word) <= digits for word in words):
        raise click.UsageError(f"--step-counts is {text!r}, wanted numbers as 0,5,50")
    counts = sorted({int(word) for word in words})
    if counts[-1] > MAX_STEPS:
        raise click.UsageError(f"--step-counts has {counts[-1]}, wanted at most {MAX_STEPS}")
    return tuple(counts)


def _words(
    option: str, text: str, kind: type[Word], allowed: tuple[Word, ...], bundle_name: str
) -> tuple[Word, ...]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        check_choice(option, word, allowed, bundle_name)
    return tuple(kind(word) for word in words)
