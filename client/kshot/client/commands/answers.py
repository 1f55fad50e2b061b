"""The answers to files: what `kshot predict` and `kshot watch` print of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from kshot.client.commands.options import print_table
from kshot.client.results import Prediction

NONE_OF_THESE = "none of these"


@dataclass(frozen=True)
class Answer:
    """The best classes of a file with their probabilities, the best first.

    `refused` tells that the file is of none of the classes; `known_score` is None where the
    adapted model cannot tell.
    """

    file: Path
    best: tuple[tuple[str, float], ...]
    refused: bool
    known_score: float | None

    @property
    def label(self) -> str | None:
        """The class of the file, None where it is of none."""
        return None if self.refused else self.best[0][0]

    def document(self) -> dict[str, object]:
        """Return the answer for machines."""
        return {
            "file": str(self.file),
            "label": self.label,
            "probability": self.best[0][1],
            "known_score": self.known_score,
            "top": [{"label": name, "probability": share} for name, share in self.best],
        }


def answers(files: Sequence[Path], prediction: Prediction, top: int) -> list[Answer]:
    """Return the answer to each file, with its `top` best classes."""
    names, count = prediction.class_names, len(files)
    known = prediction.known_scores
    scores: list[float | None] = [None] * count if known is None else known.tolist()
    return [
        Answer(file, rank(names, shares.tolist(), top), bool(refused), score)
        for file, shares, refused, score in zip(
            files, prediction.probabilities, prediction.none_of_these, scores, strict=True
        )
    ]


def rank(
    names: Sequence[str], probabilities: Sequence[float], top: int
) -> tuple[tuple[str, float], ...]:
    """Return the `top` best classes and their probabilities, best first."""
    pairs = zip(names, probabilities, strict=True)
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:top])


def print_answers(found: Iterable[Answer], top: int) -> None:
    """Print answers as a table for people."""
    rows = [
        (
            click.format_filename(each.file),
            each.label or NONE_OF_THESE,
            "-" if each.refused else f"{each.best[0][1]:.3f}",
            "-" if each.known_score is None else f"{each.known_score:.2f}",
            ", ".join(f"{name} {share:.3f}" for name, share in each.best),
        )
        for each in found
    ]
    print_table(("file", "label", "probability", "known", f"best {top}"), rows)
