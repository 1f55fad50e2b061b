"""Choose the settings of the head of `photos` on sets of pictures; measure them on sets left out.

python studies/pictures/choose.py --data DIR [--tasks 100] [--save]

For each set the settings are chosen on all others and measured on it: the mean of these figures is
what other sets may expect. `--save` writes the settings that all sets choose into the package, and
the figures beside this script.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kshot.bundle import RidgeRule, RidgeSettings, cache_folder, prepare, replacing
from kshot.trainer.bundling.torch_encoder import export_encoder
from kshot.trainer.encoders.photos import photos_encoder, photos_input, write_settings
from kshot.trainer.errors import DataError
from kshot.trainer.output.progress import Progress
from kshot.trainer.statistics import accuracy_interval
from studies.pictures.measure import read_set_rows
from studies.pictures.sets import PictureSet, Task, draw_tasks, read_archive

Floats = npt.NDArray[np.float64]

WAY, QUERIES, SEED = 5, 15, 1  # not the seed of the tasks that are published
SHOTS, PENALTIES, SCALES = (1, 5, 20), (0.03, 0.1, 0.3, 1.0), (1.0, 2.0, 4.0, 8.0)
STEPS, LEARNING_RATE, PULL, QUERIES_AT_ONCE = 80, 0.15, 0.01, 15
IMAGES_AT_ONCE = 8


@dataclass(frozen=True)
class Scores:
    """The scores of T tasks of a set, by each of P penalties and B blocks alone.

    Of m queries `(P, B, T, m, way)`, whose labels are `(m,)` in every task; the losses of left-out
    examples `(P, B, T)`.
    """

    queries: Tensor
    labels: Tensor
    losses: Tensor


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
        scores = {}
        for name, pictures in sets.items():
            try:
                tasks = draw_tasks(pictures, (WAY, shot, QUERIES), task_count, SEED)
            except DataError as error:
                click.echo(f"{shot}-shot {name}: left out: {error}", err=True)
                continue
            scores[name] = solve(blocks[name], tasks)
        found = {name: measure(name, scores, shot) for name in scores}
        mean = float(np.mean([each["accuracy"] for each in found.values()]))
        figures[f"{shot}-shot"] = {"mean": mean, "sets": found}
        click.echo(f"{shot}-shot: {100 * mean:.2f} %, settings chosen on the other sets", err=True)
        rules.append(choose(list(scores.values()), shot))
    if save:
        write_settings(RidgeSettings(encoder.sizes, tuple(rules)))
        path = Path(__file__).parent / "left_out.json"
        path.write_text(json.dumps({"tasks": task_count, **figures}, indent=1) + "\n")


def solve(blocks: Sequence[Floats], tasks: Sequence[Task]) -> Scores:
    """Solve tasks by each block and penalty alone."""
    queries, losses = [], []
    for block in blocks:
        similarities = block @ block.T
        for task in tasks:
            scores, held_out = _ridge(similarities, task)
            queries.append(scores)
            losses.append(_losses(held_out, task))
    shape = len(blocks), len(tasks), len(PENALTIES)
    return Scores(
        torch.tensor(np.array(queries)).float().reshape(*shape, -1, WAY).permute(2, 0, 1, 3, 4),
        torch.from_numpy(tasks[0].query_labels),
        torch.tensor(np.array(losses)).float().reshape(shape).permute(2, 0, 1),
    )


def _ridge(similarities: Floats, task: Task) -> tuple[Floats, Floats]:
    """Return scores of queries `(P, m, way)` and left-out ones `(P, n, way)`, as `ridge_head` does.

    From products of features, by one decomposition for all penalties.
    """
    own = similarities[np.ix_(task.support, task.support)]
    cross = similarities[np.ix_(task.queries, task.support)]
    means, count = own.mean(axis=0), len(own)
    centered = own - means - means[:, None] + means.mean()
    size = max(np.trace(centered) / count, 1e-12)
    values, vectors = np.linalg.eigh(centered / size + 1 / count)
    asked = (cross - cross.mean(axis=1, keepdims=True) - means + means.mean()) / size + 1 / count
    targets = 2 * np.eye(WAY)[task.support_labels] - 1
    projected = vectors.T @ targets
    scores, held_out = [], []
    for penalty in PENALTIES:
        coefficients = vectors @ (projected / (values + penalty)[:, None])
        diagonal = (vectors**2 / (values + penalty)).sum(axis=1)
        scores.append(asked @ coefficients)
        held_out.append(targets - coefficients / diagonal[:, None])
    return np.array(scores), np.array(held_out)


def _losses(held_out: Floats, task: Task) -> Floats:
    logits = np.array(SCALES)[:, None, None, None] * held_out  # (scales, P, n, way)
    logits -= logits.max(axis=-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    own = logs[:, :, np.arange(len(task.support_labels)), task.support_labels]
    losses: Floats = -own.mean(axis=-1).max(axis=0)
    return losses


def choose(sets: Sequence[Scores], shot: int) -> RidgeRule:
    """Choose the rule with the least cross-entropy of queries, where each set counts alike."""
    found = [_choose(sets, shot, index) for index in range(len(PENALTIES))]
    return min(found, key=lambda pair: pair[0])[1]


def _choose(sets: Sequence[Scores], shot: int, penalty: int) -> tuple[float, RidgeRule]:
    """Choose weights, evidence and scale at one penalty by Adam; return the loss and the rule."""
    generator = torch.Generator().manual_seed(0)
    prior = torch.zeros(sets[0].losses.shape[1], requires_grad=True)
    evidence, scale = (torch.tensor(value, requires_grad=True) for value in (0.0, 1.5))
    leaves = [prior, evidence, scale]
    optimizer = torch.optim.Adam(leaves, LEARNING_RATE)
    for _ in range(STEPS):
        asked = torch.randperm(len(sets[0].labels), generator=generator)[:QUERIES_AT_ONCE]
        loss = _mean_loss(sets, shot, penalty, leaves, asked) + PULL * prior.square().mean()
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        optimizer.step()
    with torch.no_grad():
        everything = torch.arange(len(sets[0].labels))
        loss = _mean_loss(sets, shot, penalty, leaves, everything)
    rule = RidgeRule(
        shot,
        PENALTIES[penalty],
        0.0 if shot == 1 else round(evidence.exp().item(), 4),
        round(scale.exp().item(), 4),
        tuple(max(round(weight, 6), 1e-6) for weight in prior.softmax(0).tolist()),
    )
    return loss.item(), rule


def _mean_loss(
    sets: Sequence[Scores], shot: int, penalty: int, leaves: Sequence[Tensor], asked: Tensor
) -> Tensor:
    prior, evidence, scale = leaves
    strength = evidence.exp() * (0 if shot == 1 else shot)
    losses = []
    for each in sets:
        logits = _logits(each, penalty, prior, strength, scale.exp(), asked)
        labels = each.labels[asked].repeat(len(logits))
        losses.append(functional.cross_entropy(logits.flatten(0, 1), labels))
    return torch.stack(losses).mean()


def _logits(
    scores: Scores, penalty: int, prior: Tensor, strength: Tensor, scale: Tensor, asked: Tensor
) -> Tensor:
    """Return logits `(T, m, way)` of the weighted blocks, as `ridge_head` weighs them."""
    weights = (prior.unsqueeze(1) - strength * scores.losses[penalty]).softmax(0)  # (B, T)
    return scale * torch.einsum("bt,btmc->tmc", weights, scores.queries[penalty][:, :, asked])


def measure(name: str, scores: dict[str, Scores], shot: int) -> dict[str, float]:
    """Choose on all other sets; return the accuracy on this one with its 95 % half width."""
    rule = choose([each for other, each in scores.items() if other != name], shot)
    own, penalty = scores[name], PENALTIES.index(rule.penalty)
    prior, strength = torch.tensor(rule.weights).log(), torch.tensor(rule.evidence * shot)
    everything = torch.arange(len(own.labels))
    logits = _logits(own, penalty, prior, strength, torch.tensor(rule.scale), everything)
    right = (logits.argmax(dim=2) == own.labels).sum(dim=1).numpy()
    interval = accuracy_interval(right, len(own.labels))
    click.echo(f"{shot}-shot {name}: {100 * interval.mean:.1f}", err=True)
    return {"accuracy": interval.mean, "ci95": interval.half_width}


if __name__ == "__main__":
    command()
