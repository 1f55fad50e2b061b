"""What the demonstration shows: pictures by class, and the tasks that are drawn from them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from sklearn.datasets import load_digits

from kshot.bundle import ImageError, decode_image
from kshot.client import InputError
from kshot.client.commands.folder import check_files, read_class_folders

WAY, SHOTS, QUERY_COUNT = 5, (1, 5), 10
DIGIT_TASKS, PHOTOGRAPH_TASKS = 20, 10
SIDE, LARGEST_SIDE = 96, 320
SCENES = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "ihc", "moon", "motorcycle_left", "retina", "rocket"),
)


@dataclass(frozen=True)
class Subject:
    """Pictures by class, or their files, and the model that is adapted to them."""

    title: str
    model: str
    classes: Mapping[str, Sequence[Image.Image | Path]]
    task_count: int


@dataclass(frozen=True)
class Task:
    """Labelled examples, and queries with their true labels."""

    support: list[Image.Image]
    labels: list[str]
    queries: list[Image.Image]
    truth: list[str]


def digits() -> Subject:
    """Return scikit-learn's 1,797 digits as they are, 8x8, from 0..16 brought to 0..255."""
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    classes = {
        str(digit): [Image.fromarray(image) for image in images[found.target == digit]]
        for digit in range(10)
    }
    return Subject("digits", "drawings", classes, DIGIT_TASKS)


def scenes() -> Subject:
    """Return squares of 96 pixels, side by side, of pictures in scikit-image's package."""
    folder = Path(skimage.__file__).parent / "data"
    classes = {}
    for name in SCENES:
        (path,) = folder.glob(f"{name}.*")
        picture = decode_image(path.read_bytes())
        corners = (
            (left, top)
            for top in range(0, picture.height - SIDE + 1, SIDE)
            for left in range(0, picture.width - SIDE + 1, SIDE)
        )
        classes[name] = [
            picture.crop((left, top, left + SIDE, top + SIDE)) for left, top in corners
        ]
    return Subject("photographs", "photos", classes, PHOTOGRAPH_TASKS)


def own_pictures(folder: Path) -> Subject:
    """Return a folder's files by class; classes without a query beside 5 examples are left out.

    Raises `SystemExit` with one sentence where that leaves fewer than two, or with other files.
    """
    try:
        files = read_class_folders(folder)
        for remark in files.remarks:
            print(f"warning: {remark}", file=sys.stderr)
        check_files(files.files)
    except InputError as error:
        raise SystemExit(str(error)) from error
    by_class: dict[str, list[Image.Image | Path]] = {}
    for file, label in zip(files.files, files.labels, strict=True):
        by_class.setdefault(label, []).append(file)
    classes = {name: found for name, found in by_class.items() if len(found) > max(SHOTS)}
    if len(classes) < 2:
        raise SystemExit(f"{folder}: expected two classes of {max(SHOTS) + 1} pictures or more")
    return Subject(folder.name, "photos", classes, PHOTOGRAPH_TASKS)


def read(path: Path) -> Image.Image:
    """Decode a picture's file, turned as its camera was held, and reduce it to 320 pixels.

    Raises `SystemExit` with one sentence for a file that is damaged or cannot be read.
    """
    try:
        picture = decode_image(path.read_bytes())
    except (ImageError, OSError) as error:
        reason = error.problems[0].reason if isinstance(error, ImageError) else error.strerror
        raise SystemExit(f"{path}: {reason}") from error
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return picture


def draw_task(subject: Subject, shot: int, seed: int) -> Task:
    """Draw classes, `shot` examples of each, and up to 10 other pictures of each as queries."""
    generator = np.random.default_rng(seed)
    way = min(WAY, len(subject.classes))
    task = Task([], [], [], [])
    for name in sorted(generator.choice(sorted(subject.classes), way, replace=False).tolist()):
        of_class = subject.classes[name]
        order = generator.permutation(len(of_class))[: shot + QUERY_COUNT]
        drawn = [of_class[index] for index in order]
        pictures = [read(one) if isinstance(one, Path) else one for one in drawn]
        task.support.extend(pictures[:shot])
        task.labels.extend([name] * shot)
        task.queries.extend(pictures[shot:])
        task.truth.extend([name] * len(pictures[shot:]))
    return task
