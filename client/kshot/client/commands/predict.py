"""`kshot predict`: the classes of image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kshot.client.commands.folder import check_files
from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    print_table,
    print_warnings,
    server_options,
    timeout_option,
)
from kshot.client.options import choices
from kshot.client.results import Prediction

NONE_OF_THESE = "none of these"


@click.command()
@click.argument("adapted_model", metavar="ID")
@click.argument("images", type=click.Path(path_type=Path), metavar="IMAGE...", nargs=-1)
@server_options()
@click.option("--batch-norm-mode", type=click.Choice(choices("batch_norm_mode")))
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Best classes to show."
)
@click.option(
    "--reject-below",
    type=click.FloatRange(0, 1),
    help="Refuse images whose known score is below this rate of false alarms, such as 0.1.",
)
@timeout_option
@json_option
def command(
    adapted_model: str,
    images: tuple[Path, ...],
    server: Server,
    batch_norm_mode: str | None,
    top: int,
    reject_below: float | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Classify images with the adapted model ID, all in one request."""
    if not images:
        raise click.UsageError("IMAGE: expected at least one, got none")
    check_files(images)
    with server.client(timeout) as client:
        prediction = client.predict(
            adapted_model, images, batch_norm_mode=batch_norm_mode, reject_below=reject_below
        )
    print_warnings(prediction.warnings)
    names = prediction.class_names
    ranked = [rank(names, row.tolist(), top) for row in prediction.probabilities]
    if as_json:
        print_document(document(images, ranked, prediction))
        return
    rows = [
        (
            click.format_filename(image),
            NONE_OF_THESE if refused else best[0][0],
            "-" if refused else f"{best[0][1]:.3f}",
            "-" if score is None else f"{score:.2f}",
            ", ".join(f"{name} {probability:.3f}" for name, probability in best),
        )
        for image, best, refused, score in zip(
            images, ranked, refusals(prediction), known_scores(prediction), strict=True
        )
    ]
    print_table(("file", "label", "probability", "known", f"best {top}"), rows)


def refusals(prediction: Prediction) -> list[bool]:
    """Tell which queries are of none of the classes."""
    refused: list[bool] = prediction.none_of_these.tolist()
    return refused


def known_scores(prediction: Prediction) -> list[float | None]:
    """Return the known scores, None where the adapted model cannot tell."""
    if prediction.known_scores is None:
        return [None] * len(prediction.probabilities)
    scores: list[float | None] = prediction.known_scores.tolist()
    return scores


def rank(names: Sequence[str], probabilities: Sequence[float], top: int) -> list[tuple[str, float]]:
    """Return the `top` best classes and their probabilities, best first."""
    pairs = zip(names, probabilities, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])[:top]


def document(
    images: Sequence[Path], ranked: Sequence[list[tuple[str, float]]], prediction: Prediction
) -> dict[str, object]:
    """Return what the command prints for machines."""
    described = [
        {
            "file": str(image),
            "label": None if refused else best[0][0],
            "probability": best[0][1],
            "known_score": score,
            "top": [{"label": name, "probability": probability} for name, probability in best],
        }
        for image, best, refused, score in zip(
            images, ranked, refusals(prediction), known_scores(prediction), strict=True
        )
    ]
    return {
        "predictions": described,
        "warnings": list(prediction.warnings),
        "timing_ms": prediction.timing.document(),
    }
