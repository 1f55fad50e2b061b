"""Choose the settings of the head of `photos` on sets of pictures; measure them on sets left out.

python studies/pictures/choose.py --data DIR [--tasks 100] [--save]

For each set the settings are chosen on all others and measured on its published tasks: the mean is
what other sets may expect. `--save` writes the settings that all sets choose into the package, and
the figures beside this script.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kshot.bundle import RidgeRule, RidgeSettings
from kshot.local import write_file
from kshot.trainer.bundling.torch_encoder import export_encoder
from kshot.trainer.encoders.photos import photos_encoder, photos_input, write_settings
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.ridge_rules import Scores, choose_rule, logits_of, solve
from kshot.trainer.statistics import accuracy_interval
from studies.pictures.features import FeatureEncoder
from studies.pictures.measure import read_set_rows
from studies.pictures.sets import draw_tasks, read_archive

WAY, QUERIES = 5, 15
SEED, PUBLISHED_SEED = 1, 0  # settings are not chosen on the tasks that are published
PUBLISHED_TASKS = {1: 300, 5: 300, 20: 100}
SHOTS = (1, 5, 20)


def left_out_rules(scores: Mapping[str, Scores], shot: int) -> Iterator[tuple[str, RidgeRule]]:
    """Yield for each set the rule that all others choose."""
    for name in scores:
        yield name, choose_rule([of for other, of in scores.items() if other != name], shot)


@click.command()
@click.option("--data", "data_folder", required=True, type=click.Path(path_type=Path))
@click.option("--tasks", "task_count", default=100, show_default=True)
@click.option("--save", is_flag=True, help="Write the settings into the package.")
def command(data_folder: Path, task_count: int, save: bool) -> None:
    """Choose and measure."""
    torch.set_num_threads(1)
    module, spec = photos_encoder(), photos_input()
    with torch.no_grad():
        sizes = tuple(part.shape[1] for part in module.parts(torch.zeros(1, *spec.shape)))
    encoder = FeatureEncoder(export_encoder(module, "photos", spec.shape).content, spec)
    sets = {
        row.name: read_archive(data_folder / "pictures" / row.source, grouped=bool(row.grouped))
        for row in read_set_rows(table="pictures").values()
    }
    # As float16, which kshot keeps encoded data sets as.
    joined = {name: encoder.of_set(of).astype(np.float16) for name, of in sets.items()}
    cuts = np.cumsum(sizes)[:-1]
    blocks = {name: np.split(of.astype(float), cuts, axis=1) for name, of in joined.items()}
    figures, rules = {}, []
    for shot in SHOTS:
        scores, found, others = {}, {}, {}
        for name, pictures in sets.items():
            with _told(f"{shot}-shot {name}"):
                tasks = draw_tasks(pictures, (WAY, shot, QUERIES), task_count, SEED)
                scores[name] = solve(blocks[name], tasks)
        for name, rule in left_out_rules(scores, shot):
            others[name] = asdict(rule)
            with _told(f"{shot}-shot {name}"):
                drawn = (WAY, shot, QUERIES), PUBLISHED_TASKS[shot], PUBLISHED_SEED
                own = solve(blocks[name], draw_tasks(sets[name], *drawn))
                found[name] = measure(own, rule, shot)
                click.echo(f"{shot}-shot {name}: {100 * found[name]['accuracy']:.1f}", err=True)
        mean = float(np.mean([each["accuracy"] for each in found.values()]))
        figures[f"{shot}-shot"] = {"mean": mean, "sets": found, "rules": others}
        click.echo(f"{shot}-shot: {100 * mean:.2f} %, settings chosen on the other sets", err=True)
        rules.append(choose_rule(list(scores.values()), shot))
    if save:
        write_settings(RidgeSettings(sizes, tuple(rules)))
        path = Path(__file__).parent / "left_out.json"
        tasks_of = {f"{shot}-shot": count for shot, count in PUBLISHED_TASKS.items()}
        document = {"chosen on": task_count, "measured on": tasks_of, **figures}
        write_file(path, (json.dumps(document, indent=1) + "\n").encode())


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
