"""Choose the settings of the head of `photos` on sets of pictures; measure them on sets left out.

python studies/pictures/choose.py --data DIR [--tasks 100] [--save]

For each set the settings are chosen on all others and measured on its published tasks: the mean is
what other sets may expect. `--save` writes the settings that all sets choose into the package, and
the figures beside this script.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kshot.bundle import RidgeRule, RidgeSettings, cache_folder, prepare, replacing
from kshot.trainer.bundling.torch_encoder import export_encoder
from kshot.trainer.encoders.photos import photos_encoder, photos_input, write_settings
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.ridge_rules import Scores, choose_rule, logits_of, solve
from kshot.trainer.output.progress import Progress
from kshot.trainer.statistics import accuracy_interval
from studies.pictures.measure import read_set_rows
from studies.pictures.sets import PictureSet, draw_tasks, read_archive

Floats = npt.NDArray[np.float64]

WAY, QUERIES = 5, 15
SEED, PUBLISHED_SEED = 1, 0  # settings are not chosen on the tasks that are published
PUBLISHED_TASKS = {1: 300, 5: 300, 20: 100}
SHOTS = (1, 5, 20)
IMAGES_AT_ONCE = 8


class Encoder:
    """The encoder of `photos`; what it encoded before comes from the cache."""

    def __init__(self) -> None:
        module, shape = photos_encoder(), photos_input().shape
        with torch.no_grad():
            parts = module.parts(torch.zeros(1, *shape))
        self.sizes = tuple(part.shape[1] for part in parts)
        content = export_encoder(module, "photos", shape).content
        self._digest = hashlib.sha256(content).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )

    def blocks(self, pictures: PictureSet, name: str) -> Sequence[Floats]:
        """Return the blocks `(n, size)` of all pictures of a set."""
        key = hashlib.sha256(f"{self._digest} {pictures.digest}".encode()).hexdigest()[:32]
        path = cache_folder() / f"features-{key}.npy"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as file:
                np.save(file, self._encode(pictures.pictures, name))
        joined: Floats = np.load(path).astype(np.float64)
        return np.split(joined, np.cumsum(self.sizes)[:-1], axis=1)

    def _encode(self, pictures: Sequence[bytes], name: str) -> npt.NDArray[np.float16]:
        parts = []
        with Progress(f"encoding {name}", "pictures") as progress:
            for start in range(0, len(pictures), IMAGES_AT_ONCE):
                images = prepare(pictures[start : start + IMAGES_AT_ONCE], photos_input())
                (encoded,) = self._session.run(["encoded"], {"images": images})
                parts.append(encoded.reshape(len(images), -1).astype(np.float16))
                progress.update(start + len(images), len(pictures))
        return np.concatenate(parts)


@click.command()
@click.option("--data", "data_folder", required=True, type=click.Path(path_type=Path))
@click.option("--tasks", "task_count", default=100, show_default=True)
@click.option("--save", is_flag=True, help="Write the settings into the package.")
def command(data_folder: Path, task_count: int, save: bool) -> None:
    """Choose and measure."""
    torch.set_num_threads(1)
    encoder = Encoder()
    sets = {
        row.name: read_archive(data_folder / "pictures" / row.source, grouped=bool(row.grouped))
        for row in read_set_rows(table="pictures").values()
    }
    blocks = {name: encoder.blocks(pictures, name) for name, pictures in sets.items()}
    figures, rules = {}, []
    for shot in SHOTS:
        scores, found = {}, {}
        for name, pictures in sets.items():
            with _told(f"{shot}-shot {name}"):
                tasks = draw_tasks(pictures, (WAY, shot, QUERIES), task_count, SEED)
                scores[name] = solve(blocks[name], tasks)
        for name in scores:
            others = [each for other, each in scores.items() if other != name]
            with _told(f"{shot}-shot {name}"):
                drawn = (WAY, shot, QUERIES), PUBLISHED_TASKS[shot], PUBLISHED_SEED
                own = solve(blocks[name], draw_tasks(sets[name], *drawn))
                found[name] = measure(own, choose_rule(others, shot), shot)
                click.echo(f"{shot}-shot {name}: {100 * found[name]['accuracy']:.1f}", err=True)
        mean = float(np.mean([each["accuracy"] for each in found.values()]))
        figures[f"{shot}-shot"] = {"mean": mean, "sets": found}
        click.echo(f"{shot}-shot: {100 * mean:.2f} %, settings chosen on the other sets", err=True)
        rules.append(choose_rule(list(scores.values()), shot))
    if save:
        write_settings(RidgeSettings(encoder.sizes, tuple(rules)))
        path = Path(__file__).parent / "left_out.json"
        tasks_of = {f"{shot}-shot": count for shot, count in PUBLISHED_TASKS.items()}
        document = {"chosen on": task_count, "measured on": tasks_of, **figures}
        path.write_text(json.dumps(document, indent=1) + "\n")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say why a set has no such tasks, and go on."""
    try:
        yield
    except DataError as error:
        click.echo(f"{what}: left out: {error}", err=True)


def measure(scores: Scores, rule: RidgeRule, shot: int) -> dict[str, float]:
    """Return the accuracy of a set's tasks by a rule, with its 95 % half width."""
    right = (logits_of(scores, rule, shot).argmax(dim=2) == scores.labels).sum(dim=1).numpy()
    interval = accuracy_interval(right, len(scores.labels))
    return {"accuracy": interval.mean, "ci95": interval.half_width}


if __name__ == "__main__":
    command()
