"""`kshot predict ID FOLDER`: all images of a folder, scored where its subfolders are classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kshot.client.adapted_model import AdaptedModel
from kshot.client.client import Client
from kshot.client.commands.answers import NONE_OF_THESE, Answer, answers, print_answers
from kshot.client.commands.classify import Answered, Question, Room, classify
from kshot.client.commands.images_below import ImagesBelow, find_images
from kshot.client.commands.options import print_document, print_table, print_warnings
from kshot.client.commands.progress import counting
from kshot.client.commands.score import Score, score
from kshot.client.errors import InputError


def predict_folder(
    client: Client, question: Question, folder: Path, top: int, *, as_json: bool
) -> None:
    """Classify the images of a folder and print the answers, and their score if there is one.

    Exits with 1 if images were refused. Raises `KshotError`.
    """
    found = find_images(folder)
    if not found.files:
        raise InputError(f"{folder}: expected images, got none")
    adapted = client.get(question.adapted_model)
    room = Room.of(client, adapted.description.model)
    got: list[Answer] = []
    refused: dict[Path, str] = {}
    warnings = [*_passed_over(found), *_joined(question, adapted, found, room)]
    with counting("classifying", len(found.files)) as count:
        for part in classify(client, question, found.files, room):
            got += _answers(part, top)
            refused |= part.refused
            if part.prediction is not None:
                warnings += part.prediction.warnings
            count(len(part.files) + len(part.refused))
    got.sort(key=lambda each: each.file)
    pairs, unknown = _pairs(folder, got, adapted.class_names)
    if pairs and unknown:
        names = ", ".join(sorted(unknown))
        warnings.append(f"{folder}: not scored, as the model has no such class: {names}")
    scored = score(adapted.class_names, pairs)
    print_warnings(dict.fromkeys(warnings))
    print_warnings(f"{file}: {why}" for file, why in refused.items())
    if as_json:
        print_document(
            {
                "adapted_model": adapted.id,
                "predictions": [each.document() for each in got],
                "refused": [{"file": str(file), "error": why} for file, why in refused.items()],
                "passed_over": [str(file) for file in found.foreign],
                "score": scored.document() if scored else None,
                "warnings": list(dict.fromkeys(warnings)),
            }
        )
    else:
        print_answers(got, top)
        if scored is not None:
            _print_score(scored)
    if refused:
        click.get_current_context().exit(1)


def _answers(part: Answered, top: int) -> list[Answer]:
    return [] if part.prediction is None else answers(part.files, part.prediction, top)


def _passed_over(found: ImagesBelow) -> list[str]:
    """Name pictures that cannot be sent."""
    if not found.foreign:
        return []
    more = f" and {len(found.foreign) - 1} more" if len(found.foreign) > 1 else ""
    return [f"{found.foreign[0]}{more}: passed over; expected PNG, JPEG or WebP: convert them"]


def _joined(question: Question, adapted: AdaptedModel, found: ImagesBelow, room: Room) -> list[str]:
    """Say that answers depend on the division where they do."""
    mode = question.batch_norm_mode or adapted.description.options.batch_norm_mode
    if mode != "transductive" or len(list(room.batches(found.files))) == 1:
        return []
    return [
        "batch-norm mode transductive: an answer depends on the other images of its request, of "
        "which there are several"
    ]


def _pairs(
    folder: Path, got: Sequence[Answer], class_names: Sequence[str]
) -> tuple[list[tuple[str, str | None]], set[str]]:
    """Return true and predicted class by the subfolders, and the subfolders that are no class."""
    pairs: list[tuple[str, str | None]] = []
    unknown: set[str] = set()
    for each in got:
        parts = each.file.relative_to(folder).parts
        if len(parts) > 1 and parts[0] in class_names:
            pairs.append((parts[0], each.label))
        elif len(parts) > 1:
            unknown.add(parts[0])
    return pairs, unknown


def _print_score(scored: Score) -> None:
    low, high = (f"{100 * end:.1f}" for end in scored.interval)
    sentence = (
        f"accuracy {100 * scored.accuracy:.1f} % ({low} to {high} %, 90 % interval), "
        f"{scored.correct_count} of {scored.count}; columns are what the images are taken for"
    )
    headings = ("class", "right, %", *(name or NONE_OF_THESE for name in scored.predicted_names))
    rows = []
    for name in scored.class_names:
        counts = scored.row(name)
        share = scored.counts[name, name] / sum(counts) if sum(counts) else None
        right = "-" if share is None else f"{100 * share:.1f}"
        rows.append((name, right, *map(str, counts)))
    click.echo(sentence)
    print_table(headings, rows, justify="right")
