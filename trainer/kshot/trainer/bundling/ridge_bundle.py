"""A bundle with a head by ridge regression whose rules were chosen on a user's own classes."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kshot.bundle import Bundle, Manifest, Provenance, RidgeSettings, write_bundle
from kshot.trainer.bundling.card import CardWords, counted, model_card
from kshot.trainer.bundling.packaging import library_versions
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.evaluator import Report
from kshot.trainer.evaluate.ridge_rules import Rows, choose_rule, solve
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.tasks.episode_file import TaskShape, draw_episodes
from kshot.trainer.tasks.episodes import EpisodeBatch

RULE_SHOTS, WAY, QUERIES, TASKS, SEED = (1, 5, 20), 5, 15, 100, 1
FEWEST_QUERIES = 3


@dataclass(frozen=True)
class ChoiceTask:
    """One task as `ridge_rules` takes it."""

    support: Rows
    support_labels: Rows
    queries: Rows
    query_labels: Rows


def chosen_shots(fewest: int) -> tuple[int, ...]:
    """Return for which numbers of examples rules are chosen, given the smallest class's pictures.

    Of 1, 5 and 20 those that leave three queries, perhaps none.
    """
    return tuple(shot for shot in RULE_SHOTS if shot + FEWEST_QUERIES <= fewest)


def shots_text(fewest: int) -> str:
    """Name what `chosen_shots` returns, as `1 and 5 examples per class`."""
    *others, last = map(str, chosen_shots(fewest))
    counts = " and ".join([", ".join(others), last] if others else [last])
    return f"{counts} {'examples' if others else 'example'} per class"


def chosen_settings(
    bundle: Bundle, dataset: ImageDataset, pixels: DevicePixels, report: Report
) -> RidgeSettings:
    """Choose the rules of a bundle's head on tasks of a data set, from the bundle's own rules.

    For the numbers of examples that `chosen_shots` names; for others the bundle's own rules stay.
    `pixels` are the data set's encoded images. `report` hears of the numbers of examples done.
    """
    own = bundle.manifest.ridge
    assert own is not None  # noqa: S101 -- its caller chose such a bundle
    features = pixels.images.flatten(1)[:, : bundle.manifest.feature_count].cpu().numpy()
    blocks = np.split(features, np.cumsum(own.block_sizes)[:-1], axis=1)
    fewest, way = _fewest(dataset), min(WAY, dataset.class_count)
    shots = chosen_shots(fewest)
    rules = []
    for shot in RULE_SHOTS:
        start = replace(own.rule(WAY, WAY * shot), max_shot=shot)
        if shot in shots:
            shape = TaskShape(way, shot, min(QUERIES, fewest - shot), TASKS, SEED)
            tasks = _tasks(draw_episodes(dataset, shape).episodes)
            scores = solve(blocks, tasks)
            start = choose_rule([scores], shot, start)
            report(shots.index(shot) + 1, len(shots))
        rules.append(start)
    return RidgeSettings(own.block_sizes, tuple(rules))


def _fewest(dataset: ImageDataset) -> int:
    return int(dataset.class_offsets.diff().min())


def rules_digest(bundle: Bundle, settings: RidgeSettings) -> str:
    """Return what provenance has as a recipe's digest: that of the start and the rules."""
    text = json.dumps(asdict(settings), sort_keys=True)
    return hashlib.sha256(f"{bundle.digest} {text}".encode()).hexdigest()


def manifest_with(
    bundle: Bundle, name: str, data: Data, dataset: ImageDataset, settings: RidgeSettings
) -> Manifest:
    """Return the manifest of a bundle with other rules, without accuracies; data are the user's."""
    return replace(
        bundle.manifest,
        name=name,
        version=1,
        ridge=settings,
        provenance=Provenance(
            recipe=f"rules of {bundle.manifest.name}",
            recipe_digest=rules_digest(bundle, settings),
            algorithm="ridge",
            seed=SEED,
            meta_iterations=0,
            data_digest=dataset.digest,
            split_digest=dataset.split_digest,
            library_versions=library_versions(),
            dataset=data.dataset,
            split=data.split,
            folder=data.folder,
        ),
        evaluation=(),
        calibration=None,
        files={},
    )


def pack_ridge(
    out: Path, bundle: Bundle, manifest: Manifest, dataset: ImageDataset, command: str
) -> Bundle:
    """Write `out/NAME/VERSION`: the bundle's network and encoder behind the manifest's rules.

    `dataset` are the training classes, `command` is what made it. Raises `BundleError` when the
    folder exists or cannot be written.
    """
    templates = {mode: bundle.template_path(mode).read_bytes() for mode in manifest.template_modes}
    card = model_card(CardWords(_introduction(bundle, manifest, dataset), command), manifest)
    encoder = None if bundle.encoder_path is None else bundle.encoder_path.read_bytes()
    weights, tail = bundle.read_weights(), bundle.read_tail()
    return write_bundle(out, manifest, weights, templates, card, encoder=encoder, tail=tail)


def _introduction(bundle: Bundle, manifest: Manifest, dataset: ImageDataset) -> str:
    provenance, own = manifest.provenance, bundle.manifest
    classes = counted(dataset.class_count, "training class", "training classes")
    versions = ", ".join(
        f"{name} {version}" for name, version in provenance.library_versions.items()
    )
    return f"""\
# {manifest.name}, version {manifest.version}

A head by ridge regression behind the encoder of `{own.name}`, version {own.version} \
(`{bundle.digest}`), made by kshot.

- Training: penalty, weights of blocks, evidence and scale, chosen on {TASKS} tasks each for \
{shots_text(_fewest(dataset))}, from the start's own; nothing else is trained.
- Data: {classes} of `{provenance.dataset}` in `{provenance.folder}`, split \
`{provenance.split}`, {counted(dataset.image_count, "image")} in all (digest of the split \
`{provenance.split_digest}`, of the images `{provenance.data_digest}`).
- Made with: {versions}."""


def _tasks(episodes: EpisodeBatch) -> Sequence[ChoiceTask]:
    parts = (
        episodes.support,
        episodes.support_classes,
        episodes.queries,
        episodes.query_classes,
    )
    count = len(episodes)
    return [ChoiceTask(*(part[task].numpy() for part in parts)) for task in range(count)]
